"""Nuisances follow their parameters: shake moves, light multiplies, a background stays behind the mask."""

from __future__ import annotations

import numpy as np
import pytest

from lara_tokenizer.data import Episode, FrameIndex, Signals
from lara_tokenizer.evaluate.nuisance import (
    BRIGHTNESS,
    FAMILIES,
    LIMIT,
    MEMORY,
    PATTERN_SHARE,
    SHAKE_MARGIN,
    SLIDE,
    WARMTH,
    Nuisance,
    with_nuisance,
)

SIZE = 96
MARGIN = round(SIZE * SHAKE_MARGIN)  # pixels, at LIMIT
SEEN = SIZE - 2 * MARGIN
TOP = "observation.images.top"


def _parameters(family, *values):
    return {family: np.array(values, float)}


def _apply(family, frames, parameters, **options):
    return Nuisance((family,)).apply(frames, parameters, "episode", TOP, **options)


@pytest.fixture(scope="module")
def image():
    """A still image without sharp edges, (1, 96, 96, 3)."""
    x, y = np.meshgrid(np.arange(SIZE), np.arange(SIZE))
    waves = [np.sin(x / 5) + np.cos(y / 7), np.cos(x / 6 + y / 9), np.sin(y / 4)]
    return np.stack([128 + 50 * wave for wave in waves], -1).astype(np.uint8)[None]


def test_equal_seeds_give_equal_parameters_and_others_do_not():
    times = np.arange(50) / 10
    first = Nuisance(("shake", "light"), 3).parameters("a", TOP, times)
    again = Nuisance(("light", "shake"), 3).parameters("a", TOP, times)
    for family in ("shake", "light"):
        assert np.array_equal(first[family], again[family])  # whatever other families there are
    others = [Nuisance(("shake",), 4).parameters("a", TOP, times), Nuisance(("shake",), 3).parameters("b", TOP, times)]
    others.append(Nuisance(("shake",), 3).parameters("a", "observation.images.side", times))
    assert not any(np.array_equal(first["shake"], other["shake"]) for other in others)


def test_parameters_of_more_frames_begin_with_those_of_fewer():
    nuisance = Nuisance(("shake",))
    short, long = (nuisance.parameters("a", "", np.arange(n) / 10)["shake"] for n in (10, 40))
    assert np.array_equal(long[:10], short)


@pytest.mark.parametrize("fps", [5, 30])
def test_the_process_is_stationary_and_forgets_by_seconds_not_by_frames(fps):
    times = np.arange(4 * fps) / fps
    walks = np.stack([Nuisance(("light",)).parameters(str(n), "", times)["light"] for n in range(1500)])
    assert np.abs(walks).max() <= LIMIT
    # Cut at two standard deviations, a normal number has a variance of .92.
    assert walks.mean((0, 2)) == pytest.approx(0, abs=0.08)
    assert walks.var((0, 2)) == pytest.approx(0.92, abs=0.08)
    later = int(MEMORY * fps)
    correlation = (walks[:, :-later] * walks[:, later:]).mean() / walks.var()
    assert correlation == pytest.approx(np.exp(-later / fps / MEMORY), abs=0.03)


def _pixels(x, y):
    """The parameters of shake that move the window by so many pixels."""
    return x * LIMIT / MARGIN, y * LIMIT / MARGIN


def _window(image, x, y):
    return image[0, MARGIN + y :, MARGIN + x :][:SEEN, :SEEN]


def test_a_still_picture_under_shake_moves_by_its_parameters(image):
    offsets = [(0, 0), (1, 0), (-1, MARGIN), (MARGIN, -MARGIN)]
    seen = _apply("shake", np.repeat(image, 4, 0), _parameters("shake", *(_pixels(*offset) for offset in offsets)))
    for frame, offset in zip(seen, offsets, strict=True):
        assert np.array_equal(frame, _window(image, *offset))


def test_between_pixels_shake_is_linear(image):
    quarter = _apply("shake", image, _parameters("shake", _pixels(0.25, 0)))[0].astype(float)
    expected = 0.75 * _window(image, 0, 0) + 0.25 * _window(image, 1, 0)
    assert np.abs(quarter - expected).max() <= 0.5


def test_light_is_a_gain_of_each_colour():
    frames = np.full((2, 4, 4, 3), 100, np.uint8)
    seen = _apply("light", frames, _parameters("light", (1, 0), (0, 1)))
    assert seen[0, 0, 0].tolist() == [round(100 * np.exp(BRIGHTNESS))] * 3
    assert seen[1, 0, 0].tolist() == [round(100 * np.exp(WARMTH)), 100, round(100 * np.exp(-WARMTH))]


def test_the_background_leaves_masked_pixels_alone_and_mixes_into_all_others(image):
    masks = np.zeros((1, SIZE, SIZE), bool)
    masks[0, 20:30, 20:40] = True
    seen = _apply("background", image, _parameters("background", (0.3, -1)), masks=masks)
    assert np.array_equal(seen[masks], image[masks])
    change = seen[~masks].astype(float) - (1 - PATTERN_SHARE) * image[~masks]
    assert change.min() >= -0.5
    assert change.max() <= 255 * PATTERN_SHARE + 0.5
    assert (seen[~masks] != image[~masks]).mean() > 0.9


def test_the_background_slides_by_its_parameters():
    black = np.zeros((2, SIZE, SIZE, 3), np.uint8)
    one_pixel = 1 / (SLIDE * SIZE)
    still, moved = _apply("background", black, _parameters("background", (0, 0), (3 * one_pixel, 0)))
    assert np.abs(moved[:, 3:].astype(int) - still[:, :-3]).max() <= 1


class _Reader:
    def __init__(self, frames):
        self.all = frames

    def index(self, camera):
        return FrameIndex(np.arange(len(self.all)) / 10, 10.0)

    def frames(self, camera, indices):
        return self.all[np.asarray(indices)]

    def signals(self):
        return Signals()

    def close(self):
        pass


def test_an_episode_under_a_nuisance_shows_each_frame_the_same_however_it_is_requested(image):
    episode = Episode("a.mp4", _Reader(np.repeat(image, 8, 0)), dataset="clips")
    (seen,) = with_nuisance([episode], Nuisance(("shake", "light"), 5))
    together = seen.frames("", [1, 4, 6])
    assert np.array_equal(together[1], seen.frames("", [4])[0])
    assert not np.array_equal(together[0], together[1])
    assert seen.dataset == "clips with shake, light (seed 5)"
    assert (seen.id, seen.cameras) == (episode.id, episode.cameras)


@pytest.mark.parametrize(("families", "words"), [(("fog",), "unknown nuisance 'fog'"), ((), "no nuisance given")])
def test_unknown_families_are_refused_with_those_there_are(families, words):
    with pytest.raises(ValueError, match=f"{words}.*{', '.join(FAMILIES)}"):
        Nuisance(families)
