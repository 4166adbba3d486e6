"""Bad checkpoints are refused in one line that names the fault, and leave nothing behind."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
import yaml
from safetensors.torch import save_file

from lara_tokenizer.convert import convert_checkpoint

CODEBOOK = "vector_quantizer.embedding.weight"


def _refused(source, vision, out, match):
    with pytest.raises(ValueError, match=match):
        convert_checkpoint(source, vision_encoder=vision, out=out)
    assert not out.exists()
    assert not list(out.parent.glob(".*.partial"))


@pytest.mark.parametrize("stated", [True, False], ids=["with settings", "without"])
@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t: t.pop("vq_up_resampler.0.bias"), r"1 of \d+ tensors are missing \(vq_up_resampler.0.bias\)"),
        (lambda t: t.pop(CODEBOOK), rf"tensors are missing \({CODEBOOK}\)"),
        (lambda t: t.update(extra=torch.zeros(1)), r"1 unexpected \(extra\)"),
        (lambda t: t.update({"m_former.layernorm.bias": torch.zeros(25)}), r"bias is \(25,\), expected \(24,\)"),
        (lambda t: t.update({CODEBOOK: t[CODEBOOK].long()}), "1 not floating point"),
        (lambda t: t.update({f"decoder.x{i}": torch.zeros(1) for i in range(9)}), r"9 unexpected .* and 5 more"),
    ],
    ids=["missing", "missing size", "extra", "shape", "integers", "many extra"],
)
def test_names_and_shapes_are_exact(reference, sizes, vision, tmp_path, change, match, stated):
    tensors = reference.tensors_of(sizes)
    change(tensors)
    tree = reference.hydra_tree(sizes) if stated else None
    _refused(reference.write_moto(tmp_path / "moto", tensors, tree), vision, tmp_path / "lam", match)


class _Runs:
    """Unpickling it would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_pickle_that_holds_more_than_tensors_is_refused_and_not_run(moto, vision, tmp_path):
    tensors = torch.load(moto / "pytorch_model.bin", weights_only=True)
    torch.save({**tensors, "optimizer": _Runs(tmp_path / "ran")}, moto / "pytorch_model.bin")
    _refused(moto, vision, tmp_path / "lam", "holds more than tensors and is refused")
    assert not (tmp_path / "ran").exists()


def test_yaml_with_python_tags_is_refused_and_not_run(moto, vision, tmp_path):
    ran = tmp_path / "ran"
    (moto / "config.yaml").write_text(f"m_former: !!python/object/apply:pathlib.Path.touch [{ran}]\n")
    _refused(moto, vision, tmp_path / "lam", "could not determine a constructor .* It is read as data, never run")
    assert not ran.exists()


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("pytorch_model.bin", b"", "damaged or no PyTorch file"),
        ("pytorch_model.bin", b"not a checkpoint", "damaged or no PyTorch file"),
        ("laq.pt", b"hi", "damaged or no PyTorch file"),
        ("laq.pt", b"<!DOCTYPE html>", "damaged or no PyTorch file"),
        ("laq.pt", b"\x80junk", "damaged or no PyTorch file"),
        ("laq.pt", b"PK\x03\x04" + bytes(90), "damaged or no PyTorch file"),
        ("laq.pt", b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer.*: download the file itself"),
        ("a.safetensors", b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer"),
        ("pytorch_model.bin", pickle.dumps([1, 2], protocol=2), "damaged or no PyTorch file"),
        ("model.safetensors", b"not a checkpoint", "damaged or no safetensors file"),
        ("model.safetensors.index.json", b"{}", "has no weight_map"),
        ("model.safetensors.index.json", b"{", "not JSON"),
        (
            "model.safetensors.index.json",
            json.dumps({"weight_map": {"a": "model-00002-of-00002.safetensors"}}).encode(),
            "lacks model-00002-of-00002.safetensors",
        ),
        ("README.md", b"", "holds no weights: looked for model.safetensors"),
    ],
    ids=[
        "empty",
        "text",
        "two bytes",
        "page",
        "junk",
        "cut",
        "pointer",
        "safe pointer",
        "pickle",
        "no safetensors",
        "no weight map",
        "no JSON",
        "shard absent",
        "no weights",
    ],
)
def test_files_that_are_no_checkpoint_say_so(vision, tmp_path, name, content, match):
    source = tmp_path / "source"
    source.mkdir()
    (source / name).write_bytes(content)
    _refused(source, vision, tmp_path / "lam", match)


def test_another_model_s_weights_are_named_as_such(vision, tmp_path):
    (tmp_path / "source").mkdir()
    save_file({"encoder.weight": torch.zeros(1)}, tmp_path / "source" / "model.safetensors")
    match = r"holds no latent motion tokenizer: .*it holds encoder.weight"
    _refused(tmp_path / "source", vision, tmp_path / "lam", match)


def test_several_files_of_weights_are_named(vision, tmp_path):
    (tmp_path / "source").mkdir()
    for name in ("b.ckpt", "a.pt"):
        torch.save({"x": torch.zeros(1)}, tmp_path / "source" / name)
    match = r"holds a\.pt, b\.ckpt: several files of weights\. Name one"
    _refused(tmp_path / "source", vision, tmp_path / "lam", match)


def test_a_checkpoint_of_this_package_is_no_source(tiny_checkpoint, tmp_path):
    for source in (tiny_checkpoint, tiny_checkpoint / "model.safetensors", "lara-lam"):
        _refused(source, None, tmp_path / "lam", r"is a checkpoint of this package already \(latent_action\)")


def test_a_frame_size_goes_with_lapa_only(moto, vision, tmp_path):
    with pytest.raises(ValueError, match=r"record the size of frames\. Leave the image size out"):
        convert_checkpoint(moto, vision_encoder=vision, out=tmp_path / "lam", image_size=224)


def test_a_nested_training_state_is_no_state_dict(moto, vision, tmp_path):
    tensors = torch.load(moto / "pytorch_model.bin", weights_only=True)
    torch.save({"model": tensors, "epoch": 3}, moto / "pytorch_model.bin")
    _refused(moto, vision, tmp_path / "lam", "is not a plain state dict")
    torch.save({1: torch.zeros(1)}, tmp_path / "numbered.pt")
    _refused(tmp_path / "numbered.pt", None, tmp_path / "lam", "is not a plain state dict")


def test_a_source_that_does_not_exist_says_how_to_get_one(vision, tmp_path):
    _refused(tmp_path / "absent", vision, tmp_path / "lam", "absent: no such file or folder. Download a published")


def _set(tree, path, value):
    *parents, last = path.split(".")
    for name in parents:
        tree = tree[name]
    tree[last] = value


@pytest.mark.parametrize(
    ("path", "value", "match"),
    [
        ("m_former.config.hidden_act", "relu", "hidden_act is 'relu'; only 'gelu'"),
        ("decoder.config.query_fusion_mode", "concat", "query_fusion_mode is 'concat'; only 'add'"),
        ("decoder.config.use_mask_token", True, "use_mask_token is True"),
        ("m_former.config.hidden_size", "${oc.env:W}", "hidden_size is .* expected a number"),
        ("m_former.config.num_attention_heads", 5, r"num_attention_heads \(5\) must divide hidden_size \(24\)"),
        ("m_former.config.num_hidden_layers", 3, r"16 of \d+ tensors are missing \(m_former.encoder.layer.2"),
        ("decoder.config.layer_norm_eps", 1e-6, "layer_norm_eps of the M-Former and the decoder differ"),
        ("vector_quantizer.remap", "used.npy", "remapped codes cannot be converted"),
        ("vector_quantizer", [1], r"vector_quantizer is \[1\]"),
        ("hidden_state_decoder", {"_target_": "x"}, "hidden_state_decoder cannot be converted"),
    ],
)
def test_settings_that_this_model_does_not_have_are_refused(reference, sizes, vision, tmp_path, path, value, match):
    tree = reference.hydra_tree(sizes)
    _set(tree, path, value)
    source = reference.write_moto(tmp_path / "moto", reference.tensors_of(sizes), tree)
    _refused(source, vision, tmp_path / "lam", match)


def test_settings_that_are_no_table_are_refused(moto, vision, tmp_path):
    (moto / "config.yaml").write_text(yaml.safe_dump(["a", "list"]))
    _refused(moto, vision, tmp_path / "lam", "holds list, expected a table of settings")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (
            {"hidden_size": 24, "num_attention_heads": 2},
            r"has width 24, but this tokenizer's M-Former reads 20.*config.yaml names 'somebody/vit-mae-tiny'",
        ),
        ({"patch_size": 8}, r"gives 17 tokens per frame \(32 px, patch 8\), .* has positions for 5"),
        ({"image_size": 64, "patch_size": 32}, r"vision_config.image_size \(64\) and image_size \(32\) differ"),
    ],
    ids=["width", "tokens", "image"],
)
def test_an_encoder_of_other_sizes_is_refused(moto, vision_folder, sizes, tmp_path, changes, match):
    _refused(moto, vision_folder(sizes, **changes), tmp_path / "lam", match)


def test_an_encoder_with_a_parameter_missing_is_refused(moto, vision_folder, sizes, tmp_path):
    from safetensors.torch import load_file

    folder = vision_folder(sizes)
    tensors = load_file(folder / "model.safetensors")
    del tensors["layernorm.bias"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    _refused(moto, folder, tmp_path / "lam", r"1 parameters are not in its files, or .* \(layernorm.bias\)")


def test_without_an_encoder_the_error_names_the_one_in_the_settings(moto, tmp_path):
    _refused(moto, None, tmp_path / "lam", "--vision-encoder .*names 'somebody/vit-mae-tiny'")


def test_a_folder_without_an_encoder_is_no_encoder(moto, tmp_path):
    (tmp_path / "empty").mkdir()  # transformers reads an MPT model out of that name
    _refused(moto, tmp_path / "empty", tmp_path / "lam", "cannot be loaded .the folder has no config.json")


def test_another_kind_of_model_is_no_encoder(moto, tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    _refused(moto, tmp_path / "text", tmp_path / "lam", "a bert is not a vision transformer: it has no image_size")


@pytest.mark.parametrize(
    ("content", "match"),
    [("{", "cannot be loaded"), ('{"model_type": "no-such-model"}', "cannot be loaded")],
    ids=["no JSON", "unknown"],
)
def test_an_unreadable_encoder_config_is_named(moto, tmp_path, content, match):
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.json").write_text(content)
    _refused(moto, tmp_path / "odd", tmp_path / "lam", match)


def test_a_full_target_is_not_written_over(moto, vision, tmp_path):
    (tmp_path / "lam").mkdir()
    (tmp_path / "lam" / "precious").write_text("mine")
    with pytest.raises(ValueError, match="exists already and is not an empty folder"):
        convert_checkpoint(moto, vision_encoder=vision, out=tmp_path / "lam")
    assert [file.name for file in (tmp_path / "lam").iterdir()] == ["precious"]


def test_an_empty_target_is_taken(moto, vision, tmp_path):
    (tmp_path / "lam").mkdir()
    convert_checkpoint(moto, vision_encoder=vision, out=tmp_path / "lam")
    assert (tmp_path / "lam" / "model.safetensors").is_file()


def test_shapes_that_no_check_foresaw_are_refused_with_the_file(monkeypatch, tmp_path):
    import lara_tokenizer.convert.convert as module
    from lara_tokenizer.convert.base import Family

    monkeypatch.setattr(module, "FAMILIES", (Family("somebody's model", bool, lambda state, options: 1 // 0),))
    torch.save({"x": torch.zeros(1)}, tmp_path / "odd.pt")
    match = r"odd\.pt: its tensors have names of somebody's model, but shapes that do not fit .* \(ZeroDivisionError"
    _refused(tmp_path / "odd.pt", None, tmp_path / "lam", match)
