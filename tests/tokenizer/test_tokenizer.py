"""The one-object door says what model and processor say, in one call."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from hub_server import HubServer

from lara_tokenizer import LatentActionModel, LatentActionTokenizer, encode_dataset, read_tokens


@pytest.fixture
def tokenizer(tiny_model, tiny_processor):
    return LatentActionTokenizer(tiny_model, tiny_processor)


@pytest.fixture(scope="module")
def clip(tmp_path_factory, moving_square, write_video):
    return write_video(tmp_path_factory.mktemp("clip") / "a.mp4", moving_square(23))


def test_frames_are_paired_with_the_frame_a_stride_later(tokenizer, tiny_model, tiny_processor, moving_square):
    frames = moving_square(12)
    actions = tokenizer(frames, "3f")
    expected = tiny_model.encode(**tiny_processor(frames[:-3], frames[3:]))
    assert np.array_equal(actions.codes, expected.codes.numpy())
    assert actions.latents.shape == expected.latents.shape
    assert actions.future_frame_index.tolist() == list(range(3, 12))
    assert np.isnan(actions.timestamp).all()
    assert repr(actions) == "LatentActions(9 pairs: 4 codes and z (4, 8) each)"


def test_the_default_stride_is_the_model_s_own_where_times_are_given(tokenizer, moving_square):
    frames = moving_square(12)
    assert (tokenizer(frames).future_frame_index - tokenizer(frames).frame_index).tolist() == [1] * 11
    for timed in (tokenizer(frames, fps=10), tokenizer(frames, timestamps=np.arange(12) / 10)):
        assert np.allclose(timed.future_timestamp - timed.timestamp, 0.5)
        assert len(timed) == 7


def test_a_video_gets_the_codes_of_its_table(tokenizer, tiny_checkpoint, clip, tmp_path):
    actions = tokenizer.encode_video(clip, stride="0.5s")
    encode_dataset(clip, tiny_checkpoint, out=tmp_path / "t.parquet", strides="0.5s", columns="latents", workers=0)
    table = read_tokens(tmp_path / "t.parquet").to_pydict()
    assert actions.codes.tolist() == table["codes"]
    assert actions.latents.reshape(len(actions), -1).tolist() == table["latents"]
    for name in ("frame_index", "future_frame_index", "timestamp", "future_timestamp", "code_margin"):
        assert getattr(actions, name).tolist() == table[name]


def test_codes_decode_to_pictures_of_the_model_s_size(tokenizer, tiny_model, tiny_processor, moving_square):
    frames = moving_square(6)
    actions = tokenizer(frames)
    decoded = tokenizer.decode(frames[:-1], actions.codes)
    assert decoded.shape == (5, 32, 32, 3)
    assert decoded.dtype == np.uint8
    own = tiny_model.decode(tiny_processor(frames[:-1])["pixel_values"], codes=torch.from_numpy(actions.codes))
    assert np.array_equal(decoded, tiny_processor.postprocess(own))
    # z is stored in 16 bits, which leaves its codes, and so the prediction, as they are.
    assert np.array_equal(tokenizer.decode(frames[:-1], latents=actions.latents), decoded)
    one = tokenizer.decode(frames[0], actions.codes)
    assert np.array_equal(one[:1], decoded[:1])
    assert np.array_equal(tokenizer.decode(frames[0], actions.codes[0]), decoded[:1])


def test_a_pushed_tokenizer_is_the_one_that_loads(tokenizer, moving_square, tmp_path, monkeypatch):
    import huggingface_hub

    with HubServer(tmp_path) as hub:
        monkeypatch.setattr(huggingface_hub, "HfApi", partial(huggingface_hub.HfApi, endpoint=hub.url))
        address = tokenizer.push_to_hub("acme/lam", token="hf_test")
        assert address.endswith(hub.commit("models", "acme/lam"))
        files = set(hub.files("models", "acme/lam"))
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "modeling_latent_action.py"} <= files
    loaded = LatentActionTokenizer.from_pretrained(tmp_path / "models" / "acme" / "lam")
    assert np.array_equal(loaded(moving_square(6)).codes, tokenizer(moving_square(6)).codes)


def test_a_refused_push_says_what_to_do(tokenizer, tmp_path, monkeypatch):
    import huggingface_hub

    with HubServer(tmp_path) as hub:
        monkeypatch.setattr(huggingface_hub, "HfApi", partial(huggingface_hub.HfApi, endpoint=hub.url))
        with pytest.raises(ValueError, match=r"acme/a/b was not pushed \(.*\). It takes user/name, and an account"):
            tokenizer.push_to_hub("acme/a/b", token="hf_test")


def test_a_dtype_is_that_of_the_whole_tokenizer(tiny_checkpoint, moving_square):
    half = LatentActionTokenizer.from_pretrained(tiny_checkpoint, dtype="bfloat16")
    actions = half(moving_square(6))
    assert actions.codes.shape == (5, 4)
    assert half.decode(moving_square(6)[:-1], actions.codes).dtype == np.uint8
    with pytest.raises(ValueError, match="dtype 'int8': takes float32, bfloat16, float16"):
        LatentActionTokenizer.from_pretrained(tiny_checkpoint, dtype="int8")


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda t, f, _: LatentActionTokenizer(t.processor, t.model), "takes a model and its processor, in this order"),
        (lambda t, f, _: t(f, "0.5s"), "stride '0.5s' needs the times of the frames: give fps, or timestamps"),
        (lambda t, f, _: t(f, fps=10, timestamps=range(6)), "give one of the two"),
        (lambda t, f, _: t(f, timestamps=range(5)), r"timestamps of shape \(5,\) for 6 frames"),
        (lambda t, f, _: t(f, timestamps=[0, 1, 1, 2, 3, 4]), "must increase"),
        (lambda t, f, _: t(f, fps=0), "fps 0: must be above 0"),
        (lambda t, f, _: t(f, "6f"), "6 frames: no pair of frames is 6f apart"),
        (lambda t, f, _: t(f[0]), "1 frames: no pair"),
        (lambda t, f, clip: t.encode_video(clip, "9s"), "a.mp4: no pair of frames is 9s apart"),
        (lambda t, f, clip: t.encode_video(clip, camera="left"), "camera 'left': not there"),
        (lambda t, f, _: t.decode(f), "either codes or latents"),
        (lambda t, f, _: t.decode(f, np.zeros((5, 4), int)), "6 frames and 5 latent actions"),
        (lambda t, f, _: t.decode(f, np.zeros((6, 4))), "codes are torch.float64: takes integers"),
    ],
)
def test_what_does_not_fit_is_named(tokenizer, moving_square, clip, call, match):
    with pytest.raises(ValueError, match=match):
        call(tokenizer, moving_square(6), clip)


def test_a_model_in_memory_stays_where_it_is(tiny_checkpoint, tiny_processor):
    model = LatentActionModel.from_pretrained(tiny_checkpoint).train()
    assert LatentActionTokenizer(model, tiny_processor).model is model
    assert not model.training
