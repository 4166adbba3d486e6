"""Pairs of frames that keep coming are the pairs that the plan of a whole episode has."""

from __future__ import annotations

import numpy as np
import pytest

from lara_tokenizer.data import Stride
from lara_tokenizer.tokenizer.online_pairs import OnlinePairs


def _online(times, stride):
    pairs = OnlinePairs(stride)
    found = [pair for time in times for pair in pairs.push(float(time))]
    return found + pairs.finish()


def _planned(times, stride):
    anchors = np.arange(len(times))
    future = stride.future_indices(times, anchors)
    return [(int(anchor), int(later)) for anchor, later in zip(anchors, future, strict=True) if later >= 0]


@pytest.mark.parametrize("stride", ["0.5s", "0.3s", "0.25s", "1f", "4f"])
@pytest.mark.parametrize("start", [0.0, 1.7e9], ids=["from 0", "unix time"])
def test_pairs_of_a_stream_are_those_of_the_plan(stride, start):
    stride = Stride.parse(stride)
    rng = np.random.default_rng(0)
    for fps in (5, 9.7, 10, 29.97):
        steady = start + np.arange(90) / fps
        rounded = start + np.round(np.arange(90) / fps, 3)
        jittered = start + np.sort((np.arange(90) + rng.uniform(-0.45, 0.45, 90)) / fps)
        dropped = np.delete(steady, rng.choice(90, 20, replace=False))
        for times in (steady, rounded, jittered, dropped, steady[:1], steady[:3]):
            try:
                planned = _planned(times, stride)
            except ValueError as error:  # a rate that cannot meet the stride
                with pytest.raises(ValueError, match=str(error)[:25]):
                    _online(times, stride)
            else:
                assert _online(times, stride) == planned


def test_only_the_frames_of_one_stride_wait():
    pairs = OnlinePairs(Stride.parse("0.5s"))
    for index in range(300):
        pairs.push(index / 30)
        assert len(pairs.waiting) <= 16


@pytest.mark.parametrize("time", [1.0, 0.5, float("nan"), float("inf")])
def test_a_time_that_does_not_go_on_is_refused_and_does_not_count(time):
    pairs = OnlinePairs(Stride.parse("1s"))
    pairs.push(1.0)
    with pytest.raises(ValueError, match=r"takes seconds after those of the frame before \(1\)"):
        pairs.push(time)
    assert pairs.push(2.0) == [(0, 1)]


def test_times_in_another_unit_are_named_before_they_fill_the_memory():
    milliseconds, hours = OnlinePairs(Stride.parse("0.5s")), OnlinePairs(Stride.parse("0.5s"))
    with pytest.raises(ValueError, match=r"cannot be met by frames 33 s apart: timestamps are in seconds"):
        _ = [milliseconds.push(33.0 * index) for index in range(100)]
    with pytest.raises(ValueError, match=r"1,024 frames came within a stride of 0\.5s: timestamps are in seconds"):
        _ = [hours.push(index / 30 / 3600) for index in range(2000)]
