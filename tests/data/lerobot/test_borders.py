"""Borders of episodes in their video: times and lengths are checked against each other, and never shift silently."""

from __future__ import annotations

import numpy as np
import pytest
from lerobot_files import edit_episodes, read_numbers

from lara_tokenizer.data import load_episodes
from lara_tokenizer.data.lerobot.spans import VideoSpan, first_frame_of, lay_out
from lara_tokenizer.errors import EpisodeReadError

TOP = "observation.images.top"
START, STOP = f"videos/{TOP}/from_timestamp", f"videos/{TOP}/to_timestamp"
VIDEO = f"videos/{TOP}/chunk-000/file-000.mp4"
LENGTHS = (8, 6, 7, 5)
EXACT = (0.0, 0.8, 1.4, 2.1)


def set_starts(root, starts):
    """Write from_timestamp, and the to_timestamp that fits it."""

    def edit(rows):
        for row, start in zip(rows, starts, strict=True):
            row |= {START: start, STOP: start + row["length"] / 10}

    edit_episodes(root, edit)


def outcome(root, check_pairs):
    """By episode: its note after all its pairs were found right, or its error."""
    found = {}
    for episode in load_episodes(root):
        try:
            found[episode.index] = check_pairs(episode)
        except EpisodeReadError as error:
            found[episode.index] = error
    return found


@pytest.mark.parametrize(
    ("starts", "noted"),
    [
        ((0.0, 0.83, 1.46, 2.19), {2, 3}),  # rounded durations added up
        ((0.0, 0.77, 1.34, 2.01), {2, 3}),  # the other way
        ((0.0, 0.7, 1.3, 2.0), {0, 1, 2, 3}),  # spans that overlap by a frame
        ((0.0, 0.9, 1.6, 2.4), {1, 2, 3}),  # one frame too long each
        (np.float32(EXACT).tolist(), set()),
        ((0.0001, 0.8003, 1.3996, 2.1004), set()),
    ],
)
def test_lengths_that_fill_the_file_correct_its_times(set_v3, check_pairs, starts, noted):
    set_starts(set_v3, starts)
    found = outcome(set_v3, check_pairs)
    assert all(isinstance(note, str) for note in found.values())
    assert {index for index, note in found.items() if note} == noted
    assert all("episodes add up to its 26 frames" in found[index] for index in noted)


@pytest.mark.parametrize(
    ("starts", "refused"),
    [
        ((0.0, 0.4, 1.0, 2.1), {1, 2}),  # windows that share frames, and add up to the file by chance
        ((0.8, 0.0, 1.4, 2.1), {0, 1, 2, 3}),  # two that changed places, though their lengths differ
        ((0.0, 0.0, 0.0, 0.0), {0, 1, 2, 3}),
        ((5.0, 5.8, 6.4, 7.1), {0, 1, 2, 3}),
    ],
)
def test_times_that_no_rounding_explains_are_refused(set_v3, check_pairs, starts, refused):
    set_starts(set_v3, starts)
    found = outcome(set_v3, check_pairs)
    assert {index for index, error in found.items() if isinstance(error, EpisodeReadError)} == refused


def test_a_note_gives_the_reason_with_enough_digits(set_v3, check_pairs, numbered_frames, write_video):
    set_starts(set_v3, (-0.1, 0.85, 1.45, 2.15))
    found = outcome(set_v3, check_pairs)
    assert found[0].startswith("from_timestamp -0.1 s is 0.1 s off frame 0; the lengths of the file's 4 episodes")
    assert found[2].startswith("from_timestamp 1.45 s is 0.05 s off frame 14; the lengths")
    set_starts(set_v3, EXACT)
    write_video(set_v3 / VIDEO, numbered_frames(26), fps=9.75)
    pace = "the video's frames come at 9.75 per second, meta/info.json says fps 10"
    found = outcome(set_v3, check_pairs)
    assert [note.startswith(pace) for note in found.values()] == [True, True, True, False]
    assert found[3].startswith("from_timestamp 2.1 s is frame 20 of the video file, but")
    assert pace in found[3]


def test_episodes_may_lie_in_any_order_in_their_file(set_v3, check_pairs, numbered_frames, write_video):
    clips = np.split(numbered_frames(26), (8, 14, 21))
    write_video(set_v3 / VIDEO, np.concatenate([clips[i] for i in (2, 0, 3, 1)]))
    set_starts(set_v3, (0.7, 2.0, 0.0, 1.5))
    assert outcome(set_v3, check_pairs) == dict.fromkeys(range(4), "")


def test_each_camera_has_borders_of_its_own(tmp_path, numbered_frames, write_lerobot, write_video):
    wrist = "observation.images.wrist"
    clips = np.split(numbered_frames(52), np.cumsum(LENGTHS * 2)[:-1])
    root = write_lerobot(tmp_path / "set", {TOP: clips[:4], wrist: clips[4:]})
    write_video(root / f"videos/{wrist}/chunk-000/file-003.mp4", np.concatenate([*clips[6:], clips[4]]))
    keys = [f"videos/{wrist}/{key}" for key in ("file_index", "from_timestamp", "to_timestamp")]
    places = [(3, 1.2, 2.0), (0, 0.8, 1.4), (3, 0.0, 0.7), (3, 0.7, 1.2)]
    edit_episodes(
        root, lambda rows: [row | dict(zip(keys, place, strict=True)) for row, place in zip(rows, places, strict=True)]
    )
    set_starts(root, (0.0, 0.83, 1.46, 2.19))
    for episode in load_episodes(root, cameras="all"):
        first = sum(LENGTHS[: episode.index])
        for camera, begin in ((TOP, first), (wrist, 26 + first)):
            found = read_numbers(episode.frames(camera, range(LENGTHS[episode.index])))
            assert found == list(range(begin, begin + LENGTHS[episode.index]))
        assert bool(episode.frame_index(TOP).note) == (episode.index >= 2)


def test_a_deleted_episode_leaves_a_gap_where_times_are_exact(set_v3, check_pairs):
    edit_episodes(set_v3, lambda rows: [rows[0], *rows[2:]])
    assert outcome(set_v3, check_pairs) == {
        0: "the video file has 26 frames, its 3 episodes have 20; paired by time", 2: "", 3: "",
    }  # fmt: skip
    set_starts(set_v3, (0.0, 1.46, 2.19))
    found = outcome(set_v3, check_pairs)
    assert found[0].startswith("the video file has 26 frames")
    assert "2 is frame 15 of 26" in str(found[2]).replace("1.46 s is", "2 is")
    assert "which frame belongs to which row is unknown" in str(found[2])
    assert isinstance(found[3], EpisodeReadError)


@pytest.mark.parametrize("extra", [1, 13])
def test_frames_after_the_last_episode_belong_to_nobody(set_v3, check_pairs, numbered_frames, write_video, extra):
    write_video(set_v3 / VIDEO, numbered_frames(26 + extra))
    note = f"the video file has {26 + extra} frames, its 4 episodes have 26; paired by time"
    assert outcome(set_v3, check_pairs) == dict.fromkeys(range(4), note)


def test_a_frame_or_two_between_episodes_are_said(set_v3, numbered_frames, write_video):
    write_video(set_v3 / VIDEO, numbered_frames(30))  # films with a frame more than rows, joined
    set_starts(set_v3, (0.0, 0.9, 1.6, 2.4))
    for episode, first in zip(load_episodes(set_v3), (0, 9, 16, 24), strict=True):
        assert read_numbers(episode.frames(TOP, [0])) == [first]
        assert "has 30 frames, its 4 episodes have 26" in episode.frame_index(TOP).note


def test_another_clock_is_no_proof_where_the_file_has_more_frames():
    # A film at 29.97 with 100 frames of nobody at its end; times are those of 30 frames a second.
    stamps = np.arange(2100) * 1001 / 30000
    found = place([0.0, 500 / 30, 1000 / 30], [500, 500, 400], stamps, 30)
    assert all(isinstance(reason, str) for reason in found)
    found = place([0.0, 500 * 1001 / 30000, 1000 * 1001 / 30000], [500, 500, 400], stamps, 30)
    assert [first for first, _ in found] == [0, 500, 1000]


def test_a_file_that_lacks_frames_costs_the_last_and_is_said(set_v3, check_pairs, numbered_frames, write_video):
    write_video(set_v3 / VIDEO, numbered_frames(25))
    found = outcome(set_v3, check_pairs)
    assert "frames are missing" in str(found.pop(3))
    assert all(
        note == "the video file has 25 frames, its 4 episodes have 26; paired by time" for note in found.values()
    )


def test_without_times_only_a_file_of_its_own_is_read(set_v3, check_pairs):
    edit_episodes(set_v3, lambda rows: [row | {STOP: None} for row in rows])
    assert outcome(set_v3, check_pairs) == dict.fromkeys(range(4), "")
    edit_episodes(set_v3, lambda rows: [row | {START: None} for row in rows])
    assert all("4 episodes are in this file, and this one has no from_timestamp" in str(error)
               for error in outcome(set_v3, check_pairs).values())  # fmt: skip


def test_a_few_frames_too_many_are_a_note_and_more_are_refused(set_v2, check_pairs, numbered_frames, write_video):
    folder = set_v2 / f"videos/chunk-000/{TOP}"
    frames = numbered_frames(60)
    write_video(folder / "episode_000000.mp4", frames[:9])
    write_video(folder / "episode_000001.mp4", frames[8:16])
    write_video(folder / "episode_000002.mp4", frames[14:20])
    write_video(folder / "episode_000003.mp4", frames[21:29])
    found = outcome(set_v2, check_pairs)
    assert found[0] == "the video has 9 frames for 8 rows: the last is not used"
    assert found[1] == "the video has 8 frames for 6 rows: the last 2 are not used"
    assert str(found[2]).endswith("the file has 6 frames, the metadata says 7")
    assert str(found[3]).endswith("the file has 8 frames, the metadata says 5")
    write_video(folder / "episode_000000.mp4", frames[:9], fps=20)
    assert "unknown which frame belongs to which row" in str(outcome(set_v2, check_pairs)[0])


def place(starts, lengths, timestamps, fps, stops=None):
    """The first frame and the note of each episode of one file, or its error."""
    spans = [VideoSpan("a.mp4", start, stop) for start, stop in zip(starts, stops or [None] * len(starts), strict=True)]
    found = []
    for span, length in zip(lay_out(spans, lengths, fps), lengths, strict=True):
        try:
            found.append(first_frame_of(span, timestamps, length, fps))
        except EpisodeReadError as error:
            found.append(error.reason)
    return found


@pytest.mark.parametrize("rate", [30000 / 1001, 15, 30, 60])
def test_a_file_of_another_rate_is_paired_in_order_where_lengths_fill_it(rate):
    lengths, firsts = [1000, 1000, 700], [0, 1000, 2000]
    stamps = np.arange(2700) / rate
    for clock in (rate, 30):  # times are kept on the file's clock or on that of the metadata
        starts = [first / clock for first in firsts]
        stops = [start + length / clock for start, length in zip(starts, lengths, strict=True)]
        found = place(starts, lengths, stamps, 30, stops)
        assert [first for first, _ in found] == firsts
        assert all(bool(note) == (rate != 30) for _, note in found)


def test_a_faster_or_slower_film_of_the_same_time_is_refused_with_its_rate():
    for rate in (15, 60):
        found = place([0.0, 10.0], [300, 300], np.arange(20 * rate) / rate, 30)
        assert all("expected a frame every 1/30 s" in reason for reason in found)
        assert all(f"the file's are {rate} per second" in reason for reason in found)


def test_a_hole_in_the_times_of_the_frames_costs_its_episode_alone():
    stamps = np.delete(np.arange(40) / 20, 17)
    first, second, third = place([0.0, 0.5, 1.0], [10, 10, 20], stamps, 20)
    assert first == (0, "the video file has 39 frames, its 3 episodes have 40; paired by time")
    assert "expected a frame every 1/20 s" in second
    assert third == (19, "")


def test_a_lost_frame_and_one_too_many_do_not_add_up_to_a_proof():
    stamps = np.sort(np.append(np.delete(np.arange(40) / 20, 3), 39.4 / 20))
    found = place([0.0, 0.5, 1.0], [10, 10, 20], stamps, 20)
    assert "which frame belongs to which row is unknown" in found[1]


def test_uneven_times_matter_only_where_episodes_share_a_file():
    stamps = np.cumsum([0.0, 0.1, 0.1, 0.3, 0.1, 0.02, 0.1, 0.1])
    ((first, note),) = place([0.0], [8], stamps, 10)
    assert first == 0
    assert "paired in order" in note
    assert all(isinstance(reason, str) for reason in place([0.0, 0.4], [4, 4], stamps, 10))


def test_a_span_may_be_a_frame_off_its_length_where_the_file_is_full():
    stamps = np.arange(20) / 10
    assert place([0.0, 1.0], [10, 10], stamps, 10, [1.0, 2.1])[1] == (10, "")
    assert "are 11 frames, the metadata says 10" in place([0.0, 1.0], [10, 10], np.arange(25) / 10, 10, [1.0, 2.1])[1]
    assert "are 12 frames, the metadata says 10" in place([0.0, 1.0], [10, 10], stamps, 10, [1.0, 2.2])[1]


def test_an_absurd_length_costs_no_memory():
    (reason,) = place([0.0], [10**8], np.arange(20) / 10, 10)
    assert "frames are missing" in reason
