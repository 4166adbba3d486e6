"""UniVLA's latent action model: what its own code computes, from a file as its trainer writes it.

The golden values are those of the original, DINOv2's own code included, on random weights;
benchmarks/peer_parity/univla.py makes them.
"""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch
from peer_parity.comparison import PAIRS, TOLERANCE, random_frames, random_weights
from peer_parity.univla import IMAGE_SIZE, SIZES, VISION, checkpoint, our_outputs, thin
from remote_code import encode_with_remote_code

from lara_tokenizer.convert import convert_checkpoint
from lara_tokenizer.convert.univla import univla_shapes
from lara_tokenizer.model import LatentActionProcessor, SpaceTimeVqConfig, SpaceTimeVqModel, load_model

DINOV2 = {"model_type": "dinov2_with_registers", "num_register_tokens": 4, "patch_size": 14}


def _config(size: str) -> SpaceTimeVqConfig:
    given, vision = SIZES[size], VISION[size]
    depth = {"image_size": vision["img_size"], "num_hidden_layers": vision["depth"]}
    return SpaceTimeVqConfig(
        vision_config={**DINOV2, "hidden_size": 768, "num_attention_heads": 12, **depth},
        hidden_size=given["model_dim"],
        num_attention_heads=given["num_heads"],
        num_encoder_layers=given["enc_blocks"],
        num_decoder_layers=given["dec_blocks"],
        codebook_size=given["num_latents"],
        codebook_dim=given["latent_dim"],
    )


def _small_weights() -> dict[str, torch.Tensor]:
    """A DINOv2 of width 64, which their class cannot have: for what needs no golden values."""
    vision = {**DINOV2, "hidden_size": 64, "num_attention_heads": 1, "image_size": 28, "num_hidden_layers": 1}
    layers = {"num_encoder_layers": 1, "num_decoder_layers": 1}
    config = SpaceTimeVqConfig(vision_config=vision, hidden_size=64, num_attention_heads=1, codebook_dim=5, **layers)
    return random_weights(univla_shapes(config))


def published(size: str) -> dict[str, object]:
    """The content of their file."""
    return checkpoint(random_weights(univla_shapes(_config(size))), size)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("univla-small")
    torch.save(_small_weights(), folder / "lam-stage-2.ckpt")
    convert_checkpoint(folder, out=folder / "lam")
    return folder / "lam"


@pytest.fixture(scope="module")
def model(small) -> SpaceTimeVqModel:
    return load_model(small).eval()


@pytest.fixture(scope="module")
def features(model):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(2, PAIRS, 256, 64, generator=generator)


@pytest.mark.parametrize("size", SIZES)
def test_codes_z_features_and_predictions_are_the_original_s(converted, golden, size):
    found = our_outputs(converted[size], random_frames(IMAGE_SIZE, IMAGE_SIZE))
    for name, value in found.items():
        expected = golden[f"{size}.{name}"]
        if name.endswith("codes"):
            assert torch.equal(value, expected), name
        else:
            value = thin(value) if name in ("features", "prediction") else value
            torch.testing.assert_close(value, expected, rtol=0, atol=TOLERANCE)


def test_the_golden_pairs_tell_codes_apart(golden):
    assert len(golden["up.codes"].unique(dim=0)) == PAIRS
    assert not torch.equal(golden["up.codes"], golden["up.nuisance_codes"])


def test_the_published_file_has_600_tensors():
    shapes = univla_shapes(SpaceTimeVqConfig())
    assert len(shapes) == 600
    assert sum(name.startswith("dino_encoder.") for name in shapes) == 176
    assert shapes["dino_encoder.pos_embed"] == (1, 37**2 + 1, 768)
    assert shapes["vq_action.codebook.weight"] == shapes["vq.codebook.weight"] == (16, 128)


@pytest.mark.parametrize("size", SIZES)
def test_sizes_come_from_the_shapes_and_heads_from_the_settings(converted, size):
    expected, found = _config(size), SpaceTimeVqConfig.from_pretrained(converted[size])
    for name in set(inspect.signature(SpaceTimeVqConfig).parameters) - {"kwargs", "vision_config"}:
        assert getattr(found, name) == getattr(expected, name), name
    for name in ("hidden_size", "num_attention_heads", "num_hidden_layers", "image_size", "patch_size", "mlp_ratio"):
        assert getattr(found.vision_config, name) == getattr(expected.vision_config, name), name


def test_the_summary_says_what_was_assumed(tmp_path):
    weights = _small_weights()
    torch.save({"state_dict": weights, "hyper_parameters": {"lam_num_heads": 2}}, tmp_path / "lam-stage-2.ckpt")
    summary = convert_checkpoint(tmp_path, out=tmp_path / "lam")
    assert summary.layout == "univla"
    assert summary.vision_encoder.endswith("lam-stage-2.ckpt, dino_encoder.*")
    assert summary.tensors == sum(not name.startswith("dino_encoder.") for name in weights)
    assert summary.sizes["num_attention_heads"] == 2
    model = load_model(tmp_path / "lam")
    assert summary.parameters == sum(
        each.numel() for name, each in model.named_parameters() if not name.startswith("vision_encoder.")
    )
    for part in ("task tokens", "predicts DINOv2 features", "stretched to 224 px", "1 for Ego4D"):
        assert sum(part in note for note in summary.notes) == 1, part
    torch.save(weights, tmp_path / "plain.pt")
    assert "assumed 1, each 64 wide" in convert_checkpoint(tmp_path / "plain.pt", out=tmp_path / "plain").notes[-1]


@pytest.mark.parametrize("heads", ["2", True, 0])
def test_settings_that_name_no_number_of_heads_are_refused(refuses, heads):
    content = {"state_dict": _small_weights(), "hyper_parameters": {"lam_num_heads": heads}}
    refuses(content, f"lam.ckpt: lam_num_heads is {heads!r} in its settings")


def test_frames_are_fed_with_imagenet_statistics(converted):
    processor = LatentActionProcessor.from_pretrained(converted["down"])
    assert processor.size == {"height": 224, "width": 224}
    assert processor.image_mean == [0.485, 0.456, 0.406]
    assert (processor.resample, processor.crop) == ("bicubic", "none")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t: t.update({"lang_proj.weight": torch.zeros(64, 768)}), "stage 1, which also reads the instruction"),
        (lambda t: t.pop("action_latent_controllable"), r"stage 1.*Convert stage 2, lam-stage-2\.ckpt"),
        (lambda t: t.pop("action_up_uncontrol.bias"), r"1 of \d+ tensors are missing \(action_up_uncontrol.bias\)"),
        (lambda t: t.pop("dino_encoder.mask_token"), "missing .*dino_encoder.mask_token"),
        (lambda t: t.pop("dino_encoder.pos_embed"), "pos_embed is missing"),
        (
            lambda t: t.update({"dino_encoder.pos_embed": torch.zeros(1, 0, 64)}),
            r"pos_embed is \(1, 0, 64\), .* not empty",
        ),
        (lambda t: t.update({"dino_encoder.pos_embed": torch.zeros(1, 8, 64)}), "8 tokens of width 64"),
        (lambda t: t.update({"dino_encoder.blocks.0.mlp.w12.weight": torch.zeros(1)}), "1 unexpected .*w12"),
        (lambda t: t.update({"vq.codebook.weight": torch.zeros(1, 5)}), r"nuisance_codebook_size \(1\) must be"),
    ],
    ids=["stage 1", "no task", "missing", "vision", "no positions", "empty", "no square", "another vision", "one code"],
)
def test_names_and_shapes_are_exact(refuses, change, match):
    tensors = _small_weights()
    change(tensors)
    refuses(tensors, match)


def test_a_vision_encoder_is_refused(refuses):
    refuses(_small_weights(), "holds its own DINOv2", vision_encoder="facebook/dinov2-base")


def test_saving_and_loading_gives_the_same_model_with_a_frozen_encoder(model, saved_and_loaded):
    again = saved_and_loaded(model)
    assert type(again) is SpaceTimeVqModel
    frozen = {name for name, parameter in again.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, _ in again.named_parameters() if name.startswith("vision_encoder.")}


def test_the_nuisance_tokens_share_the_sequence_and_so_change_the_latents_of_the_task(model, features):
    now, future = features
    with torch.no_grad():
        before = model.encode(frame_features=now, future_frame_features=future).latents
        tokens = model.nuisance_tokens.clone()
        model.nuisance_tokens.neg_()
        after = model.encode(frame_features=now, future_frame_features=future).latents
        model.nuisance_tokens.copy_(tokens)
    assert (before - after).abs().max() > 100 * TOLERANCE


def test_codes_name_their_vectors_in_a_prediction(model, features):
    now, future = features
    with torch.no_grad():
        out = model.encode(frame_features=now, future_frame_features=future)
        nuisance = model.encode_nuisance(now, future).codes
        by_codes = model.predict_features(now, codes=out.codes, nuisance_codes=nuisance)
        by_vectors = model.predict_features(now, quantized_latents=out.quantized_latents, nuisance_codes=nuisance)
        other = model.predict_features(now, codes=out.codes, nuisance_codes=(nuisance + 1) % 16)
    assert torch.equal(by_codes, by_vectors)
    assert by_codes.shape == now.shape
    assert (by_codes - other).abs().max() > TOLERANCE
    assert (out.code_margin >= 0).all()


def test_misuse_is_named(model, features):
    frame, nuisance = torch.zeros(1, 3, 224, 224), torch.zeros(1, 4, dtype=torch.long)
    with pytest.raises(ValueError, match="predicts the DINOv2 features of the later frame, not its pixels"):
        model.decode(frame, codes=nuisance)
    with pytest.raises(ValueError, match="either codes or quantized_latents"):
        model.predict_features(features[0, :1], nuisance_codes=nuisance)
    with pytest.raises(ValueError, match=r"codes run from 16 to 16"):
        model.predict_features(features[0, :1], codes=nuisance, nuisance_codes=nuisance + 16)
    with pytest.raises(ValueError, match=r"latent action is \(1, 7, 5\), expected \(batch, 4, 5\)"):
        model.predict_features(features[0, :1], codes=torch.zeros(1, 7, dtype=torch.long), nuisance_codes=nuisance)
    with pytest.raises(ValueError, match=r"latent action is \(1, 3, 5\), expected \(batch, 4, 5\)"):
        model.predict_features(features[0, :1], codes=nuisance, nuisance_codes=nuisance[:, :3])
    with pytest.raises(ValueError, match=r"frame features are \(1, 10, 64\), expected \(batch, 256, 64\)"):
        model.predict_features(features[0, :1, :10], codes=nuisance, nuisance_codes=nuisance)
    with pytest.raises(ValueError, match=r"expected \(batch, 3, 224, 224\)"):
        model.get_frame_features(torch.zeros(1, 3, 112, 112))
    with pytest.raises(ValueError, match=r"expected \(batch, 256, 64\)"):
        model.encode(frame_features=features[0, :, :8], future_frame_features=features[1, :, :8])
    with pytest.raises(ValueError, match="gives no attention maps"):
        model.encode(frame_features=features[0], future_frame_features=features[1], output_attentions=True)
    with pytest.raises(NotImplementedError, match="is for inference: use encode and predict_features"):
        model(frame, frame)


def test_what_measures_frames_says_at_once_that_there_are_none(model, small, tmp_path):
    pytest.importorskip("av")
    pytest.importorskip("pyarrow")
    from lara_tokenizer.evaluate import evaluate_checkpoint

    with pytest.raises(ValueError, match="SpaceTimeVqModel predicts no frames"):
        evaluate_checkpoint(model, LatentActionProcessor.from_pretrained(small), tmp_path / "nothing")


def test_a_clip_is_labelled_as_its_pairs_are(small, model, moving_square, write_video, decode_all, tmp_path):
    pytest.importorskip("av")
    pytest.importorskip("pyarrow")
    from lara_tokenizer import encode_episode, load_episodes

    file = write_video(tmp_path / "clip.mp4", moving_square(12, size=48, step=3))
    processor = LatentActionProcessor.from_pretrained(small)
    table = encode_episode(load_episodes(file)[0], model, processor, columns="latents")
    frames = decode_all(file)
    with torch.no_grad():
        expected = model.encode(**processor(frames[:-9], frames[9:]))
    assert table["stride"].unique().to_pylist() == ["9f"]
    assert table["codes"].to_pylist() == expected.codes.tolist()
    found = torch.tensor(table["latents"].to_pylist()).view(3, 4, 5)
    torch.testing.assert_close(found, expected.latents, rtol=0, atol=5e-3)


def test_a_converted_folder_loads_where_this_package_is_not_installed(small, model, tmp_path, monkeypatch):
    frames = random_frames(IMAGE_SIZE, IMAGE_SIZE)[:, :2]
    found = encode_with_remote_code(small, frames.permute(0, 1, 3, 4, 2).numpy(), tmp_path, monkeypatch)
    with torch.no_grad():
        expected = model.encode(**LatentActionProcessor.from_pretrained(small)(*frames))
    assert found["codes"] == expected.codes.tolist()
    torch.testing.assert_close(torch.tensor(found["latents"]), expected.latents, rtol=0, atol=1e-5)
    assert found["num_latents"] == 4
