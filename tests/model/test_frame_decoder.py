"""A decoder that moves pixels, a M-Former that is shown the change, and views of a pair."""

from __future__ import annotations

import pytest
import torch

from lara_tokenizer.model import LatentActionConfig, LatentActionModel
from lara_tokenizer.model.frame_decoder import warp


def _flow(x: float, y: float, size: int) -> torch.Tensor:
    return (2 * torch.tensor([x, y]) / size).view(1, 2, 1, 1).expand(2, 2, size, size)


def _changed(config, **changes):
    torch.manual_seed(0)
    return LatentActionModel(LatentActionConfig.from_dict({**config.to_dict(), **changes})).eval()


@pytest.fixture(scope="module")
def pair():
    return torch.randn(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_no_flow_is_the_picture():
    frames = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(warp(frames, _flow(0, 0, 16)), frames, atol=1e-5, rtol=0)


def test_a_flow_says_from_where_each_colour_comes():
    frames = torch.rand(2, 3, 16, 16)
    moved = warp(frames, _flow(3, -2, 16))
    torch.testing.assert_close(moved[..., 2:, :-3], frames[..., :-2, 3:], atol=1e-5, rtol=0)
    between = warp(frames, _flow(0.5, 0, 16))[..., :-1]
    torch.testing.assert_close(between, (frames[..., 1:] + frames[..., :-1]) / 2, atol=1e-5, rtol=0)


def test_past_the_edge_lies_the_colour_of_the_edge():
    frames = torch.rand(2, 3, 16, 16)
    moved = warp(frames, _flow(40, 0, 16))
    torch.testing.assert_close(moved, frames[..., -1:].expand_as(moved), atol=1e-5, rtol=0)


def test_under_autocast_the_flow_stays_exact():
    frames = torch.rand(2, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(warp(frames, _flow(0.3, 0.2, 64)), warp(frames, _flow(0.3, 0.2, 64).clone()))
        assert warp(frames.bfloat16(), _flow(1, 0, 64).bfloat16()).dtype == torch.float32


@torch.no_grad()
def test_the_flow_head_moves_frame_t_and_the_pixel_head_adds_to_it(tiny_config, pair):
    model, codes = _changed(tiny_config, decoder_warp=True), torch.zeros(4, 4, dtype=torch.long)
    decoder = model.forward_dynamics.decoder
    pixels = decoder.patch_size**2
    decoder.to_flow.bias[:pixels] = 2 * 5 / 32  # x of every pixel of a patch
    decoder.to_pixels.bias[:] = 0.25
    moved = model.decode(pair[0], codes=codes)
    torch.testing.assert_close(moved[..., :-5], pair[0][..., 5:] + 0.25, atol=1e-4, rtol=0)


def test_gradients_reach_the_flow_head(tiny_config, pair):
    model = _changed(tiny_config, decoder_warp=True).train()
    model(*pair).loss.backward()
    assert model.forward_dynamics.decoder.to_flow.weight.grad.abs().sum() > 0


def test_views_equal_to_the_pair_change_nothing_and_others_only_the_latents_source(tiny_config, pair):
    model = _changed(tiny_config)
    with torch.no_grad():
        plain, same = model(*pair), model(*pair, views=(pair[0], pair[1]))
        other = model(*pair, views=(pair[1], pair[0]))
        encoded = model.encode(pair[1], pair[0])
    assert torch.equal(plain.loss, same.loss)
    assert torch.equal(plain.latents, same.latents)
    torch.testing.assert_close(other.latents, encoded.latents)
    expected = model.decode(pair[0], quantized_latents=other.quantized_latents)
    torch.testing.assert_close(other.reconstruction, expected)
