"""Global motion compensation: known shifts and lights are removed, and nothing else is changed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lara_tokenizer.model import LatentActionProcessor
from lara_tokenizer.model.steady_pairs import find_shift, steady_future

SIZE, MARGIN = 64, 16
RED = torch.tensor([230, 60, 40], dtype=torch.uint8).view(3, 1, 1)


def _scenes(count: int = 4, seed: int = 0, size: int = SIZE) -> torch.Tensor:
    """Blocks of two sizes in 0.15..0.65, wider than a frame by a margin on every side."""
    generator = torch.Generator().manual_seed(seed)
    wide = size + 2 * MARGIN
    parts = [torch.rand(count, 3, wide // block, wide // block, generator=generator) for block in (8, 4)]
    return 0.15 + 0.5 * sum(F.interpolate(part, size=(wide, wide)) for part in parts) / 2


def _seen(scenes: torch.Tensor, x: float = 0, y: float = 0) -> torch.Tensor:
    """The middle of the scenes, moved by (x, y) pixels to the right and down."""
    theta = torch.eye(2, 3).repeat(len(scenes), 1, 1)
    theta[:, :, 2] = -2 * torch.tensor([x, y]) / scenes.shape[-1]
    grid = F.affine_grid(theta, list(scenes.shape), align_corners=False)
    return F.grid_sample(scenes, grid, align_corners=False)[..., MARGIN:-MARGIN, MARGIN:-MARGIN]


def _bytes(frames: torch.Tensor) -> torch.Tensor:
    return frames.clamp(0, 1).mul(255).round().to(torch.uint8)


def _inside(frames: torch.Tensor) -> torch.Tensor:
    """Without what came in at the edges, in grey levels."""
    return frames[..., MARGIN:-MARGIN, MARGIN:-MARGIN].float()


@pytest.mark.parametrize("size", [32, 64, 96])
@pytest.mark.parametrize(("x", "y"), [(0, 0), (3, -2), (-4, 0), (5, 1)])
def test_a_shift_by_whole_pixels_is_found_also_at_the_farthest(size, x, y):
    scenes = _scenes(size=size)
    found = find_shift(_seen(scenes), _seen(scenes, x, y))
    torch.testing.assert_close(found, torch.tensor([[x, y]]).expand(4, -1).float(), rtol=0, atol=0.15)


@pytest.mark.parametrize(("x", "y"), [(0.5, -0.5), (1.25, 0), (-2.7, 3.4)])
def test_a_shift_between_pixels_is_found_to_a_fifth_of_a_pixel(x, y):
    scenes = _scenes()
    found = find_shift(_seen(scenes), _seen(scenes, x, y))
    torch.testing.assert_close(found, torch.tensor([[x, y]]).expand(4, -1).float(), rtol=0, atol=0.2)


@pytest.mark.parametrize("gains", [(1.0, 1.0, 1.0), (1.3, 1.1, 0.8)])
@pytest.mark.parametrize(("x", "y"), [(0, 0), (3, -2), (0.5, 0.5), (-1.3, 2.6)])
def test_a_moved_and_relit_picture_comes_back(x, y, gains):
    scenes = _scenes()
    now = _bytes(_seen(scenes))
    future = _bytes(_seen(scenes, x, y) * torch.tensor(gains).view(3, 1, 1))
    steady = steady_future(now, future)
    assert steady.dtype == torch.uint8
    left = (_inside(steady) - _inside(now)).abs().mean((1, 2, 3))
    # Between pixels the edges of blocks stay soft.
    assert left.max() <= (6 if x % 1 or y % 1 else 1.5)


def test_equal_frames_stay_bit_equal_whatever_they_show():
    frames = torch.cat([_bytes(_seen(_scenes())), torch.randint(0, 256, (4, 3, SIZE, SIZE), dtype=torch.uint8)])
    assert torch.equal(steady_future(frames, frames), frames)


def test_still_frames_with_the_noise_of_a_camera_stay_as_they_are():
    still, generator = _seen(_scenes(16)), torch.Generator().manual_seed(1)
    now, future = (_bytes(still + 0.01 * torch.randn(still.shape, generator=generator)) for _ in range(2))
    assert torch.equal(steady_future(now, future), future)


@pytest.mark.parametrize("side", [8, 16, 24])
@pytest.mark.parametrize("step", [2, 5, 9])
def test_what_moves_before_a_still_background_is_no_camera(side, step):
    now = _bytes(_seen(_scenes()))
    future = now.clone()
    now[..., 20 : 20 + side, 14 : 14 + side] = RED
    future[..., 20 : 20 + side, 14 + step : 14 + step + side] = RED
    assert torch.equal(steady_future(now, future), future)


def test_what_moves_under_a_moving_camera_still_moves():
    scenes = _scenes()
    still, now, future = _bytes(_seen(scenes)), _bytes(_seen(scenes)), _bytes(_seen(scenes, 3, 1))
    now[..., 26:38, 20:32] = RED
    future[..., 27:39, 30:42] = RED  # by 10 and 1 in the picture, so by 7 and 0 in the world
    world = still.clone()
    world[..., 26:38, 27:39] = RED
    left = (_inside(steady_future(now, future)) - _inside(world)).abs().mean((1, 2, 3))
    assert left.max() < 2


@pytest.mark.parametrize("level", [0, 128, 255])
def test_frames_without_a_pattern_give_no_shift_and_no_nan(level):
    flat, picture = torch.full((4, 3, SIZE, SIZE), level, dtype=torch.uint8), _bytes(_seen(_scenes()))
    for now, future in ((flat, flat), (flat, picture), (picture, flat)):
        assert not find_shift(now / 255, future / 255).any()
        assert steady_future(now, future).shape == future.shape
    assert torch.equal(steady_future(flat, flat), flat)


def test_a_pair_does_not_depend_on_its_neighbours():
    scenes = _scenes(7)
    now, future = _bytes(_seen(scenes)), _bytes(_seen(scenes, 1.6, -2.3) * 1.1)
    together = steady_future(now, future)
    for row in range(7):
        assert torch.equal(steady_future(now[row : row + 1], future[row : row + 1])[0], together[row])


@pytest.fixture
def shaken():
    """A clip (6, 64, 64, 3) of one scene, in which only the camera moves and the light changes."""
    scene = _scenes(1)
    offsets = [(0, 0), (2, 1), (-1, 3), (4, -2), (0.5, 0.5), (-3, -3)]
    frames = torch.cat([_seen(scene, x, y) * (1 + 0.05 * row) for row, (x, y) in enumerate(offsets)])
    return _bytes(frames).permute(0, 2, 3, 1).numpy()


def test_the_processor_steadies_pairs_where_it_is_told_to(shaken):
    size = {"height": SIZE, "width": SIZE}
    plain, steady = LatentActionProcessor(size=size), LatentActionProcessor(size=size, steady_pairs=True)
    pair, raw = steady(shaken[:-1], shaken[1:]), plain(shaken[:-1], shaken[1:])
    now, future = plain.resize_frames(shaken[:-1]), plain.resize_frames(shaken[1:])
    assert torch.equal(pair["pixel_values"], raw["pixel_values"])
    assert torch.equal(pair["future_pixel_values"], steady.normalize_frames(steady_future(now, future)))
    assert torch.equal(plain.steady_future(now, future), future)
    inside = [_inside(each["future_pixel_values"] - each["pixel_values"]).abs().mean() for each in (pair, raw)]
    assert inside[0] < inside[1] / 5


def test_a_lone_frame_is_never_touched(shaken):
    plain, steady = LatentActionProcessor(), LatentActionProcessor(steady_pairs=True)
    assert torch.equal(plain(shaken)["pixel_values"], steady(shaken)["pixel_values"])


def test_the_option_travels_with_the_processor(tmp_path, shaken):
    LatentActionProcessor(steady_pairs=True).save_pretrained(tmp_path)
    again = LatentActionProcessor.from_pretrained(tmp_path)
    assert again.steady_pairs is True
    assert (tmp_path / "steady_pairs.py").is_file()
    assert np.array_equal(
        again(shaken[:-1], shaken[1:], return_tensors="np")["future_pixel_values"],
        LatentActionProcessor(steady_pairs=True)(shaken[:-1], shaken[1:])["future_pixel_values"].numpy(),
    )
    assert LatentActionProcessor().steady_pairs is False
