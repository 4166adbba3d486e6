"""A stream of frames gets the latent actions that a file of the same frames gets."""

from __future__ import annotations

from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from lara_tokenizer import LatentActionTokenizer, load_episodes

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def bundled():
    return LatentActionTokenizer.from_pretrained("lara-lam")


@pytest.fixture
def tiny(tiny_model, tiny_processor):
    return LatentActionTokenizer(tiny_model, tiny_processor)


def _streamed(stream, frames, times):
    """The rows of a whole stream, as arrays by name."""
    parts = [*map(stream.push, frames, times), stream.finish()]
    return {field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(parts[0])}


def _check_equal(tokenizer, frames, times):
    batch, streamed = tokenizer(frames, "0.5s", timestamps=times), _streamed(tokenizer.stream("0.5s"), frames, times)
    for name in ("frame_index", "future_frame_index", "timestamp", "future_timestamp"):
        assert np.array_equal(streamed[name], getattr(batch, name))
    wrong = streamed["codes"] != batch.codes
    assert not wrong.any(), f"{wrong.sum()} codes differ, with margins {batch.code_margin[wrong.any(1)]}"
    np.testing.assert_allclose(streamed["latents"].astype(float), batch.latents, rtol=2e-3, atol=5e-3)
    np.testing.assert_allclose(streamed["code_margin"], batch.code_margin, rtol=1e-2, atol=1e-3)


def _jittered(times):
    rng = np.random.default_rng(0)
    return 1.7e9 + times + rng.uniform(-0.3, 0.3, len(times)) * np.median(np.diff(times))


@pytest.mark.parametrize("clock", ["steady", "jittered"])
@pytest.mark.parametrize("name", ["hammer", "plate_slide", "sweep_into"])
def test_streamed_codes_equal_batch_codes(bundled, name, clock):
    episode = load_episodes(ROOT / "samples" / f"{name}.mp4")[0]
    times = episode.timestamps()[:30]
    _check_equal(bundled, episode.frames("", range(30)), times if clock == "steady" else _jittered(times))


def test_streamed_codes_equal_batch_codes_on_real_clips(bundled, shared_data):
    for number, path in enumerate(sorted((shared_data / "videos").glob("*.mp4"))):
        episode = load_episodes(path)[0]
        times = episode.timestamps()[:24]
        _check_equal(bundled, episode.frames("", range(len(times))), _jittered(times) if number % 2 else times)


def test_a_stream_in_frames_needs_no_times_and_holds_one_stride(tiny, moving_square):
    frames, stream = moving_square(40), tiny.stream("3f")
    batch, held, parts = tiny(frames, "3f"), [], []
    for frame in frames:
        parts.append(stream.push(frame))
        held.append(len(stream._frames))
    assert max(held) == held[-1] == 3
    assert np.array_equal(np.concatenate([part.codes for part in parts]), batch.codes)
    assert len(stream.finish()) == 0


def test_a_frame_without_a_time_or_too_many_frames_are_named_and_do_not_count(tiny, moving_square):
    frames, stream = moving_square(12), tiny.stream()  # the model's own stride, 0.5 s
    with pytest.raises(ValueError, match=r"stride '0.5s' needs the time of each frame: push\(frame, timestamp\)"):
        stream.push(frames[0])
    with pytest.raises(ValueError, match="one frame at a time; these are 12"):
        stream.push(frames, 0.0)
    assert stream.push(frames[0], 0.0).codes.shape == (0, 4)
    with pytest.raises(ValueError, match="after those of the frame before"):
        stream.push(frames[1], 0.0)
    assert stream.push(frames[5], 0.5).future_frame_index.tolist() == [1]


def test_after_the_end_another_episode_begins(tiny, moving_square):
    frames, stream = moving_square(12), tiny.stream("0.5s")
    first, second = (_streamed(stream, frames, np.arange(12) / 10 + start) for start in (7.0, 0.0))
    assert np.array_equal(first["codes"], second["codes"])
    assert np.array_equal(first["frame_index"], second["frame_index"])
    assert all(now < later for now, later in pairwise(second["timestamp"]))
