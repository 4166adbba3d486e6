"""The matching inverse model and its frame encoder: features by cell, correspondence, codebooks, saving."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from remote_code import encode_with_remote_code

from lara_tokenizer.model import (
    FrameEncoder,
    FrameEncoderConfig,
    LatentActionConfig,
    LatentActionModel,
    LatentActionProcessor,
)
from lara_tokenizer.model.bottleneck_vq import VectorQuantizer
from lara_tokenizer.model.frame_encoder import ConvNormAct, split_features
from lara_tokenizer.model.matching import REACH, match


@pytest.fixture(scope="module")
def model() -> LatentActionModel:
    torch.manual_seed(0)
    vision = {"model_type": "latent_action_frames", "image_size": 64, "channels": [8, 8, 16], "blocks": [1, 1, 1]}
    config = LatentActionConfig(
        vision_config=vision,
        inverse_model="matching",
        image_size=64,
        patch_size=16,
        hidden_size=32,
        motion_channels=6,
        num_latents=2,
        codebook_size=4,
        codebook_dim=3,
        separate_codebooks=True,
        standardize_latents=False,
        num_m_former_layers=1,
        num_decoder_layers=1,
        decoder_motion_map=True,
    )
    model = LatentActionModel(config)
    # Statistics other than those of a new batch norm.
    model.train()
    with torch.no_grad():
        model(*torch.randn(2, 4, 3, 64, 64))
    return model.eval()


def test_tokens_hold_the_three_maps_of_their_cell() -> None:
    config = FrameEncoderConfig(image_size=32, channels=[8, 8, 16], blocks=[1, 1, 1], match_channels=4)
    encoder = FrameEncoder(config).eval()
    frames = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        tokens = encoder(frames).last_hidden_state
        fine = encoder.fine(frames)
        appearance, coarse, matched = split_features(tokens, config)
        assert torch.allclose(matched, encoder.match_fine(fine), atol=1e-5)
        assert torch.allclose(coarse, encoder.match_coarse(encoder.coarse(fine)), atol=1e-5)
        assert torch.allclose(appearance, encoder.appearance(encoder.coarse(fine)), atol=1e-5)
    assert tokens.shape == (2, 4, config.hidden_size)


@pytest.mark.parametrize(("right", "down"), [(0, 0), (2, 0), (-3, 1)])
def test_a_shifted_map_is_matched_at_its_shift(right: int, down: int) -> None:
    cells, side = 3, 4
    now = torch.randn(1, 16, cells * side, cells * side)
    future = now.roll((down, right), (2, 3))
    window = side + 2 * REACH
    matches = match(now, future, cells, torch.tensor(50.0)).view(1, side, side, window, window, cells, cells)
    assert torch.allclose(matches.sum((3, 4)), torch.ones(()))
    for y in range(side):
        for x in range(side):
            # The middle cell: no edge of the map is in reach.
            best = matches[0, y, x, :, :, 1, 1].flatten().argmax()
            assert divmod(int(best), window) == (y + REACH + down, x + REACH + right)


def test_folded_batch_norm_is_that_of_evaluation() -> None:
    layer = ConvNormAct(3, 5, 3, 2)
    layer(torch.randn(8, 3, 16, 16))
    layer.eval()
    frames = torch.randn(2, 3, 16, 16)
    expected = F.hardswish(layer.norm(layer.conv(frames)))
    assert torch.allclose(layer(frames), expected, atol=1e-5)


def test_z_is_a_linear_function_of_the_motion_map(model: LatentActionModel) -> None:
    with torch.no_grad():
        now, future = (model.get_frame_features(frames) for frames in torch.randn(2, 5, 3, 64, 64))
        motion = model.inverse_dynamics.motion_map(now, future)
        z, _ = model.infer_latents(now, future)
        linear = model.inverse_dynamics.to_latents
        assert torch.allclose(z.flatten(1), motion.flatten(1) @ linear.weight.T + linear.bias, atol=1e-5)
    assert motion.shape == (5, 6, 4, 4)


def test_each_position_has_its_own_codebook() -> None:
    quantizer = VectorQuantizer(3, 2, positions=2)
    with torch.no_grad():
        quantizer.codebook.weight.copy_(torch.tensor([[0, 0], [1, 0], [2, 0], [0, 0], [0, 1], [0, 2]]))
    z = torch.tensor([[[1.9, 0.0], [0.1, 1.1]]])
    out = quantizer.eval()(z)
    assert out.codes.tolist() == [[2, 1]]
    assert out.quantized_latents.tolist() == [[[2.0, 0.0], [0.0, 1.0]]]
    assert torch.equal(quantizer.lookup(out.codes), out.quantized_latents)
    points = torch.randn(50, 2, 2) + torch.tensor([[10.0, 0.0], [-10.0, 0.0]])[:, None].movedim(0, 1)
    quantizer.start_codebook(points)
    first, second = quantizer.codebook.weight.split(3)
    assert (first[:, 0] > 5).all()
    assert (second[:, 0] < -5).all()
    # Codes that were never used move onto latents of their own position.
    quantizer.train()
    quantizer(points[:1])
    assert quantizer.revive_dead_codes(points) == 4
    assert (quantizer.codebook.weight[:3, 0] > 5).all()
    with pytest.raises(ValueError, match="2 codebooks"):
        quantizer(torch.randn(1, 3, 2))


def test_saved_and_loaded_here_and_as_remote_code(
    model: LatentActionModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.save_pretrained(tmp_path / "saved")
    processor = LatentActionProcessor(size={"height": 64, "width": 64}, steady_pairs=True)
    processor.save_pretrained(tmp_path / "saved")
    clips = np.random.default_rng(0).integers(0, 256, (2, 3, 64, 64, 3), np.uint8)
    with torch.no_grad():
        own = model.encode(**processor(*clips))
        loaded = LatentActionModel.from_pretrained(tmp_path / "saved").encode(**processor(*clips))
    assert torch.equal(loaded.latents, own.latents)
    remote = encode_with_remote_code(tmp_path / "saved", clips, tmp_path, monkeypatch)
    assert remote["codes"] == own.codes.tolist()
    assert np.allclose(remote["latents"], own.latents.numpy(), atol=1e-6)


def test_refusals(model: LatentActionModel) -> None:
    with pytest.raises(ValueError, match="no attention maps"):
        model.encode(*torch.randn(2, 1, 3, 64, 64), output_attentions=True)
    with pytest.raises(ValueError, match="compares the features of a 'latent_action_frames' encoder"):
        LatentActionConfig(inverse_model="matching", standardize_latents=False)
    with pytest.raises(ValueError, match="multiple of 16"):
        FrameEncoderConfig(image_size=100)
    with pytest.raises(ValueError, match="channels"):
        FrameEncoderConfig(channels=[8, 8])
