"""Camera motion is distinguished from the motion of an object."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lara_tokenizer.encode.camera_motion import image_cells, is_global_motion, moving_cell_share

SIDE = 64


def scene(side: int = 2 * SIDE, blocks: int = 24, seed: int = 0) -> torch.Tensor:
    """A textured image, float (1, 3, side, side), 0 to 255."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, blocks, blocks, generator=generator) * 200
    return F.interpolate(coarse, side, mode="bicubic", align_corners=False).clamp(0, 255)


def view(image: torch.Tensor, dx: float = 0, dy: float = 0, zoom: float = 1, turn: float = 0) -> torch.Tensor:
    """What a camera sees of the middle: uint8 (1, 3, SIDE, SIDE); moved by dx, dy pixels, turned by `turn` radians."""
    sine, cosine = np.sin(turn) / (2 * zoom), np.cos(turn) / (2 * zoom)
    affine = torch.tensor([[[cosine, -sine, dx / SIDE], [sine, cosine, dy / SIDE]]], dtype=torch.float32)
    grid = F.affine_grid(affine, [1, 3, SIDE, SIDE], align_corners=False)
    return F.grid_sample(image, grid, align_corners=False).round().to(torch.uint8)


def share(now: torch.Tensor, future: torch.Tensor) -> float:
    return float(moving_cell_share(image_cells(now), image_cells(future))[0])


def frames_of(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array).permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    "motion",
    [{"dx": 3}, {"dx": -4, "dy": 2}, {"dy": 6}, {"dx": 20}, {"zoom": 1.2}, {"zoom": 0.85}, {"turn": 0.2}],
    ids=str,
)
def test_a_camera_that_moves_in_any_way_is_global_motion(motion):
    image = scene()
    assert share(view(image), view(image, **motion)) > 0.75
    assert is_global_motion(image_cells(view(image)), image_cells(view(image, **motion))).all()


def test_a_square_before_a_still_camera_moves_its_own_cells():
    frames = view(scene()).repeat(12, 1, 1, 1)
    for step, frame in enumerate(frames):
        frame[:, 20:36, 3 * step : 3 * step + 16] = torch.tensor([230, 90, 40])[:, None, None]
    # 3 rows of the columns of cells, of 8, where the square was and is.
    for gap, most in ((1, 3 * 4), (5, 3 * 5)):
        shares = moving_cell_share(image_cells(frames[:-gap]), image_cells(frames[gap:]))
        assert 0 < shares.max() <= most / 60  # some cells have no pattern


def test_a_still_picture_and_its_compression_noise_do_not_move():
    now = view(scene())
    noise = torch.randint(-3, 4, now.shape, generator=torch.Generator().manual_seed(1))
    assert share(now, now) == 0
    assert share(now, (now.int() + noise).clamp(0, 255).to(torch.uint8)) < 0.05


@pytest.mark.parametrize(("gain", "offset"), [(0.6, 0), (1.2, 0), (1, 30), (0.8, 40)])
def test_light_alone_is_no_camera_and_hides_none(gain, offset):
    def lit(frame):
        return (frame * gain + offset).clamp(0, 255).round().to(torch.uint8)

    image = scene()
    assert share(view(image), lit(view(image))) < 0.05
    assert share(view(image), lit(view(image, dx=4))) > 0.75


def test_an_object_before_a_bare_wall_is_no_camera():
    wall = np.full((2, SIDE, SIDE, 3), 180, np.uint8)
    wall[0, 20:44, 10:34], wall[1, 20:44, 22:46] = (200, 30, 30), (200, 30, 30)
    now, future = frames_of(wall)[:1], frames_of(wall)[1:]
    # It moves all the cells that have a pattern, and still it is only a part of the image.
    assert 0 < share(now, future) < 0.6
    assert share(now, torch.full_like(now, 180)) < 0.6
    assert share(torch.full_like(now, 180), torch.full_like(now, 90)) == 0


def test_the_size_of_the_frames_hardly_counts():
    image = scene()
    for motion in ({"dx": 0}, {"dx": 4}):
        now, future = view(image), view(image, **motion)
        large = [F.interpolate(f.float(), 224, mode="bilinear").round().to(torch.uint8) for f in (now, future)]
        small = [F.interpolate(f.float(), 48, mode="area").round().to(torch.uint8) for f in (now, future)]
        for pair in (large, small):
            assert share(*pair) == pytest.approx(share(now, future), abs=0.15)


def test_a_pair_does_not_depend_on_its_batch():
    frames = torch.cat([view(scene(), dx=step) for step in range(20)])
    together = moving_cell_share(image_cells(frames[:-3]), image_cells(frames[3:]))
    alone = [share(frames[k : k + 1], frames[k + 3 : k + 4]) for k in range(17)]
    assert together.tolist() == alone


def test_a_cell_moves_where_less_than_four_fifths_of_its_pattern_are_explained():
    now, future = image_cells(view(scene())), image_cells(view(scene(), dx=1.5))
    x, y = now[0].numpy(), future[0].numpy()
    patterned = np.maximum(x.std(1), y.std(1)) > 4
    correlation = np.array([np.corrcoef(a, b)[0, 1] for a, b in zip(x, y, strict=True)])
    moved = patterned & ((correlation < 0) | (correlation**2 < 0.8))
    assert 0 < moved.sum() < patterned.sum()
    assert moving_cell_share(now, future)[0] == moved.sum() / patterned.sum()
