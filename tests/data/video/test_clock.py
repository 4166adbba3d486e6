"""Seconds of a clip list count on the clock of the file, as in players; segments count from the first frame."""

from fractions import Fraction

import av
import numpy as np
import pytest

from lara_tokenizer.data import VideoReader, load_episodes
from lara_tokenizer.data.segment import cut


@pytest.fixture(scope="module", params=["mp4", "mkv", "ts"])
def late_video(request, tmp_path_factory, numbered_frames):
    """30 frames at 10 per second that begin 1 s after the sound."""
    path = tmp_path_factory.mktemp("late") / f"late.{request.param}"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=10, options={"bf": "0"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream("aac" if request.param != "ts" else "mp2", rate=16000)
        silence = av.AudioFrame.from_ndarray(
            np.zeros((1, 64000), np.float32 if request.param != "ts" else np.int16),
            format="fltp" if request.param != "ts" else "s16",
            layout="mono",
        )
        silence.rate = 16000
        for packet in [*sound.encode(silence), *sound.encode(None)]:
            container.mux(packet)
        for number, pixels in enumerate(numbered_frames(30)):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number + 10, Fraction(1, 10)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    return path


def test_a_late_video_states_its_start_on_the_clock_of_the_file(late_video):
    index = VideoReader(late_video).index()
    assert index.start == pytest.approx(1.0, abs=0.08)  # encoded sound begins a little early
    assert index.timestamps[0] == 0
    np.testing.assert_allclose(index.timestamps, np.arange(30) / 10, atol=0.001)


def test_a_list_cuts_by_the_clock_of_the_file(late_video, decode_all):
    clips = late_video.parent / "clips.csv"
    clips.write_text(f"path,start,end\n{late_video.name},2.05,3.05\n{late_video.name},0,1.55\n{late_video.name},,9\n")
    clips = {clip.id.partition("#t=")[2]: clip for clip in load_episodes(f"list:{clips}")}
    start, expected = VideoReader(late_video).index().start, decode_all(late_video)
    first = int(np.ceil(10 * (2.05 - start)))
    assert clips["2.05,3.05"].num_frames() == 10
    np.testing.assert_array_equal(clips["2.05,3.05"].frames("", range(10)), expected[first : first + 10])
    assert clips["0,1.55"].num_frames() == int(np.ceil(10 * (1.55 - start)))
    assert clips["0,1.55"].timestamps()[0] == pytest.approx(start)
    assert clips["0,9"].num_frames() == 30


def test_segments_count_from_the_first_frame(late_video):
    parts = load_episodes(late_video, segment="1s")
    # A header that counts the sound promises more than there is: segments past the end are empty.
    assert [part.num_frames() for part in parts[:3]] == [10, 10, 10]
    assert not any(part.num_frames() for part in parts[3:])
    assert all(0 <= part.timestamps()[0] < 0.001 for part in parts[:3])
    start = VideoReader(late_video).index().start
    assert [part.frame_index().start for part in parts[:3]] == pytest.approx([start, start + 1, start + 2], abs=0.002)


def test_a_given_rate_replaces_the_clock_of_the_file(late_video):
    (whole,) = load_episodes(late_video, fps=5)
    part = cut(whole, 2, 3, by_file_clock=True)
    np.testing.assert_array_equal(part.frames("", range(5)), whole.frames("", range(10, 15)))


def test_a_segment_names_the_file_it_is_read_from(late_video):
    (whole,) = load_episodes(late_video)
    assert whole.files() == (late_video,)
