"""Plans: a function of the episode and the options alone."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import numpy as np
import pytest

from lara_tokenizer.encode.options import resolve_options
from lara_tokenizer.encode.plan import MAX_ANCHORS, Unit, plan_episode, split_units, unit_pairs

SIZES = SimpleNamespace(num_latents=4, codebook_dim=8, codebook_size=16, strides=["0.5s"])


def frames(count):
    return np.zeros((count, 8, 8, 3), np.uint8)


def test_units_are_even_and_cover_every_anchor_once():
    for count in (1, 1024, 1025, 3600, 5000):
        units = split_units("clip", "", np.arange(count))
        sizes = [unit.last - unit.first + 1 for unit in units]
        assert sum(sizes) == count
        assert max(sizes) <= MAX_ANCHORS
        assert max(sizes) - min(sizes) <= 1
        assert [unit.first for unit in units[1:]] == [unit.last + 1 for unit in units[:-1]]


def test_pairs_never_reach_past_the_end(array_episode):
    options = resolve_options(SIZES, strides=["2f", "5f"])
    plan = plan_episode(array_episode(frames(10)), options)
    assert plan.pairs == {"2f": 8, "5f": 5}
    assert plan.frames == 10
    pairs = unit_pairs(plan.units[0], np.arange(10) / 10, options)
    assert (pairs.future - pairs.anchor == np.array([2, 5])[pairs.stride]).all()
    assert pairs.future.max() == 9


def test_keep_tail_adds_a_row_for_every_anchor(array_episode):
    options = resolve_options(SIZES, strides=["2f", "5f"], keep_tail=True)
    (unit,) = plan_episode(array_episode(frames(10)), options).units
    pairs = unit_pairs(unit, np.arange(10) / 10, options)
    assert len(pairs.anchor) == 20
    assert pairs.valid.sum() == 13
    assert (pairs.future[~pairs.valid] == -1).all()


def test_every_thins_the_anchors_and_only_wanted_frames_are_read(array_episode):
    options = resolve_options(SIZES, strides="2f", every="0.5s")
    (unit,) = plan_episode(array_episode(frames(20)), options).units
    pairs = unit_pairs(unit, np.arange(20) / 10, options)
    assert pairs.anchor.tolist() == [0, 5, 10, 15]
    assert pairs.needed.tolist() == [0, 2, 5, 7, 10, 12, 15, 17]


def test_a_clip_shorter_than_the_stride_has_no_unit(array_episode):
    plan = plan_episode(array_episode(frames(3)), resolve_options(SIZES, strides=["0.5s", "1f"]))
    assert plan.pairs == {"0.5s": 0, "1f": 2}
    assert plan.short_of == ("0.5s",)
    assert plan_episode(array_episode(frames(1)), resolve_options(SIZES, strides="1f")).units == ()


def test_each_camera_has_its_own_units(array_episode):
    plan = plan_episode(array_episode(frames(9), cameras=("wrist", "front")), resolve_options(SIZES, strides="1f"))
    assert plan.units == (Unit("clip", "front", 0, 7), Unit("clip", "wrist", 0, 7))
    assert plan.pairs == {"1f": 16}


def test_a_stride_the_rate_cannot_meet_names_the_nearest(array_episode):
    with pytest.raises(ValueError, match=r"nearest gap is 0\.3333 s"):
        plan_episode(array_episode(frames(9), fps=3), resolve_options(SIZES, strides="0.1s"))


def test_strides_are_unique_and_sorted_as_text():
    assert resolve_options(SIZES, strides=["5f", "10f", "5f"]).strides == ("10f", "5f")
    assert resolve_options(SIZES).strides == ("0.5s",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strides": "5"}, "stride '5': takes seconds"),
        ({"every": "0f"}, "at least one frame"),
        ({"columns": ["states"]}, "column 'states'.*the columns that can be added are actions, latents, text"),
        ({"min_motion": 1.5}, "min_motion 1.5: takes a mean change of the pixels"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"dtype": "int8"}, "dtype 'int8': takes float32"),
    ],
)
def test_options_out_of_range_say_what_is_taken(options, message):
    with pytest.raises(ValueError, match=message):
        resolve_options(SIZES, **options)


def test_a_stride_far_from_the_trained_ones_warns(caplog):
    with caplog.at_level(logging.WARNING):
        resolve_options(SIZES, strides=["0.6s", "5f"])  # within a quarter; frames cannot be compared with seconds
        assert not caplog.records
        resolve_options(SIZES, strides="2s")
    assert "trained on 0.5s" in caplog.text
