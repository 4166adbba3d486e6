"""LWM's VQGAN encoder: what LAPA's own code computes, from a file as flax writes it, and from no other.

The golden values are those of the original on random weights; benchmarks/peer_parity/lwm_vqgan.py makes them.
"""

from __future__ import annotations

import collections
import json
import os
import pickle
from dataclasses import asdict

import numpy as np
import pytest
import torch
from peer_parity.lwm_vqgan import (
    GOLDEN,
    PIXEL_STEP,
    RESIZED,
    SIZES,
    TOLERANCE,
    nested,
    random_arrays,
    random_frames,
    random_noise,
)
from safetensors import safe_open
from safetensors.torch import load_file

from lara_tokenizer.vision_tokens import LwmVisionTokenizer, LwmVqgan, VqganSizes
from lara_tokenizer.vision_tokens.lwm_pickle import read_arrays
from lara_tokenizer.vision_tokens.lwm_weights import lwm_shapes, their_name
from lara_tokenizer.vision_tokens.resize import square

SMALL = SIZES["small"]


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    return random_arrays(lwm_shapes(SMALL))


@pytest.fixture
def write(tmp_path):
    """write(content) -> the path of its pickle."""

    def dump(content, protocol=4):
        file = tmp_path / "vqgan"
        with file.open("wb") as stream:
            _Pickler(stream, protocol).dump(content)
        return file

    return dump


@pytest.fixture
def small(write, arrays) -> LwmVisionTokenizer:
    return LwmVisionTokenizer.from_pickle(write(nested(arrays)), sizes=SMALL, device="cpu")


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN)


def test_latents_and_codes_are_the_original_s(small, golden):
    frames = random_frames(SMALL.image_size)
    latents = small.latents(frames)
    assert (latents - golden["latents"]).abs().max() <= TOLERANCE * golden["latents"].abs().max()
    assert small(frames).tolist() == golden["codes"].tolist()


def test_the_golden_file_says_what_it_is_of():
    with safe_open(GOLDEN, "pt") as file:
        metadata = file.metadata()
    assert metadata["commit"].startswith("46aca51")
    assert json.loads(metadata["sizes"]) == json.loads(json.dumps(asdict(SMALL)))


@pytest.mark.parametrize(("height", "width"), RESIZED)
def test_pictures_are_resized_as_lapa_s_loader_does_to_the_last_bit(golden, height, width):
    resized = square(torch.from_numpy(random_noise(height, width)), 256)
    assert torch.equal(resized[0, ::PIXEL_STEP, ::PIXEL_STEP], golden[f"resized.{height}"])


def test_a_square_of_the_right_size_stays_and_half_of_one_is_its_mean():
    image = torch.from_numpy(random_noise(64, 64))
    assert torch.equal(square(image, 64), image)
    four = image.reshape(1, 32, 2, 32, 2, 3).int().sum((2, 4))
    assert torch.equal(square(image, 32).int(), (four + 2) // 4)


def test_codes_do_not_turn_on_how_many_frames_come_at_once(small):
    frames = np.concatenate([random_frames(SMALL.image_size, seed) for seed in range(3)])
    one_by_one = np.concatenate([small(frame[None]) for frame in frames])
    assert (small(frames) == one_by_one).mean() > 0.99
    assert small(frames[:0]).shape == (0, SMALL.num_codes)


def test_the_published_sizes_give_256_codes_and_the_names_that_flax_gives():
    shapes = lwm_shapes(VqganSizes())
    assert VqganSizes().num_codes == 256
    assert shapes["quantize/embeddings"] == (8192, 64)
    assert shapes["encoder/DownsamplingBlock_3/ResnetBlock_0/Conv_2/kernel"] == (1, 1, 256, 512)
    assert shapes["encoder/DownsamplingBlock_3/Downsample_0/Conv_0/kernel"] == (3, 3, 512, 512)
    assert "encoder/DownsamplingBlock_4/Downsample_0/Conv_0/kernel" not in shapes
    assert their_name("middle.1.norm_2.bias") == "encoder/MidBlock_0/ResnetBlock_1/GroupNorm_1/bias"


def test_of_entries_that_are_equally_near_the_first_is_taken():
    model = LwmVqgan(SMALL).requires_grad_(False)  # a codebook of zeros
    assert model(torch.zeros(1, 3, 32, 32)).eq(0).all()


class _Named:
    """A function of a module that need not be installed."""

    def __init__(self, module: str, name: str) -> None:
        self.line = f"c{module}\n{name}\n".encode()

    def __call__(self) -> None: ...


class _Call:
    """Pickles as a call of a function."""

    def __init__(self, function: object, *arguments: object) -> None:
        self._parts = function, arguments

    def __reduce__(self):
        return self._parts


class _Pickler(pickle._Pickler):  # type: ignore[name-defined,misc]
    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, _Named):
            self.write(obj.line)
        else:
            super().save(obj, save_persistent_id)


def _of_jax(array: np.ndarray, module: str = "jax._src.array", name: str = "_reconstruct_array") -> _Call:
    make, arguments, state = array.__reduce__()
    return _Call(_Named(module, name), make, arguments, state, {"weak_type": False})


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_plain_arrays_are_read_whatever_the_protocol(write, protocol):
    there = {"a": {"b": np.arange(6, dtype=np.float32).reshape(2, 3)}, "c": np.arange(3, dtype=">f8")}
    there["d"] = np.asfortranarray(np.arange(6, dtype=np.float16).reshape(2, 3))
    read = read_arrays(write(there, protocol))
    assert {name: array.tolist() for name, array in read.items()} == {
        "a/b": [[0, 1, 2], [3, 4, 5]],
        "c": [0, 1, 2],
        "d": [[0, 1, 2], [3, 4, 5]],
    }


@pytest.mark.parametrize("name", [(), ("jax._src.device_array", "reconstruct_device_array")])
def test_frozen_dicts_and_arrays_of_jax_are_read_without_flax_and_jax(write, name):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    content = {"a": collections.OrderedDict(b=_of_jax(array, *name))}
    read = read_arrays(write(_Call(_Named("flax.core.frozen_dict", "FrozenDict"), content)))
    assert list(read) == ["a/b"]
    assert read["a/b"].tolist() == array.tolist()


def _runs(path) -> _Call:
    """Makes a folder when it is loaded."""
    return _Call(os.mkdir, str(path))


def _hidden_in_jax(path) -> _Call:
    return _Call(_Named("jax._src.array", "_reconstruct_array"), os.mkdir, (str(path),), (1, (), None, False, b""), {})


def _hidden_in_objects(path) -> dict:
    return {"a": np.array([_runs(path)], dtype=object)}


@pytest.mark.parametrize("hide", [_runs, lambda path: {"encoder": [_runs(path)]}, _hidden_in_jax, _hidden_in_objects])
def test_a_pickle_that_would_run_something_is_refused_and_runs_nothing(tmp_path, write, hide):
    file = write(hide(tmp_path / "was-run"))
    with pytest.raises(ValueError, match=r"vqgan (names posix.mkdir|holds an array of type 'O8').*and is not read"):
        read_arrays(file)
    assert not (tmp_path / "was-run").exists()


def test_such_a_pickle_does_run_where_it_is_not_refused(tmp_path, write):
    pickle.loads(write(_runs(tmp_path / "was-run")).read_bytes())
    assert (tmp_path / "was-run").exists()


@pytest.mark.parametrize("make", [np.dtype, np.ndarray, collections.OrderedDict])
def test_how_an_array_of_jax_is_made_is_looked_at(write, make):
    call = _Call(_Named("jax._src.array", "_reconstruct_array"), make, (), (), {})
    with pytest.raises(ValueError, match="holds a jax array of another kind"):
        read_arrays(write(call))


def test_a_pickle_of_a_few_bytes_takes_neither_all_memory_nor_all_time(tmp_path):
    memo = tmp_path / "memo"
    memo.write_bytes(b"\x80\x02}r\xff\xff\xff\xff.")  # an empty dict, kept as object number 4,294,967,295
    with pytest.raises(ValueError, match=r"stores its object number 4,294,967,295\. It may do harm"):
        read_arrays(memo)
    level: dict = {}
    for _ in range(12):  # 10^12 dicts, stored as twelve
        level = {str(name): level for name in range(10)}
    bomb = tmp_path / "bomb"
    bomb.write_bytes(pickle.dumps(level))
    with pytest.raises(ValueError, match="more than 10,000 dicts and arrays"):
        read_arrays(bomb)


def test_what_is_no_pickle_of_arrays_is_said(tmp_path, write):
    with pytest.raises(ValueError, match="no such file"):
        read_arrays(tmp_path / "none")
    pointer = tmp_path / "pointer"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match=r"pointer is no whole pickle of weights \(UnpicklingError"):
        read_arrays(pointer)
    whole = write({"a": np.zeros(100, np.float32)})
    whole.write_bytes(whole.read_bytes()[:-50])
    with pytest.raises(ValueError, match="is no whole pickle of weights"):
        read_arrays(whole)
    with pytest.raises(ValueError, match="holds int at 'a/b'"):
        read_arrays(write({"a": {"b": 3}}))
    with pytest.raises(ValueError, match="holds an array of type 'i8', and only floats are taken"):
        read_arrays(write({"a": np.arange(3)}))
    endless: dict = {}
    endless["a"] = endless
    with pytest.raises(ValueError, match="holds dict at 'a/a/a"):
        read_arrays(write(endless))


def test_other_tensors_are_named(write, arrays):
    def load(changed):
        LwmVisionTokenizer.from_pickle(write(nested(changed)), sizes=SMALL, device="cpu")

    bias = "encoder/Conv_1/bias"
    with pytest.raises(ValueError, match=rf"tensor '{bias}' has shape \(7,\), LWM's VQGAN has \(24,\)"):
        load({**arrays, bias: np.zeros(7, np.float32)})
    with pytest.raises(ValueError, match=f"has no tensor '{bias}'"):
        load({name: array for name, array in arrays.items() if name != bias})
    with pytest.raises(ValueError, match="has a tensor 'encoder/AttnBlock_0/bias' that LWM's VQGAN has not"):
        load({**arrays, "encoder/AttnBlock_0/bias": np.zeros(7, np.float32)})
    load({**arrays, "decoder/Conv_0/bias": np.zeros(7, np.float32)})


def test_sizes_and_frames_that_do_not_fit_are_refused(small):
    with pytest.raises(ValueError, match="width 48: takes a multiple of 32"):
        VqganSizes(width=48)
    with pytest.raises(ValueError, match="image_size 36: cannot be halved 4 times"):
        VqganSizes(image_size=36)
    with pytest.raises(ValueError, match=r"frames are float64 \(2, 8, 8, 3\): takes uint8"):
        small(np.zeros((2, 8, 8, 3)))


def test_a_device_that_is_not_here_is_refused_before_the_file_is_read(tmp_path):
    with pytest.raises(ValueError, match="device 'abacus' cannot be used here"):
        LwmVisionTokenizer.from_pickle(tmp_path / "none", device="abacus")


def test_an_unknown_name_lists_the_known_ones():
    import lara_tokenizer.vision_tokens as part

    with pytest.raises(AttributeError, match="it offers LwmVisionTokenizer, LwmVqgan, VqganSizes"):
        part.Vqgan  # noqa: B018
