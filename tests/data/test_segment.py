"""Segments of long recordings: exact cuts, relative times, files opened no more than necessary."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from lara_tokenizer.data import load_episodes
from lara_tokenizer.data.segment import segments
from lara_tokenizer.data.video import backends, packets
from lara_tokenizer.data.video import reader as video
from lara_tokenizer.errors import EpisodeReadError


def test_segments_are_the_film_cut_up(film, decode_all):
    whole = decode_all(film)
    cuts = load_episodes(film.parent, segment="2s")
    assert [part.id for part in cuts] == ["film.mp4#t=0,2", "film.mp4#t=2,4", "film.mp4#t=4"]
    assert [part.num_frames() for part in cuts] == [20, 20, 5]
    assert np.array_equal(np.concatenate([part.frames("", range(part.num_frames())) for part in cuts]), whole)
    for part in cuts:
        assert np.allclose(part.timestamps(), np.arange(part.num_frames()) / 10)


def test_times_are_counted_from_the_cut_and_never_negative(film):
    cuts = load_episodes(film, segment="0.35s")
    for k, part in enumerate(cuts):
        assert (part.timestamps() >= 0).all()
        absolute = part.timestamps() + 0.35 * k
        assert np.allclose(absolute, np.round(absolute * 10) / 10)
    # Frames at 0, 0.1, 0.2, 0.3, then 0.4 ... 0.6: four, three and four fall into a cut of 0.35 s.
    assert [part.num_frames() for part in cuts][:3] == [4, 3, 4]
    assert sum(part.num_frames() for part in cuts) == 45


def test_a_corrected_rate_decides_the_cuts(film):
    cuts = load_episodes(film, segment="2s", fps=5)
    assert [part.num_frames() for part in cuts] == [10, 10, 10, 10, 5]
    assert np.allclose(cuts[1].timestamps(), np.arange(10) / 5)


def test_the_file_is_scanned_once_for_all_its_segments(film, monkeypatch):
    cuts = [pickle.loads(pickle.dumps(part)) for part in load_episodes(film, segment="1s")]
    scanned = []
    monkeypatch.setattr(video, "scan", lambda path: scanned.append(path) or packets.scan(path))
    backends._reader.cache_clear()
    for part in cuts:
        part.frames("", [0])
        part.close()
    assert scanned == [film]


def test_a_limit_opens_no_more_than_it_needs(tmp_path, film, monkeypatch):
    for name in "abc":
        (tmp_path / f"{name}.mp4").write_bytes(film.read_bytes())
    opened = []
    monkeypatch.setattr(video, "open_video", lambda path: opened.append(path.name) or packets.open_video(path))
    assert len(load_episodes(tmp_path, segment="2s", limit=4)) == 4
    assert opened == ["a.mp4", "b.mp4"]


def test_actions_and_text_are_cut_with_the_frames(tmp_path, numbered_frames, write_lerobot):
    root = write_lerobot(tmp_path / "set", {"observation.images.top": [numbered_frames(25)]}, tasks=["push"])
    (whole,) = load_episodes(root)
    first, second, last = load_episodes(root, segment="1s")
    parts = [part.signals() for part in (first, second, last)]
    assert np.array_equal(np.concatenate([part.actions for part in parts]), whole.signals().actions)
    assert [len(part.texts) for part in parts] == [10, 10, 5]
    assert second.index == 0
    assert second.available_signals == whole.available_signals


def test_a_limit_counts_segments(film):
    assert [part.id for part in load_episodes(film, segment="1s", limit=2)] == ["film.mp4#t=0,1", "film.mp4#t=1,2"]


def test_a_film_that_cannot_be_opened_stays_one_episode_and_fails_by_itself(film, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"")
    (tmp_path / "film.mp4").write_bytes(film.read_bytes())
    cuts = load_episodes(tmp_path, segment="3s")
    assert [part.id for part in cuts] == ["bad.mp4", "film.mp4#t=0,3", "film.mp4#t=3"]
    with pytest.raises(EpisodeReadError, match="empty"):
        cuts[0].num_frames()


def test_a_header_that_promises_too_much_gives_empty_segments_and_nothing_wrong(film, monkeypatch):
    (whole,) = load_episodes(film)
    monkeypatch.setattr(video.VideoReader, "stated_duration", lambda self, fps: 60.0)
    cuts = segments(whole, "2s")
    assert [part.num_frames() for part in cuts] == [20, 20, 5] + [0] * 27


@pytest.mark.parametrize("text", ["10", "10f", "0s", "-1s", "ten"])
def test_a_segment_is_a_number_of_seconds(film, text):
    with pytest.raises(ValueError, match="takes seconds, such as '10s'"):
        load_episodes(film, segment=text)


def test_a_header_that_promises_ages_is_not_believed(film, monkeypatch):
    (whole,) = load_episodes(film)
    monkeypatch.setattr("lara_tokenizer.data.segment._MOST_BY_HEADER", 4)
    assert [part.num_frames() for part in segments(whole, "1s")] == [10, 10, 10, 10, 5]


def test_segments_come_in_the_order_of_time(film):
    cuts = load_episodes(film, segment="0.4s")
    starts = [float(part.id.partition("#t=")[2].partition(",")[0]) for part in cuts]
    assert starts == sorted(starts)
    assert len(starts) == 12
    assert [part.id for part in load_episodes(film, segment="0.4s", limit=5)] == [part.id for part in cuts][:5]
