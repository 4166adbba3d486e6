"""Strides in seconds and frames: their meaning at each rate, and at the end of an episode."""

import numpy as np
import pytest

from lara_tokenizer.data import Stride


def gaps(stride: str, timestamps: np.ndarray) -> np.ndarray:
    anchors = np.arange(len(timestamps))
    future = Stride.parse(stride).future_indices(timestamps, anchors)
    return (timestamps[future] - timestamps)[future >= 0]


@pytest.mark.parametrize(("fps", "gap"), [(3, 2 / 3), (5, 0.6), (20, 0.6), (30, 0.6)])
def test_six_tenths_of_a_second_is_the_nearest_whole_number_of_frames(fps, gap):
    assert gaps("0.6s", np.arange(100) / fps) == pytest.approx(gap)
    assert Stride.parse("0.6s").frames_at(fps) == round(gap * fps)


def test_a_rate_that_cannot_meet_the_stride_names_the_nearest_gap():
    with pytest.raises(ValueError, match=r"'0.6s' cannot be met at 1 frames per second: the nearest gap is 1 s"):
        Stride.parse("0.6s").future_indices(np.arange(10.0), np.arange(10))


@pytest.mark.parametrize(("stride", "fps", "frames"), [("0.8s", 1, 1), ("0.5s", 5, 3), ("1s", 30000 / 1001, 30)])
def test_a_quarter_off_is_still_met_and_ties_go_to_the_later_frame(stride, fps, frames):
    assert Stride.parse(stride).frames_at(fps) == frames
    future = Stride.parse(stride).future_indices(np.arange(100) / fps, np.arange(50))
    assert (future == np.arange(50) + frames).all()


def test_half_a_second_at_three_frames_per_second_is_refused_as_a_third_off():
    with pytest.raises(ValueError, match=r"nearest gap is 0.6667 s \(2 frames\)"):
        Stride.parse("0.5s").frames_at(3)


@pytest.mark.parametrize(
    "text", ["5", "0.6", 5, 0.6, "0f", "0s", "-5f", "-0.6s", "2.5f", "", "s", "5 f", "1e3s", "nans"]
)
def test_anything_but_seconds_or_whole_frames_is_refused(text):
    with pytest.raises(ValueError, match="stride"):
        Stride.parse(text)


def test_a_bare_number_is_told_what_it_could_mean():
    with pytest.raises(ValueError, match="write '5s' or '5f'"):
        Stride.parse("5")


def test_a_stride_keeps_its_text_as_it_was_asked():
    assert Stride.parse("0.60s").text == "0.60s"


@pytest.mark.parametrize("stride", ["5f", "0.5s"])
def test_the_future_of_the_last_frames_lies_past_the_end_and_is_never_clamped(stride):
    future = Stride.parse(stride).future_indices(np.arange(12) / 10, np.arange(12))
    assert future.tolist() == [5, 6, 7, 8, 9, 10, 11, -1, -1, -1, -1, -1]


def test_rounding_up_at_the_end_does_not_fall_back_to_the_last_frame():
    # 0.6 s at 3 Hz is two frames; for the last but one the last frame, one away, would be nearest of those left.
    assert Stride.parse("0.6s").future_indices(np.arange(4) / 3, np.arange(4)).tolist() == [2, 3, -1, -1]


@pytest.mark.parametrize("n", [0, 1])
def test_a_clip_without_a_second_frame_has_no_pairs(n):
    assert (Stride.parse("0.6s").future_indices(np.zeros(n), np.arange(n)) == -1).all()
    assert (Stride.parse("1f").future_indices(np.zeros(n), np.arange(n)) == -1).all()


def test_a_variable_rate_takes_the_frame_nearest_in_time():
    rng = np.random.default_rng(0)
    timestamps = np.cumsum(rng.uniform(0.02, 0.12, 400)) - 0.02
    future = Stride.parse("0.6s").future_indices(timestamps, np.arange(400))
    inside = np.flatnonzero(timestamps + 0.6 <= timestamps[-1])
    distance = np.abs(timestamps[None] - timestamps[inside, None] - 0.6)
    chosen = distance[np.arange(len(inside)), future[inside]]
    assert (future[inside] >= 0).all()
    assert (chosen <= distance.min(1) + 0.002).all()


def test_no_pair_crosses_a_pause_in_recording():
    timestamps = np.concatenate([np.arange(10) / 10, 60 + np.arange(10) / 10])
    future = Stride.parse("0.5s").future_indices(timestamps, np.arange(20))
    # Frame 5 takes frame 9, 0.4 s on: the nearest there is, and within a quarter.
    assert future.tolist() == [5, 6, 7, 8, 9, 9, *[-1] * 4, 15, 16, 17, 18, 19, *[-1] * 5]


@pytest.mark.parametrize("stride", ["0.15s", "0.5s", "1s"])
def test_times_rounded_to_milliseconds_give_the_same_frames_at_every_anchor(stride):
    rounded = np.round(np.arange(300) / 30, 3)
    future = Stride.parse(stride).future_indices(rounded, np.arange(200))
    assert len(np.unique(future - np.arange(200))) == 1


def test_anchors_in_frames_and_in_seconds():
    timestamps = np.arange(31) / 30
    assert Stride.parse("10f").anchors(timestamps).tolist() == [0, 10, 20, 30]
    assert Stride.parse("0.5s").anchors(timestamps).tolist() == [0, 15, 30]
    assert Stride.parse("1f").anchors(timestamps).tolist() == list(range(31))
    assert Stride.parse("0.001s").anchors(timestamps).tolist() == list(range(31))
    assert Stride.parse("5s").anchors(timestamps).tolist() == [0]
    assert Stride.parse("0.5s").anchors(np.zeros(1)).tolist() == [0]
