"""LAPA's latent action quantizer: what its own code computes, from a file as its trainer writes it.

The golden values are those of the original on random weights; benchmarks/peer_parity/lapa.py makes them.
"""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from peer_parity.comparison import TOLERANCE
from peer_parity.lapa import GOLDEN_IMAGES, REPAIRED, SIZES, random_frames, random_weights
from PIL import Image
from remote_code import encode_with_remote_code
from safetensors.torch import load_file, save_file

from lara_tokenizer import LatentActionModel, LatentActionProcessor, load_model
from lara_tokenizer.convert import convert_checkpoint
from lara_tokenizer.convert.lapa import lapa_shapes
from lara_tokenizer.model import LaqConfig, LaqModel

CODEBOOK = "vq.codebooks"
SECOND_CONVOLUTION = "vq.cnn_encoder.2.weight"


def _config(size: str) -> LaqConfig:
    given = SIZES[size]
    return LaqConfig(
        image_size=given["image_size"],
        patch_size=given["patch_size"],
        hidden_size=given["dim"],
        intermediate_size=int(4 * (2 / 3) * given["dim"]),
        num_attention_heads=given["heads"],
        attention_head_size=given["dim_head"],
        num_spatial_layers=given["spatial_depth"],
        num_temporal_layers=given["temporal_depth"],
        num_latents=given["code_seq_len"],
        codebook_size=given["codebook_size"],
        codebook_dim=given["quant_dim"],
    )


def _weights(size: str = "four") -> dict[str, torch.Tensor]:
    return random_weights(lapa_shapes(_config(size)))


def _small_weights(image_size: int, patch_size: int, num_latents: int) -> dict[str, torch.Tensor]:
    small = {"hidden_size": 8, "intermediate_size": 21, "num_attention_heads": 2, "attention_head_size": 4}
    layers = {"num_spatial_layers": 1, "num_temporal_layers": 1, "codebook_dim": 4}
    config = LaqConfig(image_size=image_size, patch_size=patch_size, num_latents=num_latents, **small, **layers)
    return random_weights(lapa_shapes(config))


def published(size: str) -> dict[str, torch.Tensor]:
    """The content of their file."""
    return {f"module.{name}": tensor for name, tensor in _weights(size).items()}


@pytest.fixture(scope="module")
def four(converted) -> LaqModel:
    return load_model(converted["four"]).eval()


@pytest.fixture(scope="module")
def pairs(converted):
    """The golden frames, as the processor gives them."""
    processor = LatentActionProcessor.from_pretrained(converted["four"])
    return processor(*random_frames(SIZES["four"]["image_size"]))


@pytest.mark.parametrize("field", ["published", *REPAIRED])
@pytest.mark.parametrize("size", SIZES)
def test_codes_latents_and_reconstructions_are_the_original_s(converted, golden, size, field):
    changes = {} if field == "published" else {field: REPAIRED[field]}
    model = load_model(converted[size], **changes).eval()
    now, future = random_frames(SIZES[size]["image_size"])
    pixels = LatentActionProcessor.from_pretrained(converted[size])(now, future)
    with torch.no_grad():
        out = model.encode(**pixels)
        seen = model.decode(pixels["pixel_values"][:GOLDEN_IMAGES], codes=out.codes[:GOLDEN_IMAGES])
    assert torch.equal(out.codes, golden[f"{size}.{field}.codes"])
    torch.testing.assert_close(out.latents, golden[f"{size}.{field}.latents"], rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(seen, golden[f"{size}.{field}.reconstruction"], rtol=0, atol=TOLERANCE)


def test_what_each_quirk_changes(golden):
    for field, changes_codes in (("key_value_input", True), ("temporal_layout", True), ("latent_layout", False)):
        same = torch.equal(golden["four.published.codes"], golden[f"four.{field}.codes"])
        assert same != changes_codes
    images = golden["four.published.reconstruction"] - golden["four.latent_layout.reconstruction"]
    assert images.abs().max() > 0.1


def test_the_published_file_has_493_tensors():
    shapes = lapa_shapes(LaqConfig())
    assert len(shapes) == 493
    assert shapes[CODEBOOK] == (8, 32)
    assert shapes["enc_spatial_transformer.layers.7.1.null_kv"] == (16, 0, 64)


@pytest.mark.parametrize("size", SIZES)
def test_sizes_come_from_the_shapes(converted, size):
    expected, found = _config(size), LaqConfig.from_pretrained(converted[size])
    for name in set(inspect.signature(LaqConfig).parameters) - {"kwargs"}:
        assert getattr(found, name) == getattr(expected, name), name


def test_the_summary_says_what_was_assumed(tmp_path):
    torch.save(_weights(), tmp_path / "laq_openx.pt")
    summary = convert_checkpoint(tmp_path, out=tmp_path / "laq")
    assert (summary.layout, summary.vision_encoder) == ("lapa", "")
    unused = 3 * (2 * SIZES["four"]["spatial_depth"] + SIZES["four"]["temporal_depth"])
    assert summary.tensors == len(_weights()) - unused
    assert "32 px, 8 x 8 patches of 4" in summary.notes[0]
    assert "so 4 codes per pair" in summary.notes[0]
    assert "The file also fits 16 codes of 64 px. If it was trained on another size" in summary.notes[0]
    assert "strides is 0.6s" in summary.notes[1]
    assert summary.sizes["num_latents"] == 4


@pytest.mark.parametrize(("patch", "side", "count"), [(16, 16, 64), (8, 32, 256)])
def test_of_two_counts_of_codes_the_one_for_frames_of_256_px_is_chosen(tmp_path, patch, side, count):
    torch.save(_small_weights(side * patch, patch, count), tmp_path / "laq.pt")
    assert convert_checkpoint(tmp_path / "laq.pt", out=tmp_path / "laq").sizes["num_latents"] == count
    assert LaqConfig.from_pretrained(tmp_path / "laq").image_size == 256


@pytest.mark.parametrize(("count", "patch", "size"), [(4, 16, 128), (16, 32, 512), (4, 32, 224)])
def test_a_given_size_decides(tmp_path, count, patch, size):
    torch.save(_small_weights(size, patch, count), tmp_path / "laq.pt")
    summary = convert_checkpoint(tmp_path / "laq.pt", out=tmp_path / "laq", image_size=size)
    found = LaqConfig.from_pretrained(tmp_path / "laq")
    assert (found.num_latents, found.image_size) == (count, size)
    assert not any("how large frames are" in note for note in summary.notes)
    with pytest.raises(ValueError, match=f"frames of 96 px do not fit its patches of {patch} px"):
        convert_checkpoint(tmp_path / "laq.pt", out=tmp_path / "other", image_size=96)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            lambda t: t["vq.project_in.bias"].fill_(torch.nan),
            r"1 hold numbers that are not finite \(vq.project_in.bias\)",
        ),
        (
            lambda t: t.update({"to_patch_emb_first_frame.1.weight": torch.zeros(0)}),
            r"is \(0,\), a tensor of 1 .* empty",
        ),
        (lambda t: t.update({"module.vq.project_in.bias": torch.zeros(6)}), "holds one tensor twice, as vq.project_in"),
        (lambda t: t.pop("vq.project_out.bias"), r"1 of \d+ tensors are missing \(vq.project_out.bias\)"),
        (lambda t: t.pop("to_patch_emb_first_frame.1.weight"), "to_patch_emb_first_frame.1.weight is missing"),
        (lambda t: t.pop("dec_spatial_transformer.layers.1.2.null_kv"), "missing .*layers.1.2.null_kv"),
        (lambda t: t.update(extra=torch.zeros(1)), r"1 unexpected \(extra\).* latent action quantizer alone"),
        (lambda t: t.update({"vq.project_in.bias": torch.zeros(7)}), r"bias is \(7,\), expected \(6,\)"),
        (lambda t: t.update({CODEBOOK: torch.zeros(16)}), rf"{CODEBOOK} is \(16,\), a tensor of 2 dimensions"),
        (lambda t: t.update({CODEBOOK: t[CODEBOOK].long()}), "1 not floating point"),
        (lambda t: t.update({SECOND_CONVOLUTION: torch.zeros(6, 6, 2, 4)}), r"kernel of \(2, 4\), .*1, 2, 4 and 16"),
        (lambda t: t.update({"to_patch_emb_first_frame.1.weight": torch.ones(50)}), "50 values, which is not a square"),
        (lambda t: t.update({CODEBOOK: torch.zeros(1, 6)}), r"codebook_size \(1\) must be at least 2"),
    ],
    ids=[
        "not finite",
        "empty",
        "twice",
        "missing",
        "size",
        "null",
        "extra",
        "shape",
        "flat",
        "integers",
        "codes",
        "patch",
        "one code",
    ],
)
def test_names_and_shapes_are_exact(refuses, change, match):
    tensors = _weights()
    change(tensors)
    refuses(tensors, match)


def test_a_vision_encoder_is_refused(refuses):
    refuses(_weights(), r"has no vision encoder\. Leave the vision encoder out", vision_encoder="facebook/dinov2-base")


def test_saving_and_loading_gives_the_same_model(four, saved_and_loaded):
    assert type(saved_and_loaded(four)) is LaqModel


def test_a_tensor_lost_from_the_weights_is_refused_and_starts_as_documented_on_request(converted, tmp_path):
    weights = load_file(converted["four"] / "model.safetensors")
    lost = ("decoder.layers.0.attention.query_scale", "decoder.layers.0.context_attention.norm_context.bias")
    for name in lost:
        del weights[name]
    (tmp_path / "config.json").write_text((converted["four"] / "config.json").read_text())
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"2 tensors missing \({lost[0]}, {lost[1]}\)"):
        load_model(tmp_path)
    model, report = load_model(tmp_path, output_loading_info=True)
    assert set(report["missing_keys"]) == set(lost)
    state = model.state_dict()
    assert torch.equal(state[lost[0]], torch.ones(8))
    assert not state[lost[1]].any()


def test_the_class_of_another_family_names_the_one_that_fits(converted):
    with pytest.raises(ValueError, match="'latent_action_laq'; LatentActionConfig and its model load 'latent_action'"):
        LatentActionModel.from_pretrained(converted["four"])


def test_a_pair_s_latents_do_not_depend_on_its_batch(four, pairs):
    with torch.no_grad():
        whole = four.encode(**pairs)
        alone = [four.encode(**{name: frames[row : row + 1] for name, frames in pairs.items()}) for row in range(6)]
    assert torch.equal(torch.cat([out.codes for out in alone]), whole.codes)
    torch.testing.assert_close(torch.cat([out.latents for out in alone]), whole.latents, rtol=0, atol=1e-5)


def test_z_of_a_still_pair_is_zero_only_without_layers_that_see_both_frames(four, pairs):
    """The two frames' tokens differ by what the convolutions over time add to the later one's."""
    still = {"pixel_values": pairs["pixel_values"], "future_pixel_values": pairs["pixel_values"]}
    blind = LaqModel(LaqConfig(**{**four.config.to_dict(), "temporal_layout": "grid"})).eval()
    blind.load_state_dict(four.state_dict())
    with torch.no_grad():
        for layer in (*blind.spatial_encoder.layers, *blind.temporal_encoder.layers):
            layer.positions.convolution.weight[:, :, 1] = 0
        torch.testing.assert_close(blind.encode(**still).latents, torch.zeros(6, 4, 6), rtol=0, atol=1e-5)
        assert four.encode(**still).latents.abs().max() > 0.1


def test_in_bfloat16_codes_of_near_still_pairs_would_be_others(converted, pairs, four):
    pytest.importorskip("pyarrow")
    from lara_tokenizer.encode.model_runner import ModelRunner

    now = pairs["pixel_values"]
    near = now.clone()
    near[..., 8:12, 8:12] = 1 - near[..., 8:12, 8:12]
    half = load_model(converted["four"], dtype=torch.bfloat16).eval()
    with torch.no_grad():
        codes, moved = four.encode(now, near).codes, half.encode(now.bfloat16(), near.bfloat16()).codes
    assert (codes != moved).any()
    processor = LatentActionProcessor.from_pretrained(converted["four"])
    for dtype in (torch.bfloat16, torch.float16):
        with pytest.raises(ValueError, match=f"LaqModel labels in float32 only, and this is {str(dtype)[6:]}"):
            ModelRunner(load_model(converted["four"], dtype=dtype).eval(), processor)
    ModelRunner(four, processor)


def test_another_dtype_is_refused_before_anything_is_written(converted, moving_square, write_video, tmp_path):
    pytest.importorskip("av")
    pytest.importorskip("pyarrow")
    from lara_tokenizer import encode_dataset

    file = write_video(tmp_path / "clip.mp4", moving_square(12, size=48, step=3))
    with pytest.raises(ValueError, match="LaqModel labels in float32 only, and this is bfloat16"):
        encode_dataset(file, converted["four"], out=tmp_path / "tokens.parquet", dtype="bfloat16", workers=0)
    assert [each.name for each in tmp_path.iterdir()] == ["clip.mp4"]


def test_decoding_codes_is_decoding_their_vectors(four, pairs):
    with torch.no_grad():
        out = four.encode(**pairs)
        by_codes = four.decode(pairs["pixel_values"], codes=out.codes)
        by_vectors = four.decode(pairs["pixel_values"], quantized_latents=out.quantized_latents)
    assert torch.equal(by_codes, by_vectors)
    assert by_codes.shape == pairs["pixel_values"].shape
    assert out.code_margin.shape == out.codes.shape
    assert (out.code_margin >= 0).all()


def test_misuse_is_named(four, pairs):
    frame = pairs["pixel_values"]
    with pytest.raises(ValueError, match="either codes or quantized_latents"):
        four.decode(frame)
    with pytest.raises(ValueError, match=r"codes run from 0 to 16, this codebook has 0 to 15"):
        four.decode(frame[:1], codes=torch.tensor([[0, 1, 2, 16]]))
    with pytest.raises(ValueError, match=r"latent action is \(1, 4, 9\), expected \(batch, 4, 6\)"):
        four.quantize(torch.zeros(1, 4, 9))
    with pytest.raises(ValueError, match=r"latent action is \(1, 6, 4\), expected \(batch, 4, 6\)"):
        four.decode(frame[:1], quantized_latents=torch.zeros(1, 6, 4))
    with pytest.raises(ValueError, match=r"expected \(batch, 3, 32, 32\)"):
        four.get_frame_features(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ValueError, match=r"expected \(batch, 64, 24\)"):
        four.encode(frame_features=torch.zeros(1, 49, 24), future_frame_features=torch.zeros(1, 49, 24))
    with pytest.raises(ValueError, match="no queries whose attention"):
        four.encode(**pairs, output_attentions=True)
    with pytest.raises(NotImplementedError, match="is for inference: use encode and decode"):
        four(**pairs)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"num_latents": 3}, r"num_latents \(3\) is one of 1, 2, 4, 16, 64, 256"),
        ({"num_latents": 16}, r"does not fit 8 x 8 patches .* leave 2 x 2 places. 16 x 16 patches fit"),
        ({"patch_size": 128}, r"does not fit 2 x 2 patches .* leave nothing"),
        ({"patch_size": 24}, r"patch_size \(24\) must divide image_size \(256\)"),
        ({"hidden_size": 0}, r"hidden_size \(0\) must be at least 1"),
        ({"temporal_layout": "mixed"}, "temporal_layout is 'mixed'; it takes 'folded' or 'grid'"),
        ({"strides": []}, "strides is empty"),
        ({"strides": ["5"]}, "a gap without a unit"),
    ],
)
def test_a_config_that_cannot_be_is_refused(fields, match):
    with pytest.raises(ValueError, match=match):
        LaqConfig(**fields)


def test_a_fresh_model_starts_as_the_table_says():
    torch.manual_seed(0)
    model = LaqModel(_config("four"))
    layer = model.decoder.layers[0]
    assert torch.equal(layer.attention.key_scale, torch.ones(8))
    assert abs(layer.context_attention.null.std().item() - 1) < 0.2
    assert abs(model.bottleneck.codebook.weight.std().item() - 1) < 0.2
    for module in (layer.attention.to_query, layer.positions.convolution, model.to_latents.convolution):
        bound = module.weight[0].numel() ** -0.5
        assert 0.9 * bound < module.weight.abs().max() <= bound


def test_the_processor_s_pixels_are_those_of_pil(converted, moving_square):
    """LAPA's script resizes with PIL's bilinear filter and divides by 255."""
    processor = LatentActionProcessor.from_pretrained(converted["four"])
    noise = np.random.default_rng(0).integers(0, 256, (2, 240, 320, 3), dtype=np.uint8)
    for frame in (*noise, *moving_square(2, size=96), moving_square(1, size=24)[0]):
        theirs = np.asarray(Image.fromarray(frame).resize((32, 32), Image.Resampling.BILINEAR))
        ours = processor(frame)["pixel_values"][0].permute(1, 2, 0).numpy()
        assert np.abs(ours * 255 - theirs).max() <= 1 + 1e-3
    exact = noise[0, :32, :32]
    np.testing.assert_allclose(processor(exact)["pixel_values"][0].permute(1, 2, 0) * 255, exact, atol=1e-3)


def test_a_clip_is_labelled_as_its_pairs_are(converted, four, moving_square, write_video, decode_all, tmp_path):
    pytest.importorskip("av")
    pytest.importorskip("pyarrow")
    from lara_tokenizer import encode_episode, load_episodes

    file = write_video(tmp_path / "clip.mp4", moving_square(12, size=48, step=3))
    processor = LatentActionProcessor.from_pretrained(converted["four"])
    table = encode_episode(load_episodes(file)[0], four, processor, columns="latents")
    frames = decode_all(file)
    with torch.no_grad():
        expected = four.encode(**processor(frames[:-6], frames[6:]))  # 0.6 s at 10 frames a second
    assert table["stride"].unique().to_pylist() == ["0.6s"]
    assert table["codes"].to_pylist() == expected.codes.tolist()
    found = torch.tensor(table["latents"].to_pylist()).view(6, 4, 6)
    torch.testing.assert_close(found, expected.latents, rtol=0, atol=5e-3)


def test_a_converted_folder_loads_where_this_package_is_not_installed(converted, golden, tmp_path, monkeypatch):
    frames = random_frames(SIZES["four"]["image_size"]).numpy()
    found = encode_with_remote_code(converted["four"], frames, tmp_path, monkeypatch)
    assert found["codes"] == golden["four.published.codes"].tolist()
