"""AdaWorld's and DreamDojo's latent action autoencoders: what their own code computes, from files as they publish.

The golden values are those of the original on random weights; benchmarks/peer_parity/adaworld.py makes them.
"""

from __future__ import annotations

import argparse
import inspect
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peer_parity.adaworld import FRAMES, SIZES, thin
from peer_parity.comparison import PAIRS, TOLERANCE, random_frames, random_weights
from remote_code import encode_with_remote_code
from safetensors.torch import save_file

from lara_tokenizer.convert import convert_checkpoint
from lara_tokenizer.convert.adaworld import adaworld_shapes
from lara_tokenizer.model import (
    LatentActionModel,
    LatentActionProcessor,
    SpaceTimeVaeConfig,
    SpaceTimeVaeModel,
    load_model,
)

FREQUENCIES = "encoder.transformer_blocks.1.temporal_attn.rotary_embedding.freqs"


def _config(size: str) -> SpaceTimeVaeConfig:
    given = SIZES[size]
    return SpaceTimeVaeConfig(
        image_size=list(FRAMES[size]),
        patch_size=given["patch_size"],
        hidden_size=given["model_dim"],
        num_attention_heads=given["num_heads"],
        num_encoder_layers=given["enc_blocks"],
        num_decoder_layers=given["dec_blocks"],
        codebook_dim=given["latent_dim"],
        strides=["2f", "1f", "4f"] if size == "adaworld" else ["1f", "2f", "3f", "4f"],
    )


def _weights(size: str = "adaworld") -> dict[str, torch.Tensor]:
    return random_weights(adaworld_shapes(_config(size)))


def _file(tensors: dict[str, torch.Tensor], **beside: object) -> dict[str, object]:
    return {"state_dict": {f"lam.{name}": tensor for name, tensor in tensors.items()}, **beside}


def published(size: str) -> dict[str, object]:
    """The content of their file."""
    return _file(_weights(size), epoch=3)


@pytest.fixture(scope="module")
def model(converted) -> SpaceTimeVaeModel:
    return load_model(converted["adaworld"]).eval()


@pytest.fixture(scope="module")
def pairs(converted):
    return LatentActionProcessor.from_pretrained(converted["adaworld"])(*random_frames(*FRAMES["adaworld"]))


@pytest.mark.parametrize("size", SIZES)
def test_z_and_reconstructions_are_the_original_s(converted, golden, size):
    model = load_model(converted[size]).eval()
    pixels = LatentActionProcessor.from_pretrained(converted[size])(*random_frames(*FRAMES[size]))
    with torch.no_grad():
        out = model.encode(**pixels)
        seen = model.decode(pixels["pixel_values"], quantized_latents=out.quantized_latents)
    assert (out.codes, out.code_margin) == (None, None)
    assert out.latents.shape == (PAIRS, 1, SIZES[size]["latent_dim"])
    assert torch.equal(out.quantized_latents, out.latents)
    torch.testing.assert_close(out.latents, golden[f"{size}.latents"], rtol=0, atol=TOLERANCE)
    assert seen.shape == (PAIRS, 3, *FRAMES[size])
    torch.testing.assert_close(thin(seen), golden[f"{size}.reconstruction"], rtol=0, atol=TOLERANCE)


def test_the_golden_pairs_tell_z_apart(golden):
    for size in SIZES:
        latents = golden[f"{size}.latents"].flatten(1)
        assert torch.cdist(latents, latents).fill_diagonal_(1).min() > 100 * TOLERANCE


@pytest.mark.parametrize(("preset", "tensors"), [("adaworld", 567), ("dreamdojo", 839)])
def test_how_many_tensors_the_published_files_have(preset, tensors):
    shapes = adaworld_shapes(getattr(SpaceTimeVaeConfig, preset)())
    assert len(shapes) == tensors
    assert shapes["action_prompt"] == (1, 1, 1, 768)
    assert shapes[FREQUENCIES] == (32,)


@pytest.mark.parametrize("size", SIZES)
def test_sizes_come_from_the_shapes_and_frames_from_the_depth(converted, size):
    expected, found = _config(size), SpaceTimeVaeConfig.from_pretrained(converted[size])
    for name in set(inspect.signature(SpaceTimeVaeConfig).parameters) - {"kwargs"}:
        assert getattr(found, name) == getattr(expected, name), name
    processor = LatentActionProcessor.from_pretrained(converted[size])
    assert (processor.size["height"], processor.size["width"]) == FRAMES[size]
    assert not processor.antialias  # their F.interpolate has none
    assert (processor.crop, processor.image_mean, processor.image_std) == ("center", [0.0] * 3, [1.0] * 3)
    assert processor.resample == {"adaworld": "bicubic", "dreamdojo": "bilinear"}[size]


def test_the_summary_says_what_was_assumed(tmp_path):
    torch.save(_weights("dreamdojo"), tmp_path / "LAM_400k.ckpt")  # names without the wrapper's prefix do as well
    summary = convert_checkpoint(tmp_path, out=tmp_path / "lam")
    assert (summary.layout, summary.vision_encoder, summary.tensors) == ("dreamdojo", "", len(_weights("dreamdojo")))
    assert "240 x 320 px, cropped to 4 : 3 around the centre" in summary.notes[0]
    assert "1 to 4 frames" in summary.notes[1]
    assert "Frames are uint8, rounded after the resize" in summary.notes[2]


def test_names_of_a_compiled_model_are_accepted_and_a_note_names_adaworld_s_overshoots(tmp_path):
    torch.save(_file({f"_orig_mod.{name}": each for name, each in _weights().items()}), tmp_path / "lam.ckpt")
    summary = convert_checkpoint(tmp_path / "lam.ckpt", out=tmp_path / "lam")
    assert summary.layout == "adaworld"
    assert "z by some 10 % of its spread in a clip" in summary.notes[2]
    with pytest.raises(ValueError, match=r"training code\. Leave the image size out"):
        convert_checkpoint(tmp_path / "lam.ckpt", out=tmp_path / "other", image_size=256)


def test_frames_of_another_shape_are_cut_around_the_centre(converted, moving_square):
    processor = LatentActionProcessor.from_pretrained(converted["dreamdojo"])
    clip = torch.from_numpy(moving_square(1, size=328)).permute(0, 3, 1, 2)
    cut = processor(clip)["pixel_values"]
    assert torch.equal(cut, processor(clip[..., 41:287, :])["pixel_values"])
    exact = clip[..., :240, :]  # 240 x 328: nothing is resized
    torch.testing.assert_close(processor(exact)["pixel_values"], exact[..., 4:324] / 255, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t: t.pop("fc.bias"), r"1 of \d+ tensors are missing \(fc.bias\)\. Convert the file as the trainer"),
        (lambda t: t.pop("encoder.ffn.0.weight"), "encoder.ffn.0.weight is missing"),
        (lambda t: t.pop(FREQUENCIES), "1 of .* missing .*freqs"),
        (lambda t: t.update(extra=torch.zeros(1)), r"1 unexpected \(extra\)"),
        (lambda t: t.update({"fc.bias": torch.zeros(7)}), r"bias is \(7,\), expected \(12,\)"),
        (lambda t: t.update({"fc.weight": t["fc.weight"].long()}), "1 not floating point"),
        (lambda t: t[FREQUENCIES].mul_(0.5), r"freqs is not 10000\^\(-2i/16\), the rotation"),
        (lambda t: t.update({"encoder.ffn.0.weight": torch.ones(50)}), "50 values, which is not a square"),
        (lambda t: t.update({"encoder.ffn.0.weight": torch.ones(3 * 60**2)}), r"patch_size \(60\) must divide"),
    ],
    ids=["missing", "size", "constant", "extra", "shape", "integers", "rotation", "patch", "grid"],
)
def test_names_shapes_and_constants_are_exact(refuses, change, match):
    tensors = _weights()
    change(tensors)
    refuses(_file(tensors), match)


def test_a_vision_encoder_is_refused(refuses):
    refuses(_weights(), r"have no vision encoder\. Leave the vision encoder out", vision_encoder="facebook/dinov2-base")


def _resaved(folder: Path, content: object) -> Path:
    """The file that the command in the refusal writes."""
    torch.save(content, folder / "lam's.ckpt")
    with pytest.raises(ValueError, match="holds more than tensors and is refused") as refusal:
        convert_checkpoint(folder / "lam's.ckpt", out=folder / "lam")
    command = str(refusal.value).split("what it contains): ")[1]
    subprocess.run([sys.executable, *shlex.split(command)[1:]], check=True, cwd="/")
    return folder / "lam's-weights.pt"


def test_a_checkpoint_with_objects_is_refused_with_a_command_that_saves_its_weights(tmp_path):
    settings = {"lam_num_heads": 3, "optimizer": argparse.Namespace(lr=1e-4)}
    file = _resaved(tmp_path, _file(_weights(), hyper_parameters=settings))
    assert torch.load(file, weights_only=True)["hyper_parameters"] == {"lam_num_heads": 3}
    assert convert_checkpoint(file, out=tmp_path / "lam").layout == "adaworld"


def test_the_command_handles_missing_settings_namespaces_and_whole_modules(tmp_path):
    class_of_theirs = torch.nn.Linear(2, 2)
    for index, (content, settings) in enumerate(
        [
            ({"state_dict": {"x": torch.ones(1)}, "hyper_parameters": None, "callback": Path("x")}, {}),
            ({"state_dict": {"x": torch.ones(1)}, "hyper_parameters": argparse.Namespace(lr=1)}, {"lr": 1}),
            (class_of_theirs, {}),
        ]
    ):
        (tmp_path / str(index)).mkdir()
        saved = torch.load(_resaved(tmp_path / str(index), content), weights_only=True)
        assert saved["hyper_parameters"] == settings
        assert all(isinstance(each, torch.Tensor) for each in saved["state_dict"].values())


def test_safetensors_are_read_as_well(tmp_path):
    save_file(_weights(), tmp_path / "lam.safetensors")
    assert convert_checkpoint(tmp_path / "lam.safetensors", out=tmp_path / "lam").layout == "adaworld"


@pytest.mark.parametrize("name", ["lam.ckpt", "lam.bin", "pytorch_model.bin", "lam.safetensors", "model.safetensors"])
def test_a_folder_is_as_good_as_its_file(tmp_path, name):
    file = tmp_path / "source" / name
    file.parent.mkdir()
    (save_file if name.endswith("safetensors") else torch.save)(_weights(), file)
    (file.parent / "config.yaml").write_text("model: {lr: 1}")
    (file.parent / "config.json").write_text("{}")
    assert convert_checkpoint(file.parent, out=tmp_path / "lam").layout == "adaworld"


VILLA_X = ("encoder.pe_spatial", "encoder.pe_temporal", "encoder.map_block.latents", "vq.embedding.weight")


@pytest.mark.parametrize("name", ["model.safetensors", "villa-x.pt"])
@pytest.mark.parametrize("folder", [True, False])
def test_villa_x_is_refused_with_the_reason(tmp_path, name, folder):
    file, tensors = tmp_path / "source" / name, {each: torch.zeros(1) for each in VILLA_X}
    file.parent.mkdir()
    (save_file if name.endswith("safetensors") else torch.save)(tensors, file)
    (file.parent / "model_config.json").write_text('{"architecture": "IgorModel", "config": {"d_t": 8}}')
    with pytest.raises(ValueError, match="8-frame windows; frame pairs cannot reproduce them: not supported"):
        convert_checkpoint(file.parent if folder else file, out=tmp_path / "lam")


def test_saving_and_loading_gives_the_same_model(model, saved_and_loaded):
    assert type(saved_and_loaded(model)) is SpaceTimeVaeModel


def test_the_class_of_another_family_names_the_one_that_fits(converted):
    with pytest.raises(
        ValueError, match="'latent_action_space_time_vae'; LatentActionConfig and its model load 'latent_action'"
    ):
        LatentActionModel.from_pretrained(converted["adaworld"])


def test_a_pair_s_latents_do_not_depend_on_its_batch(model, pairs):
    with torch.no_grad():
        whole = model.encode(**pairs).latents
        alone = [model.encode(**{name: frames[row : row + 1] for name, frames in pairs.items()}) for row in range(2)]
    torch.testing.assert_close(torch.cat([out.latents for out in alone]), whole[:2], rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_comes_near(converted, pairs, model, dtype):
    half = load_model(converted["adaworld"], dtype=dtype).eval()
    with torch.no_grad():
        latents = half.encode(**{name: frames.to(dtype) for name, frames in pairs.items()}).latents
        expected = model.encode(**pairs).latents
    assert latents.dtype == dtype
    assert (latents.float() - expected).square().mean() < 0.01 * expected.square().mean()


def test_misuse_is_named(model, pairs):
    frame = pairs["pixel_values"]
    with pytest.raises(ValueError, match="is continuous and has no codes: decode takes quantized_latents"):
        model.decode(frame, codes=torch.zeros(PAIRS, 1, dtype=torch.long))
    with pytest.raises(ValueError, match=r"latent action is \(6, 6\), expected \(batch, 1, 6\)"):
        model.decode(frame, quantized_latents=torch.zeros(PAIRS, 6))
    with pytest.raises(ValueError, match=r"latent action is \(6, 1, 5\), expected \(batch, 1, 6\)"):
        model.quantize(torch.zeros(PAIRS, 1, 5))
    with pytest.raises(ValueError, match=r"expected \(batch, 3, 256, 256\)"):
        model.get_frame_features(torch.zeros(1, 3, 240, 320))
    with pytest.raises(ValueError, match=r"expected \(batch, 64, 3072\)"):
        model.encode(frame_features=torch.zeros(1, 49, 24), future_frame_features=torch.zeros(1, 49, 24))
    with pytest.raises(ValueError, match="gives no attention maps"):
        model.encode(**pairs, output_attentions=True)
    with pytest.raises(NotImplementedError, match="is for inference: use encode and decode"):
        model(**pairs)


def test_a_clip_s_table_has_its_latents_and_no_codes(
    converted, model, moving_square, write_video, decode_all, tmp_path
):
    pytest.importorskip("av")
    pytest.importorskip("pyarrow")
    from lara_tokenizer import encode_episode, load_episodes

    file = write_video(tmp_path / "clip.mp4", moving_square(7, size=96, step=9))
    processor = LatentActionProcessor.from_pretrained(converted["adaworld"])
    table = encode_episode(load_episodes(file)[0], model, processor)
    frames = decode_all(file)
    with torch.no_grad():
        expected = model.encode(**processor(frames[:-2], frames[2:])).latents
    assert table["stride"].unique().to_pylist() == ["2f"]
    assert "codes" not in table.column_names
    found = torch.tensor(table["latents"].to_pylist()).view(5, 1, 6)
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-3)


def test_a_converted_folder_loads_where_this_package_is_not_installed(converted, golden, tmp_path, monkeypatch):
    frames = random_frames(*FRAMES["adaworld"])[:, :2].permute(0, 1, 3, 4, 2).numpy()
    found = encode_with_remote_code(converted["adaworld"], frames, tmp_path, monkeypatch)
    assert (found["codes"], found["num_latents"]) == (None, 1)
    expected = golden["adaworld.latents"][:2]
    torch.testing.assert_close(torch.tensor(found["latents"]), expected, rtol=0, atol=TOLERANCE)
