"""Attention maps: closed forms, and a trained model attends to what moves."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lara_tokenizer.evaluate.encoding import attention_maps, background_share, has_attention_maps
from lara_tokenizer.model import LatentActionConfig, LatentActionModel

SIZE, PATCH, SQUARE = 16, 2, 4
STEPS, BATCH = 400, 16


def draw_squares(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """A square that moves by up to its side: (B, 2, 3, S, S) in +-1, and where it is, (B, 2, S, S)."""
    ground = torch.randint(0, 96, (count, 3, 1, 1), generator=generator)
    position = torch.randint(0, SIZE - SQUARE + 1, (count, 2), generator=generator)
    step = torch.randint(-SQUARE, SQUARE + 1, (count, 2), generator=generator)
    pixel, frames, masks = torch.arange(SIZE), [], []
    for corner in (position, (position + step).clamp(0, SIZE - SQUARE)):
        rows, columns = ((pixel >= start) & (pixel < start + SQUARE) for start in corner.split(1, 1))
        masks.append(rows[:, :, None] & columns[:, None, :])
        colour = torch.tensor([230, 120, 40]).view(3, 1, 1)
        frames.append(torch.where(masks[-1][:, None], colour, ground))
    return torch.stack(frames, 1) / 127.5 - 1, torch.stack(masks, 1)


def new_model() -> LatentActionModel:
    """One layer of everything, 2-pixel patches, no quantization."""
    width = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
    vision = {"model_type": "vit_mae", "image_size": SIZE, "patch_size": PATCH, "num_hidden_layers": 1, **width}
    sizes = {
        "num_m_former_layers": 1,
        "num_decoder_layers": 1,
        "num_latents": 4,
        "codebook_dim": 8,
        "codebook_size": 16,
    }
    config = LatentActionConfig(
        vision_config=vision, image_size=SIZE, patch_size=PATCH, motion_weight=10, **width, **sizes
    )
    torch.manual_seed(1)
    model = LatentActionModel(config)
    model.bottleneck.continuous = True
    return model


def train(model: LatentActionModel) -> LatentActionModel:
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    warm_up = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 20))
    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        frames, _ = draw_squares(BATCH, generator)
        loss = model(frames[:, 0], frames[:, 1]).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        warm_up.step()
    return model.eval()


def test_a_trained_model_looks_less_at_the_background_than_a_random_one():
    frames, masks = draw_squares(256, torch.Generator().manual_seed(99))
    shares = [
        float(background_share(attention_maps(model, frames[:, 0], frames[:, 1]).maps, masks).mean())
        for model in (new_model().eval(), train(new_model()))
    ]
    # A random model attends everywhere alike: to the background's share of the area.
    assert shares[0] == pytest.approx(1 - SQUARE**2 / SIZE**2, abs=0.03)
    assert shares[1] < shares[0] - 0.1


def test_maps_are_shares_of_both_frames(tiny_model, tiny_processor):
    frames = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    attended = attention_maps(tiny_model, **tiny_processor(frames, frames[::-1].copy()))
    assert attended.maps.shape == (3, 4, 2, 4, 4)
    assert torch.allclose(attended.maps.sum((2, 3, 4)), torch.ones(3, 4))
    assert (attended.maps >= 0).all()
    assert ((attended.on_patches > 0) & (attended.on_patches < 1)).all()


@pytest.mark.parametrize("specials", [0, 1, 5])
def test_special_tokens_and_the_separator_are_left_out(specials):
    """Two layers: the lower passes all on, the upper attends to one patch of each frame and at the separator."""
    side, queries = 2, 3
    tokens = side**2 + specials
    length = queries + 2 * tokens + 1
    upper = torch.zeros(1, 2, length, length)
    now, future = queries + specials, queries + tokens + 1 + specials
    upper[..., :queries, now + 1] = 0.3
    upper[..., :queries, future + 2] = 0.1
    upper[..., :queries, queries + tokens] = 0.6  # the separator
    lower = torch.eye(length).expand(1, 2, -1, -1)
    attended = attention_maps(_stub((lower, upper), tokens, side), torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8))
    expected = torch.tensor([[[0, 0.75], [0, 0]], [[0, 0], [0.25, 0]]])
    assert torch.allclose(attended.maps, expected.expand(1, queries, -1, -1, -1))
    # Half of the layer is the residual stream: the queries themselves.
    assert torch.allclose(attended.on_patches, torch.full((1, queries), 0.5 * 0.4))


def _stub(attentions: tuple[torch.Tensor, ...], tokens: int, side: int):
    def encode(pixel_values, future_pixel_values, *, output_attentions=False):
        return SimpleNamespace(attentions=attentions if output_attentions else None)

    vision = SimpleNamespace(image_size=8, patch_size=8 // side)
    return SimpleNamespace(encode=encode, config=SimpleNamespace(num_frame_tokens=tokens, vision_config=vision))


def test_a_patch_counts_where_it_came_from():
    """The upper layer attends where the lower has moved the patches of frame t by one: rollout finds them again."""
    side, queries = 2, 1
    length = queries + 2 * side**2 + 1
    patches = slice(queries, queries + side**2)
    lower, upper = torch.eye(length).repeat(2, 1, 1, 1, 1)
    lower[..., patches, patches] = torch.eye(side**2).roll(1, 0)
    upper[..., 0, :] = 0
    upper[..., 0, queries + 1] = 1
    attended = attention_maps(_stub((lower, upper), side**2, side), torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8))
    # Half by the residual stream, half by way of the lower layer.
    assert attended.maps[0, 0, 0].tolist() == [[0.5, 0.5], [0, 0]]


def test_even_attention_has_the_backgrounds_share_of_the_area():
    masks = torch.zeros(2, 2, 8, 8, dtype=torch.bool)
    masks[0, :, :3, :5] = True  # patches covered in part count in part
    masks[1, 1, 0, 0] = True
    even = torch.full((2, 3, 2, 4, 4), 1 / 32)
    expected = torch.tensor([1 - 15 / 64, 1 - 0.5 / 64])
    assert torch.allclose(background_share(even, masks), expected[:, None].expand(2, 3))


def test_attention_on_the_mask_alone_has_no_background_share():
    masks = torch.zeros(1, 2, 8, 8, dtype=torch.bool)
    masks[0, 0, :2, 2:4] = True
    maps = torch.zeros(1, 1, 2, 4, 4)
    maps[0, 0, 0, 0, 1] = 1
    assert background_share(maps, masks).item() == 0
    assert background_share(maps.flip(2), masks).item() == 1


def test_masks_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"masks are \(1, 8, 8\), expected \(1, 2, S, S\) with S a multiple of 4"):
        background_share(torch.zeros(1, 3, 2, 4, 4), torch.zeros(1, 8, 8, dtype=torch.bool))


def test_a_model_without_attentions_is_named():
    class Stranger:
        def encode(self, frame_features, future_frame_features):
            """No attentions."""

    assert not has_attention_maps(Stranger())
    with pytest.raises(ValueError, match="Stranger has no attention maps"):
        attention_maps(Stranger(), torch.zeros(1), torch.zeros(1))


def test_an_inverse_model_that_matches_features_has_none():
    vision = {"model_type": "latent_action_frames", "image_size": 32}
    sizes = {"image_size": 32, "num_latents": 2, "codebook_dim": 4, "motion_channels": 6, "codebook_size": 4}
    config = LatentActionConfig(vision_config=vision, inverse_model="matching", standardize_latents=False, **sizes)
    assert not has_attention_maps(LatentActionModel(config))
