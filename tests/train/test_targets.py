"""Teachers of the motion map: right sign and size, reversal negates them, the weights to z are their PCA."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lara_tokenizer.model import LatentActionConfig, LatentActionModel
from lara_tokenizer.train.augment import swap
from lara_tokenizer.train.targets.motion_targets import LARGEST, MotionTargets, channel_groups, weighted_sum
from lara_tokenizer.train.targets.start import (
    CODED,
    UNCODED_SCALE,
    WEIGHTS,
    deal,
    initialize_latents,
    initialize_motion,
)

pytest.importorskip("cv2", reason="dense flow needs OpenCV (extra eval)")

SIDE = 128


def _config(channels: int = 6, **changes) -> LatentActionConfig:
    side = changes.pop("image_size", SIDE)
    frames = {"model_type": "latent_action_frames", "image_size": side, "channels": [8, 8, 8], "match_channels": 4}
    fields = {"image_size": side, "patch_size": 16, "hidden_size": 16, "num_m_former_layers": 1, "num_latents": 4}
    fields |= {"codebook_dim": 12, "num_decoder_layers": 1, "decoder_hidden_size": 16, "vision_config": frames}
    fields |= {"inverse_model": "matching", "standardize_latents": False, "motion_channels": channels}
    return LatentActionConfig(**fields | changes)


def _moved(shifts: list[tuple[int, int]]) -> Tensor:
    """Pairs (B, 2, 3, S, S): a smooth texture, and the same moved by (x, y) pixels."""
    noise = torch.rand(len(shifts), 3, 40, 40, generator=torch.Generator().manual_seed(0))
    texture = F.interpolate(noise, size=(SIDE + 32,) * 2, mode="bicubic", align_corners=False).clamp(0, 1)
    pairs = []
    for each, (x, y) in zip(texture, shifts, strict=True):
        now, future = (each[:, 16 - dy : 16 - dy + SIDE, 16 - dx : 16 - dx + SIDE] for dx, dy in ((0, 0), (x, y)))
        pairs.append(torch.stack([now, future]))
    return torch.stack(pairs)


SHIFTS = [(3, 0), (-3, 0), (0, 2), (1, -2)]


def test_dense_flow_of_a_moved_texture_is_its_shift_in_pixels():
    pairs = _moved(SHIFTS)
    targets = MotionTargets(_config(), pairs)
    flow = (targets(pairs) / targets.scale_M11)[:, targets.groups["flow"]]
    inner = flow[:, :, 1:-1, 1:-1].mean((2, 3))  # at the edge a part of the texture left the frame
    assert torch.allclose(inner, torch.tensor(SHIFTS, dtype=torch.float32), atol=0.15)


def test_normal_flow_has_the_sign_of_the_shift_and_none_across_it():
    pairs = _moved([(1, 0), (-1, 0), (0, 1), (0, -1)])
    targets = MotionTargets(_config(), pairs)
    x, y = targets(pairs)[:, targets.groups["normal_flow"]].mean((2, 3))[:, :2].T
    assert torch.equal(x[:2].sign(), torch.tensor([1.0, -1.0]))
    assert torch.equal(y[2:].sign(), torch.tensor([1.0, -1.0]))
    assert max(x[2:].abs().max(), y[:2].abs().max()) < 0.3 * min(x[:2].abs().min(), y[2:].abs().min())


def test_reversal_of_time_negates_every_target():
    pairs, features = _moved(SHIFTS), torch.randn(4, 2, 32, 8, 8)
    targets = MotionTargets(_config(38), pairs, features)
    back = torch.ones(4, dtype=torch.bool)
    forward, reverse = targets(pairs, features), targets(swap(pairs, back), swap(features, back))
    exact = slice(targets.groups["normal_flow"].start, targets.groups["features"].stop)
    assert torch.allclose(forward[:, exact], -reverse[:, exact], atol=1e-4)
    dense = targets.groups["flow"]
    assert F.cosine_similarity(forward[:, dense].flatten(), -reverse[:, dense].flatten(), dim=0) > 0.98


def test_every_channel_has_mean_square_one_and_no_value_beyond_the_limit():
    pairs, features = _moved(SHIFTS), torch.randn(4, 2, 32, 8, 8)
    targets = MotionTargets(_config(38), pairs, features)
    assert torch.allclose(targets(pairs, features).square().mean((0, 2, 3)), torch.ones(38), atol=0.02)
    features[0, 1, 5, 0, 0] += 1000
    assert targets(pairs, features).abs().max() == targets(pairs, features)[0, 11, 0, 0] == LARGEST


def test_the_loss_is_that_of_each_group_and_r2_its_complement():
    pairs = _moved(SHIFTS)
    targets = MotionTargets(_config(), pairs)
    made = targets(pairs)
    assert all(value == 0 for value in targets.losses(made, made).values())
    halved = targets.r2(made / 2, made)
    assert halved == pytest.approx({"flow": 0.75, "normal_flow": 0.75}, abs=1e-5)
    assert float(weighted_sum({"flow": torch.tensor(1.0), "normal_flow": torch.tensor(2.0)})) == 2.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": 8}, r"motion_channels is 8, and there are 6 targets: 2 of flow \+ 4 of normal_flow. Set it to 6"),
        ({"inverse_model": "m_former"}, "inverse_model 'm_former' does not have"),
        ({"image_size": 112}, "7 x 7 cells. Set image_size to 16 times a power of two"),
    ],
)
def test_a_model_of_another_motion_map_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        MotionTargets(_config(**changes), _moved(SHIFTS[:1]))


def test_pairs_in_which_nothing_moves_are_refused():
    still = torch.rand(2, 1, 3, SIDE, SIDE).expand(-1, 2, -1, -1, -1)
    with pytest.raises(ValueError, match="nothing moves in the first pairs"):
        MotionTargets(_config(), still)


def test_z_starts_as_the_principal_components_of_the_motion_maps():
    config = _config()
    model = LatentActionModel(config)
    groups = channel_groups(with_features=False)
    rng = np.random.default_rng(0)
    # Maps of 60 planted directions with falling variances, more than the 48 numbers of z.
    planted = rng.standard_normal((500, 60)) * np.linspace(3, 0.5, 60) @ rng.standard_normal((60, 6 * 64))
    maps = torch.from_numpy(planted).float().view(-1, 6, 8, 8)
    initialize_latents(model, maps, groups)
    with torch.no_grad():
        z = model.inverse_dynamics.read_latents(maps).numpy()
    weight = np.concatenate([np.full(64 * (g.stop - g.start), WEIGHTS[name]) for name, g in groups.items()])
    left, sizes, _ = np.linalg.svd(maps.flatten(1).numpy() * weight, full_matrices=False)
    order = deal(4, 12).numpy()
    components = (left * sizes)[:, order] * np.where(order < 4 * CODED, 1, UNCODED_SCALE)
    components /= np.sqrt((components**2).mean())
    z = z.reshape(len(maps), -1)
    signs = np.sign((z * components).sum(0))
    np.testing.assert_allclose(z * signs, components, atol=2e-3)
    shares = (z**2).sum(0).reshape(4, 12).sum(1) / (z**2).sum()
    np.testing.assert_allclose(shares, 0.25, atol=0.01)


def test_more_numbers_of_z_than_of_the_map_are_refused():
    model = LatentActionModel(_config(num_latents=8, codebook_dim=64))
    with pytest.raises(ValueError, match="8 x 64 numbers of z cannot be told apart by the 384"):
        initialize_latents(model, torch.randn(4, 6, 8, 8), channel_groups(with_features=False))


def test_the_motion_map_starts_at_zero_and_forward_hands_it_out():
    model = LatentActionModel(_config())
    initialize_motion(model)
    out = model(*torch.rand(2, 2, 3, SIDE, SIDE))
    assert torch.equal(out.motion_map, torch.zeros(2, 6, 8, 8))
    assert torch.equal(out.latents, model.inverse_dynamics.read_latents(out.motion_map))


def test_detached_latents_leave_the_inverse_model_to_its_targets():
    model = LatentActionModel(_config())
    frames = torch.rand(2, 2, 3, SIDE, SIDE)
    model(*frames, detach_latents=True).loss.backward()
    assert all(parameter.grad is None for parameter in model.inverse_dynamics.parameters())
    model(*frames).loss.backward()
    assert model.inverse_dynamics.to_latents.weight.grad.abs().max() > 0
