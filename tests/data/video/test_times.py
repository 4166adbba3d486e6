"""Time stamps are mended one by one; holes, restarts and early ends are said."""

import struct

import av
import numpy as np
import pytest

from lara_tokenizer.data import VideoReader
from lara_tokenizer.data.video.bitstream import Start
from lara_tokenizer.data.video.times import NO_TIME, display_order, hole_note

REPEAT = "1 time stamp repeats or is out of order: that frame is placed between its neighbours"
REPEATS = "{} time stamps repeat or are out of order: those frames are placed between their neighbours"
HOLE = "{} of 2.1 s after frame {}: frames are lost, or the recording paused"

# name: stamps in file order, rows in order of display, their times, the note
STAMPS = {
    "steady": ([0, 10, 20, 30], [0, 1, 2, 3], [0, 10, 20, 30], None),
    "reordered": ([0, 30, 10, 20, 40], [0, 2, 3, 1, 4], [0, 10, 20, 30, 40], None),
    "negative": ([-20, -10, 0, 10], [0, 1, 2, 3], [-20, -10, 0, 10], None),
    "one repeat": ([0, 10, 10, 30], [0, 1, 2, 3], [0, 10, 20, 30], REPEAT),
    "one repeat at an uneven rate": ([0, 10, 10, 40, 43], [0, 1, 2, 3, 4], [0, 10, 25, 40, 43], REPEAT),
    "the last repeats": ([0, 10, 20, 20], [0, 1, 2, 3], [0, 10, 20, 30], REPEAT),
    "repeats apart": ([0, 10, 10, 30, 40, 40, 60], list(range(7)), [0, 10, 20, 30, 40, 50, 60], REPEATS.format(2)),
    "repeats in a row": ([0, 10, 10, 10, 40, 50], list(range(6)), [0, 10, 20, 30, 40, 50], REPEATS.format(2)),
    "each twice": ([0, 0, 20, 20, 40, 40], list(range(6)), [0, 10, 20, 30, 40, 60], REPEATS.format(3)),
    "far ahead": ([0, 10, 9000, 30, 40], [0, 1, 2, 3, 4], [0, 10, 20, 30, 40], REPEAT),
    "far back": ([100, 110, 5, 130, 140], [0, 1, 2, 3, 4], [100, 110, 120, 130, 140], REPEAT),
    "just behind its neighbour": ([0, 10, 20, 19, 40, 50], list(range(6)), [0, 10, 20, 30, 40, 50], REPEAT),
    "stands still": ([0, 10, 20, 20, 20, 20], list(range(6)), [0, 10, 20, 30, 40, 50], REPEATS.format(3)),
    "the first is far ahead": ([900, 10, 20, 30], [0, 1, 2, 3], [0, 10, 20, 30], REPEAT),
    "stands still for long": (
        [*range(0, 300, 10), *[290] * 30],
        list(range(60)),
        list(range(0, 600, 10)),
        REPEATS.format(30),
    ),
    "two far ahead": ([0, 10, 20, 900, 910, 50, 60, 70], list(range(8)), list(range(0, 80, 10)), REPEATS.format(2)),
    "one missing": (
        [0, 10, NO_TIME, 30, 40],
        [0, 1, 2, 3, 4],
        [0, 10, 20, 30, 40],
        "1 frame has no time stamp: it is placed between its neighbours",
    ),
    "a restart": (
        [0, 10, 20, 30, 0, 10, 20],
        list(range(7)),
        [0, 10, 20, 30, 40, 50, 60],
        "the clock restarts at frame 4 (joined files?): later times follow on",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", STAMPS)
def test_one_false_stamp_leaves_the_others_as_they_are(case):
    stamps, rows, times, note = STAMPS[case]
    pts = np.array(stamps)
    is_key = np.array([t in (stamps[0], NO_TIME) for t in stamps])
    # A stamp that is out of order is so as a decoding time, too, in a stream without B pictures.
    dts = np.minimum.accumulate(pts[::-1])[::-1] if case == "reordered" else pts
    starts = np.where(is_key & (pts != NO_TIME), Start.CLOSED, Start.NONE)
    display = display_order(pts, dts, np.ones(len(pts), bool), starts)
    assert display.rows.tolist() == rows
    np.testing.assert_allclose(display.ticks, times)
    assert (display.note, display.is_stamped) == (note or "", note is None)


@pytest.mark.parametrize("shift", [0, 5, 25, 35])
def test_joined_streams_that_overlap_stay_in_the_order_of_the_file(shift):
    first = np.array([0, 30, 10, 20, 60, 40, 50])
    pts = np.concatenate([first, first + shift])
    dts = np.concatenate([np.arange(-2, 5) * 10, np.arange(-2, 5) * 10 + shift])
    starts = np.zeros(14, np.uint8)
    starts[[0, 7]] = Start.OPEN
    display = display_order(pts, dts, np.ones(14, bool), starts)
    assert display.rows.tolist() == [0, 2, 3, 1, 5, 6, 4, 7, 9, 10, 8, 12, 13, 11]
    np.testing.assert_allclose(display.ticks, np.arange(14) * 10)


@pytest.mark.parametrize("seed", range(6))
def test_only_a_lasting_jump_beyond_the_jitter_is_a_restart_of_the_clock(seed):
    jitter = np.random.default_rng(seed).integers(-12, 13, 60)
    steady, starts = np.arange(60) * 10, np.zeros(60, np.uint8)
    starts[::15] = Start.CLOSED
    for restart, note in ((0, "time stamps repeat or are out of order"), (-300, "the clock restarts at frame 30 ")):
        pts = steady + jitter + np.where(np.arange(60) < 30, 0, restart)
        display = display_order(pts, pts, np.ones(60, bool), starts)
        assert note in display.note
        assert ("restarts" in display.note) == bool(restart)
        assert display.rows.tolist() == list(range(60))
        assert (np.diff(display.ticks) > 0).all()
        np.testing.assert_allclose(display.ticks - display.ticks[0], steady, atol=24 if not restart else 48)


def test_a_decoder_tells_the_order_around_a_false_stamp():
    pts, starts = np.array([0, 30, 10, 20, 60, 29, 50, 70]), np.zeros(8, np.uint8)  # 29 instead of 40
    starts[0] = Start.CLOSED
    dts = np.arange(8) * 10 - 40
    guessed = display_order(pts, dts, np.ones(8, bool), starts)
    assert 5 in guessed.doubtful
    display = display_order(pts, dts, np.ones(8, bool), starts, np.array([0, 3, 1, 2, 6, 4, 5, 7]))
    assert display.rows.tolist() == [0, 2, 3, 1, 5, 6, 4, 7]
    assert (display.ticks.tolist(), display.note) == ([0, 10, 20, 30, 40, 50, 60, 70], REPEAT)


def test_stamps_that_are_all_alike_or_mostly_missing_give_no_times():
    for stamps in ([7, 7, 7], [NO_TIME] * 3, [0, NO_TIME, NO_TIME]):
        pts = np.array(stamps)
        assert display_order(pts, pts, np.ones(3, bool), np.zeros(3, np.uint8)).ticks is None


def test_holes_are_told_from_pauses_of_an_uneven_recording():
    steady = np.arange(60) / 10
    assert hole_note(steady) == ""
    assert hole_note(np.delete(steady, [20, 21])) == ""  # cameras drop a frame or two
    assert hole_note(np.delete(steady, range(20, 40))) == HOLE.format("a hole", 19)
    two = np.delete(steady, [*range(10, 14), *range(30, 50)])
    assert hole_note(two) == HOLE.format("2 holes, the longest", 25)
    uneven = np.cumsum(np.random.default_rng(0).choice([0.03, 0.1, 0.3], 300, p=[0.5, 0.3, 0.2]))
    assert hole_note(uneven) == ""
    often_paused = np.cumsum(np.where(np.arange(300) % 20 == 0, 3.0, 0.03))
    assert hole_note(often_paused) == ""
    assert hole_note(np.array([0.0])) == hole_note(np.array([0.0, 5.0])) == ""


def change_stamp(path, target, time, to):
    """Set the time of the block at `time` milliseconds of a one-cluster Matroska file to another."""
    data, block = bytearray(path.read_bytes()), b"\x81" + struct.pack(">h", time)
    assert data.count(block) == 1
    at = data.index(block)
    data[at : at + 3] = b"\x81" + struct.pack(">h", to)
    target.write_bytes(data)
    return target


@pytest.mark.parametrize("bframes", ["0", "2"])
def test_a_file_with_one_repeated_stamp_keeps_its_frames_and_times(
    tmp_path, write_video, numbered_frames, decode_all, bframes
):
    good = write_video(tmp_path / "good.mkv", numbered_frames(30), options={"bf": bframes})
    path = change_stamp(good, tmp_path / "bad.mkv", 1700, 1600)
    expected, reader = decode_all(path), VideoReader(path)
    assert reader.index().note == REPEAT
    np.testing.assert_allclose(reader.index().timestamps, np.arange(30) / 10, atol=0.001)
    for number in (29, 17, 3, 18):
        np.testing.assert_array_equal(reader.frames("", [number])[0], expected[number])


@pytest.mark.parametrize("stamp", [1593, 1550, 1610, 1310, 1850, 2330])
def test_a_false_stamp_among_those_of_b_pictures_moves_no_frame(
    tmp_path, write_video, numbered_frames, decode_all, stamp
):
    good = write_video(tmp_path / "good.mkv", numbered_frames(40), options={"bf": "2"})
    path = change_stamp(good, tmp_path / "bad.mkv", 1700, stamp)
    expected, reader = decode_all(good), VideoReader(path)
    np.testing.assert_array_equal(reader.frames("", range(40)), expected)
    np.testing.assert_array_equal(VideoReader(path).frames("", [30])[0], expected[30])
    if 1600 < stamp < 1800:  # in order all the same
        assert reader.index().note == ""
        np.testing.assert_allclose(reader.index().timestamps, np.arange(40) / 10, atol=0.1)
    else:
        assert reader.index().note == REPEAT
        np.testing.assert_allclose(reader.index().timestamps, np.arange(40) / 10, atol=0.001)


def test_jitter_around_key_frames_among_b_pictures_moves_no_frame(
    tmp_path, rewrite, write_video, numbered_frames, decode_all
):
    good = write_video(tmp_path / "good.mp4", numbered_frames(40), options={"bf": "2"})
    jitter = np.random.default_rng(3).uniform(0, 1.8, 40)

    def waver(number, packet):
        packet.pts += int(jitter[number] / 10 / packet.time_base)

    path = rewrite(good, tmp_path / "bad.mkv", waver)
    expected, reader = decode_all(good), VideoReader(path)
    assert "out of order" in reader.index().note
    assert "restarts" not in reader.index().note
    np.testing.assert_array_equal(reader.frames("", range(40)), expected)
    times = reader.index().timestamps
    assert (np.diff(times) > 0).all()
    np.testing.assert_allclose(times - times.mean(), np.arange(40) / 10 - 1.95, atol=0.2)


def test_an_avi_whose_header_counts_fields_or_empty_chunks_is_complete(tmp_path, rewrite, write_video, numbered_frames):
    good = write_video(tmp_path / "good.mp4", numbered_frames(20), codec="mpeg4")

    def halve(_, packet):
        packet.pts, packet.dts = 2 * packet.pts, 2 * packet.dts

    sparse = rewrite(good, tmp_path / "sparse.avi", halve)
    with av.open(str(sparse)) as container:
        assert container.streams.video[0].frames > 20
    assert VideoReader(sparse).index().num_frames == 20
    assert "promises" not in VideoReader(sparse).index().note


@pytest.mark.parametrize("bframes", ["0", "2"])
@pytest.mark.parametrize("offset", [0.0, 0.33, 1.1, 9.0])
def test_transport_streams_joined_by_cat_are_one_film(
    tmp_path, rewrite, write_video, numbered_frames, decode_all, bframes, offset
):
    first = write_video(tmp_path / "a.ts", numbered_frames(15), gop=6, options={"bf": bframes})

    def later(_, packet):
        packet.pts, packet.dts = packet.pts + int(90_000 * offset), packet.dts + int(90_000 * offset)

    second = rewrite(first, tmp_path / "b.ts", later)
    path = tmp_path / "cat.ts"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    expected, reader = decode_all(path), VideoReader(path)
    assert reader.index().num_frames == len(expected) == 30
    note = "a hole of" if offset == 9 else "the clock restarts at frame 15"
    assert reader.index().note.startswith(note)
    pause = np.where(np.arange(30) < 15, 0, offset - 1.5 if offset == 9 else 0)
    np.testing.assert_allclose(reader.index().timestamps, np.arange(30) / 10 + pause, atol=0.11)
    np.testing.assert_array_equal(np.concatenate([reader.frames("", [k]) for k in (29, 14, 15, 2, 20)]),
                                  expected[[29, 14, 15, 2, 20]])  # fmt: skip


def test_packets_of_vp8_that_show_nothing_are_no_frames(tmp_path, rewrite, write_video, numbered_frames, decode_all):
    good = write_video(tmp_path / "good.webm", numbered_frames(20), codec="libvpx", options={"cpu-used": "8"})

    def hide(number, packet):
        if number in (5, 6, 15):
            data = bytes(packet)
            packet.update(bytes([data[0] & ~16]) + data[1:])

    path = rewrite(good, tmp_path / "hidden.webm", hide)
    reader, expected = VideoReader(path), decode_all(path)
    assert reader.index().num_frames == len(expected) == 17
    for number in (16, 5, 12, 13):
        np.testing.assert_array_equal(reader.frames("", [number])[0], expected[number])
    times = np.delete(np.arange(20) / 10, [5, 6, 15])
    np.testing.assert_allclose(reader.index().timestamps, times, atol=0.001)


def test_hidden_frames_within_packets_of_vp9_do_not_count(tmp_path, write_video, numbered_frames, decode_all):
    options = {"auto-alt-ref": "1", "lag-in-frames": "10", "deadline": "good", "cpu-used": "8"}
    path = write_video(tmp_path / "a.webm", numbered_frames(25), codec="libvpx-vp9", gop=25, options=options)
    assert VideoReader(path).index().num_frames == len(decode_all(path)) == 25


def test_a_file_cut_off_between_frames_says_how_much_is_missing(tmp_path, write_video, numbered_frames):
    good = write_video(tmp_path / "good.mkv", numbered_frames(40), gop=5)
    assert VideoReader(good).index().note == ""
    data = good.read_bytes()
    with av.open(str(good)) as container:
        ends = [packet.pos for packet in container.demux(video=0) if packet.size]
    path = tmp_path / "cut.mkv"
    path.write_bytes(data[: ends[20]])
    assert VideoReader(path).index().note.startswith("the file ends 2.")


def test_the_digest_tells_files_apart_and_stays_the_same(tmp_path, write_video, numbered_frames):
    one = write_video(tmp_path / "a.mp4", numbered_frames(12))
    other = write_video(tmp_path / "b.mp4", numbered_frames(13)[1:])
    digests = [VideoReader(path).index().digest for path in (one, one, other)]
    assert digests[0] == digests[1] != digests[2]
    assert len(digests[0]) == 64
