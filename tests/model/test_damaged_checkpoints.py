"""Checkpoints that are damaged or put together from two: one line that names the file, and never a random weight."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lara_tokenizer import LatentActionModel
from lara_tokenizer.checkpoint import Checkpoint, load_checkpoint
from lara_tokenizer.model import load_model

WEIGHTS, CONFIG, PROCESSOR = "model.safetensors", "config.json", "preprocessor_config.json"
CODEBOOK = "bottleneck.codebook.weight"


@pytest.fixture
def folder(tiny_checkpoint, tmp_path) -> Path:
    """A copy of the tiny checkpoint, called lam."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "lam"))


def _with_header(folder: Path, change: Callable[[dict], object]) -> None:
    """Change the header of the weights: the dictionary, in place, or what is returned instead of it."""
    content = (folder / WEIGHTS).read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    changed = change(header)
    text = changed if isinstance(changed, bytes) else json.dumps(header).encode()
    (folder / WEIGHTS).write_bytes(len(text).to_bytes(8, "little") + text + content[end:])


def _with_tensors(folder: Path, change: Callable[[dict], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def _with_fields(folder: Path, name: str, **fields: object) -> None:
    (folder / name).write_text(json.dumps({**json.loads((folder / name).read_text()), **fields}))


def _check_refused(folder: Path, match: str) -> None:
    with pytest.raises((ValueError, OSError), match=match) as caught:
        load_checkpoint(folder)
    assert "\n" not in str(caught.value)
    assert "lam" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda content: content[: len(content) // 2], "its header describes .* truncated or damaged"),
        (lambda content: content[:-1], "truncated or damaged"),
        (lambda content: content + b"x", "truncated or damaged"),
        (lambda content: content[:100], "its header would be"),
        (lambda content: (2**60).to_bytes(8, "little") + content[8:], "its header would be 1,152,921,504,606,846,976"),
        (lambda content: b"\xff" * 8 + content[8:], "its header would be 18,446,744,073,709,551,615"),
        (lambda content: b"", "of 0 bytes"),
        (lambda content: b"abc", "of 3 bytes"),
        (lambda content: bytes(len(content)), "its header: not JSON"),
        (lambda content: b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer"),
        (lambda content: b"PK\x03\x04" + content, "no safetensors file"),
    ],
)
def test_weights_that_are_no_whole_file_are_refused(folder, change, match):
    (folder / WEIGHTS).write_bytes(change((folder / WEIGHTS).read_bytes()))
    _check_refused(folder, rf"model 'lam': {WEIGHTS}: .*{match}")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda header: b"[" * 50_000, "nested too deeply"),
        (lambda header: b"[1]", r"its header holds \[1\]"),
        (lambda header: header[CODEBOOK].update(dtype="F31"), f"tensor '{CODEBOOK}' in its header cannot be"),
        (lambda header: header[CODEBOOK].update(dtype=["F32"]), "cannot be"),
        (lambda header: header[CODEBOOK].update(shape=[-16, -8]), "cannot be"),
        (lambda header: header[CODEBOOK].update(shape=[2**62, 2**62]), "cannot be"),
        (lambda header: header[CODEBOOK].update(shape=16), "cannot be"),
        (lambda header: header[CODEBOOK].update(data_offsets=[-512, 0]), "cannot be"),
        (lambda header: header[CODEBOOK].update(data_offsets=[0, 2**62]), "cannot be"),
        (lambda header: header[CODEBOOK].update(data_offsets=[0, 512]), "overlap or leave gaps"),
        (lambda header: header.update(more=5), "'more' in its header cannot be"),
    ],
)
def test_a_header_that_contradicts_itself_is_refused(folder, change, match):
    _with_header(folder, change)
    _check_refused(folder, match)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda tensors: tensors.pop(CODEBOOK), rf"describes a model of .* \(without {CODEBOOK}\)"),
        (
            lambda tensors: tensors.update(extra=tensors.pop(CODEBOOK)),
            rf"1 tensor missing \({CODEBOOK}\); 1 tensor that",
        ),
        (lambda tensors: tensors.update(extra=torch.zeros(3)), r"1 tensor that the config has no place for \(extra\)"),
        (lambda tensors: tensors.update({CODEBOOK: torch.zeros(32, 8)}), r"is \(32, 8\), expected \(16, 8\)"),
        (lambda tensors: tensors.update({CODEBOOK: torch.full((16, 8), torch.nan)}), f"not finite .{CODEBOOK}"),
        (lambda tensors: tensors[CODEBOOK].__setitem__((3, 3), torch.inf), f"not finite .{CODEBOOK}"),
        (lambda tensors: tensors.update({CODEBOOK: tensors[CODEBOOK].to(torch.int8)}), f"integers as {CODEBOOK}"),
    ],
)
def test_no_weight_that_is_missing_or_of_another_shape_becomes_a_random_one(folder, change, match):
    _with_tensors(folder, change)
    _check_refused(folder, match)


def test_weights_that_do_not_fit_are_refused_by_every_way_of_loading(folder):
    _with_tensors(folder, lambda tensors: tensors.update(extra=tensors.pop(CODEBOOK)))
    for load in (load_model, LatentActionModel.from_pretrained):
        with pytest.raises(ValueError, match=r"its weights do not fit its config.json"):
            load(folder)
    _, report = LatentActionModel.from_pretrained(folder, output_loading_info=True)
    assert report["missing_keys"] == {CODEBOOK}


def test_weights_in_half_precision_and_shards_still_load(folder):
    _with_tensors(folder, lambda tensors: tensors.update({CODEBOOK: tensors[CODEBOOK].half()}))
    assert load_checkpoint(folder)[0].config.codebook_size == 16
    names = list(load_file(folder / WEIGHTS))
    (folder / WEIGHTS).rename(folder / "model-00001-of-00001.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "model-00001-of-00001.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert load_checkpoint(folder)[0].config.codebook_size == 16
    index["weight_map"][names[0]] = "../../etc/passwd"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    _check_refused(folder, "it names '../../etc/passwd'")


VIT = {"model_type": "vit_mae", "image_size": 32}


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"hidden_size": 10**9}, r"hidden_size \(1000000000\) must be at most"),
        ({"hidden_size": 2**16}, "describes a model of"),
        ({"hidden_size": 8}, "of another shape"),
        ({"hidden_size": -16}, r"hidden_size \(-16\) must be at least 1"),
        ({"hidden_size": "16"}, "hidden_size is '16'; it takes a whole number"),
        ({"hidden_size": [16] * 10**5}, "hidden_size is list"),
        ({"hidden_size": None}, "hidden_size is NoneType"),
        ({"num_m_former_layers": 10**6}, r"num_m_former_layers \(1000000\) must be at most 1,024"),
        ({"num_m_former_layers": 2}, "describes a model of|missing"),
        ({"num_decoder_layers": True}, "num_decoder_layers is True"),
        ({"image_size": 2**16}, "differ|describes"),
        ({"motion_weight": float("nan")}, "motion_weight is nan"),
        ({"freeze_vision_encoder": "no"}, "freeze_vision_encoder is 'no'; it takes true or false"),
        ({"strides": 5}, "strides is a int"),
        ({"strides": ["s" * 10**6]}, "strides holds .* a gap without a unit"),
        ({"vision_config": "vit"}, "vision_config is a str"),
        ({"vision_config": {"model_type": "nosuch"}}, "vision_config .* cannot be used"),
        (
            {"vision_config": {**VIT, "num_hidden_layers": 10**9}},
            r"num_hidden_layers \(1000000000\) must be at most 1,024",
        ),
        (
            {"vision_config": {**VIT, "hidden_act": "os.system"}},
            "fits no model|room",
        ),
        ({"model_type": ["latent_action"]}, r"its model_type is \['latent_action'\]"),
        ({"model_type": "bert"}, "its model_type is 'bert', this takes"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "'quantization_config', which is not taken"),
        ({"attn_implementation": "someone/kernel"}, "'attn_implementation', which is not taken"),
        ({"to_dict": 1}, "'to_dict', which is not taken"),
        ({"num_patches": 5}, "cannot be used"),
        ({"dtype": "os"}, "says dtype 'os'"),
    ],
)
def test_a_config_that_cannot_be_is_refused_and_allocates_nothing(folder, fields, match, capfd):
    _with_fields(folder, CONFIG, **fields)
    _check_refused(folder, match)
    assert "[transformers]" not in capfd.readouterr().err


@pytest.mark.parametrize("name", [CONFIG, PROCESSOR, "model.safetensors.index.json"])
def test_json_that_transformers_cannot_read_is_refused_with_what_to_do(folder, name):
    file = folder / name
    content = file.read_bytes() if file.exists() else b'{"weight_map": {}}'
    file.write_bytes(b"\xef\xbb\xbf" + content)
    _check_refused(folder, rf"{name} begins with a byte order mark, .* Save it without one")


def test_a_config_that_is_a_folder_is_refused(folder):
    (folder / CONFIG).unlink()
    (folder / CONFIG).mkdir()
    _check_refused(folder, "config.json: a folder, not a file")


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"size": 32}, "size is 32; it takes"),
        ({"size": {"height": "32", "width": 32}}, "it takes"),
        ({"size": {"height": 10**9, "width": 10**9}}, "it takes"),
        ({"size": {"shortest_edge": 32}}, "it takes"),
        ({"size": {"height": 64, "width": 64}}, "makes frames of 64 x 64 px, and its config.json says 32 x 32"),
        ({"image_mean": "abc"}, "need 3 numbers each"),
        ({"image_mean": [0, 0, float("nan")]}, "need 3 numbers each"),
        ({"image_std": [0, 1, 1]}, "std above 0"),
        ({"resample": 3}, "resample is '3'"),
        ({"steady_pairs": "yes"}, "steady_pairs is 'yes'; it takes true or false"),
        ({"resize_frames": 1}, "resize_frames is no field of a processor"),
    ],
)
def test_a_processor_that_cannot_be_is_refused(folder, fields, match):
    _with_fields(folder, PROCESSOR, **fields)
    _check_refused(folder, match)


@pytest.mark.parametrize("name", [CONFIG, PROCESSOR])
@pytest.mark.parametrize("content", [b"", b"[" * 50_000, b"[1]", b"\x80\x81", b"{", b'{"x": "\\ud800"}', b"{}"])
def test_settings_that_are_no_json_or_empty_are_refused(folder, name, content):
    (folder / name).write_bytes(content)
    _check_refused(folder, f"model 'lam': ({name}|its model_type is None)")


def test_a_field_that_the_model_was_trained_with_is_no_default(folder):
    fields = json.loads((folder / CONFIG).read_text())
    del fields["num_attention_heads"]
    (folder / CONFIG).write_text(json.dumps(fields))
    _check_refused(folder, "config.json has no 'num_attention_heads'")


def test_other_things_under_a_file_s_name_are_refused_at_once(folder):
    (folder / WEIGHTS).unlink()
    _check_refused(folder, r"the folder has no \*.safetensors")
    os.mkfifo(folder / WEIGHTS)
    _check_refused(folder, f"{WEIGHTS}: a pipe or device")
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to("/nowhere")
    _check_refused(folder, "No such file")
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).mkdir()
    _check_refused(folder, f"{WEIGHTS}: a folder, not a file")


def test_a_pickle_beside_the_weights_is_never_read(folder):
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02cos\nsystem\n.")
    assert Checkpoint.open(folder).codebook_size == 16
    (folder / WEIGHTS).unlink()
    with pytest.raises(OSError, match=r"no file named model.safetensors"):
        load_model(folder)
