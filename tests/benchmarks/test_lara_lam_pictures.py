"""The pictures of lara-lam: codes and pairs are chosen by rule, and arrows and frames are where they belong."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from lara_lam import drawing, pictures
from PIL import Image

RIGHT, DOWN, STILL = np.array([4.0, 0.0]), np.array([0.0, 4.0]), np.zeros(2)


def _clips(codes_PN: np.ndarray, flow_P2: np.ndarray) -> pictures.Clips:
    """Pairs that move as a whole."""
    encoded = SimpleNamespace(codes=torch.from_numpy(codes_PN))
    return pictures.Clips([], None, encoded, np.broadcast_to(flow_P2[:, None, None], (len(flow_P2), 8, 8, 2)))


def test_shown_codes_are_frequent_move_and_differ_in_direction():
    # At position 0 code 1 goes right, 2 down, 3 right again with fewer pairs, 0 stands still, 4 is too rare.
    first = np.repeat([0, 1, 2, 3, 4], [400, 60, 50, 40, 2])
    flow = np.array([STILL, RIGHT, DOWN, RIGHT, -RIGHT])[first]
    clips = _clips(np.stack([first, np.zeros_like(first)], 1), flow)
    assert [each for each in pictures.chosen_codes(clips) if each[1]] == [(0, 1), (0, 2)]


def test_the_example_of_a_code_moves_as_its_pairs_do_in_the_mean():
    flow = np.array([RIGHT, RIGHT + DOWN, RIGHT - DOWN, 0.1 * RIGHT, 9 * DOWN])
    clips = _clips(np.array([[7], [7], [7], [7], [0]]), flow)
    assert pictures.example(clips, 0, 7) == 0


def test_an_arrow_points_where_its_cell_goes_and_a_still_cell_has_none():
    field = np.zeros((2, 2, 2))
    field[0, 1] = RIGHT
    drawn = np.asarray(drawing.arrows(drawing.on_canvas(64), field, longest=8.0)).astype(int)
    inked = (drawn < 200).any(-1)
    assert inked[:32, 32:].any()
    assert not inked[32:].any()
    assert not inked[:, :16].any()
    red, green, blue = drawn[16, 48]
    assert red > green
    assert red > blue


def test_frames_stand_in_columns_with_a_gap_between_blocks():
    colours = ["red", "lime", "blue", "black"]
    frames = [Image.new("RGB", (10, 10), colour) for colour in colours]
    sheet = np.asarray(drawing.grid(frames, [""] * 4, [""] * 4, every=2))
    middle = drawing.LINE + 5
    lefts = [4, 4 + 14, 4 + 28 + drawing.GAP, 4 + 42 + drawing.GAP]
    assert [tuple(sheet[middle, left + 5]) for left in lefts] == [(255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0)]
    assert (sheet[middle, 4 + 28 : 4 + 28 + drawing.GAP - 4] == 255).all()
