"""Frames prepared with numpy alone are those of the processor."""

from __future__ import annotations

import ast
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from lara_tokenizer.deploy import frames as frames_file
from lara_tokenizer.deploy.frames import prepare
from lara_tokenizer.model import LatentActionProcessor

SHAPES = [(60, 80), (24, 20), (32, 47), (33, 32), (7, 5), (1, 9), (32, 24)]


@pytest.mark.parametrize("resample", ["bicubic", "bilinear"])
@pytest.mark.parametrize("antialias", [True, False], ids=["antialiased", "plain"])
def test_the_resize_is_that_of_the_processor(resample, antialias):
    rng = np.random.default_rng(0)
    for (height, width), crop, shape in product([(32, 32), (32, 24)], ["none", "center"], SHAPES):
        size, options = {"height": height, "width": width}, {"resample": resample, "antialias": antialias, "crop": crop}
        frames = rng.integers(0, 256, (2, *shape, 3), dtype=np.uint8)
        expected = LatentActionProcessor(size=size, **options).resize_frames(frames).permute(0, 2, 3, 1).numpy()
        difference = np.abs(prepare(frames, {**size, **options}).astype(int) - expected)
        # Without antialiasing PyTorch sums in float32, so that a value may be rounded the other way.
        assert difference.max() <= (0 if antialias else 1)


def test_it_needs_nothing_but_numpy():
    tree = ast.parse(Path(frames_file.__file__).read_text(encoding="utf-8"))
    imported = {
        node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert imported == {"__future__", "functools", "json", "numpy", "pathlib", "typing"}


@pytest.mark.parametrize("frames", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3)), np.zeros((0, 8, 8, 3), np.uint8)])
def test_frames_of_another_form_are_refused(frames):
    options = {"height": 8, "width": 8, "resample": "bicubic", "antialias": True, "crop": "none"}
    with pytest.raises(ValueError, match="takes uint8 RGB"):
        prepare(frames, options)
