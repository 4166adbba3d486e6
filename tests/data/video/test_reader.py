"""Every frame is the one that decoding the whole file produces, in any order of requests."""

import pickle
from fractions import Fraction

import av
import numpy as np
import pytest

from lara_tokenizer.data import VideoReader
from lara_tokenizer.data.video.gop_decoder import GopDecoder
from lara_tokenizer.errors import VideoDecodeError

# name: file name, codec, GOP, pixel format, height, width, encoder options
CLIPS = {
    "h264 GOP 2": ("clip.mp4", "libx264", 2, "yuv420p", 48, 64, {}),
    "h264 GOP 10, B-frames": ("clip.mp4", "libx264", 10, "yuv420p", 48, 64, {"bf": "2"}),
    "h264 GOP 250, B-frames": ("clip.mp4", "libx264", 250, "yuv420p", 48, 64, {"bf": "2"}),
    "h264 GOP 100 in mkv": ("clip.mkv", "libx264", 100, "yuv420p", 48, 64, {"bf": "2"}),
    "h264 open GOPs": ("clip.mp4", "libx264", 12, "yuv420p", 48, 64, {"x264-params": "open-gop=1:bframes=3"}),
    "h264 intra refresh": ("clip.mp4", "libx264", 12, "yuv420p", 48, 64, {"x264-params": "intra-refresh=1:bframes=0"}),
    "h264 in a transport stream": ("clip.ts", "libx264", 12, "yuv420p", 48, 64, {"bf": "2"}),
    "h264 without time stamps": ("clip.h264", "libx264", 12, "yuv420p", 48, 64, {"bf": "2"}),
    "h264 10-bit": ("clip.mp4", "libx264", 12, "yuv420p10le", 48, 64, {"bf": "2"}),
    "h264 odd size": ("clip.mp4", "libx264", 12, "yuv444p", 49, 67, {}),
    "hevc open GOPs": ("clip.mp4", "libx265", 12, "yuv420p", 64, 64, {"x265-params": "open-gop=1:log-level=0"}),
    "av1 GOP 2": ("clip.mp4", "libsvtav1", 2, "yuv420p", 64, 64, {"preset": "12"}),
    "vp9": ("clip.webm", "libvpx-vp9", 30, "yuv420p", 48, 64, {"deadline": "realtime", "cpu-used": "8"}),
    "mpeg4 in avi, B-frames": ("clip.avi", "mpeg4", 12, "yuv420p", 48, 64, {"bf": "2"}),
    "mpeg2 program stream": ("clip.mpg", "mpeg2video", 12, "yuv420p", 48, 64, {"bf": "2"}),
    "motion jpeg": ("clip.avi", "mjpeg", 1, "yuvj420p", 48, 64, {}),
}  # fmt: skip
# Time stamps that follow the decoding order though the frames do not: as in opencv_box.mp4.
MISTIMED = {"h264 in avi, B-frames": ("clip.avi", "libx264", 12, "yuv420p", 48, 64, {"bf": "2"})}
NUM_FRAMES = {"av1 GOP 2": 40, "hevc open GOPs": 60, "vp9": 60}


@pytest.fixture(scope="module", params=[*CLIPS, *MISTIMED])
def clip(request, tmp_path_factory, write_video, numbered_frames, decode_all):
    name, codec, gop, pix_fmt, height, width, options = (CLIPS | MISTIMED)[request.param]
    frames = numbered_frames(NUM_FRAMES.get(request.param, 260), height, width)
    path = tmp_path_factory.mktemp("clip") / name
    write_video(path, frames, fps=25, codec=codec, gop=gop, pix_fmt=pix_fmt, options=options)
    return path, decode_all(path)


def test_a_chunk_after_a_chunk_gives_every_frame(clip):
    path, expected = clip
    reader = VideoReader(path)
    assert reader.index().num_frames == len(expected)
    for first in range(0, len(expected), 17):
        numbers = np.arange(first, min(first + 17, len(expected)))
        np.testing.assert_array_equal(reader.frames("", numbers), expected[numbers])


@pytest.mark.parametrize("step", [3, 7, 90])
def test_every_so_many_frames_are_those_frames(clip, step):
    path, expected = clip
    numbers = np.arange(1, len(expected), step)
    np.testing.assert_array_equal(VideoReader(path).frames("", numbers), expected[numbers])


def test_frames_at_random_are_those_frames_in_the_order_asked(clip):
    path, expected = clip
    reader, rng = VideoReader(path), np.random.default_rng(1)
    for size in (1, 1, 1, 5, 1, 9, 2):
        numbers = rng.integers(0, len(expected), size)
        np.testing.assert_array_equal(reader.frames("", numbers), expected[numbers])


def test_a_lone_frame_of_a_new_reader_is_that_frame(clip):
    path, expected = clip
    for number in (0, 1, 13, 25, len(expected) - 1):
        np.testing.assert_array_equal(VideoReader(path).frames("", [number])[0], expected[number])


@pytest.fixture
def long_clip(tmp_path, write_video, numbered_frames):
    return write_video(tmp_path / "clip.mp4", numbered_frames(300), fps=25, gop=10, options={"bf": "2"})


def test_only_groups_of_pictures_with_a_wanted_frame_are_decoded(long_clip, monkeypatch):
    decoded, output = [], GopDecoder._output
    monkeypatch.setattr(GopDecoder, "_output", lambda self: decoded.append(1) or output(self))
    VideoReader(long_clip).frames("", [5, 105, 295])
    assert len(decoded) <= 3 * 10


def test_growing_indices_go_on_without_a_new_start(long_clip, monkeypatch):
    jumps, jump_to = [], GopDecoder._jump_to
    monkeypatch.setattr(GopDecoder, "_jump_to", lambda self, row: jumps.append(row) or jump_to(self, row))
    reader = VideoReader(long_clip)
    for first in range(0, 300, 64):
        reader.frames("", range(first, min(first + 64, 300)))
    assert jumps == []


def test_repeated_and_no_indices(long_clip, decode_all):
    expected = decode_all(long_clip)
    np.testing.assert_array_equal(VideoReader(long_clip).frames("", [7, 7, 3]), expected[[7, 7, 3]])
    assert VideoReader(long_clip).frames("", []).shape == (0, 48, 64, 3)


@pytest.mark.parametrize("number", [-1, 300])
def test_an_index_outside_the_video_is_refused(long_clip, number):
    with pytest.raises(IndexError, match="it has 0 to 299"):
        VideoReader(long_clip).frames("", [number])


def test_a_reader_travels_to_another_process_with_its_scan_and_without_its_decoder(long_clip):
    reader = VideoReader(long_clip)
    before = reader.frames("", [10, 200])
    copy = pickle.loads(pickle.dumps(reader))
    assert copy._scanned is not None
    np.testing.assert_array_equal(copy.frames("", [10, 200]), before)
    reader.close()
    np.testing.assert_array_equal(reader.frames("", [10, 200]), before)


def test_variable_rate_keeps_each_frame_at_its_time(tmp_path, numbered_frames, decode_all):
    times = np.cumsum(np.random.default_rng(0).integers(20, 120, 60))
    path = tmp_path / "vfr.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"bf": "2"})
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 64, 48, "yuv420p", 10
        stream.codec_context.time_base = Fraction(1, 1000)
        for pixels, time in zip(numbered_frames(60), times, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = int(time), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    reader = VideoReader(path)
    np.testing.assert_allclose(reader.index().timestamps, (times - times[0]) / 1000, atol=0.0015)
    assert reader.index().fps == pytest.approx(1000 / np.median(np.diff(times)), rel=0.1)
    np.testing.assert_array_equal(reader.frames("", range(1, 60, 4)), decode_all(path)[1::4])


@pytest.mark.parametrize(("name", "fps"), [("a.mp4", 30), ("a.mkv", 30), ("a.mp4", 30000 / 1001), ("a.webm", 7.5)])
def test_a_constant_rate_comes_out_as_itself(tmp_path, write_video, numbered_frames, name, fps):
    codec = "libvpx-vp9" if name.endswith("webm") else "libx264"
    index = VideoReader(write_video(tmp_path / name, numbered_frames(31), fps=fps, codec=codec)).index()
    assert index.fps == pytest.approx(fps, rel=0.002)
    np.testing.assert_allclose(index.timestamps, np.arange(31) / fps, atol=0.001)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_rotated_video_stands_upright(tmp_path, numbered_frames, decode_all, degrees):
    path = tmp_path / "phone.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.set_display_rotation(degrees)
        for pixels in numbered_frames(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    upright = np.rot90(decode_all(path), degrees // 90, axes=(1, 2))
    np.testing.assert_array_equal(VideoReader(path).frames("", [0, 1, 2]), upright)


def test_of_two_streams_ffmpegs_best_is_taken_and_named(tmp_path, numbered_frames):
    path = tmp_path / "two.mp4"
    with av.open(str(path), "w") as container:
        streams = []
        # mp4 marks the first as the default, and that counts most.
        for height, width in ((48, 64), (24, 32)):
            stream = container.add_stream("libx264", rate=10)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            streams.append((stream, numbered_frames(12, height, width)))
        for t in range(12):
            for stream, frames in streams:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frames[t], format="rgb24")))
        for stream, _ in streams:
            container.mux(stream.encode(None))
    reader = VideoReader(path)
    assert reader.index().note == "2 video streams, took stream 0 (64x48)"
    assert reader.frames("", [0, 11]).shape == (2, 48, 64, 3)


def test_frames_cut_away_by_an_edit_list_are_not_counted(tmp_path, long_clip, decode_all):
    """A stream copy that begins within a GOP holds packets that are decoded and never shown."""
    path, whole = tmp_path / "cut.mp4", decode_all(long_clip)
    with av.open(str(long_clip)) as source, av.open(str(path), "w") as target:
        video = source.streams.video[0]
        copy = target.add_stream_from_template(video)
        ticks = int(1 / (25 * video.time_base))
        for packet in source.demux(video):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - 4 * ticks, packet.dts - 4 * ticks, copy
                target.mux(packet)
    reader = VideoReader(path)
    assert reader.index().num_frames == 296
    np.testing.assert_array_equal(reader.frames("", range(296)), whole[4:])
    np.testing.assert_array_equal(VideoReader(path).frames("", [100, 0, 295]), whole[[104, 4, 299]])


def test_a_single_frame_is_a_video(tmp_path, write_video, numbered_frames):
    reader = VideoReader(write_video(tmp_path / "one.mp4", numbered_frames(1)))
    assert reader.index().timestamps.tolist() == [0.0]
    assert reader.frames("", [0]).shape == (1, 48, 64, 3)


def test_a_path_with_a_colon_is_no_protocol(tmp_path, write_video, numbered_frames, monkeypatch):
    write_video(tmp_path / "12:30.mp4", numbered_frames(3))
    monkeypatch.chdir(tmp_path)
    assert VideoReader("12:30.mp4").index().num_frames == 3


REAL_FRAMES = {
    "lapa_bridge_real_1.mp4": 37,
    "lapa_rt1_real_standing_coke_can_1.mp4": 16,
    "moto_oxe_fractal20220817_eps_00083076.mp4": 33,
    "nasa_13013.mp4": 390,
    "opencv_box.mp4": 455,
}


@pytest.mark.parametrize("name", REAL_FRAMES)
def test_real_clips_give_the_frames_of_a_whole_decode(shared_data, decode_all, name):
    path = shared_data / "videos" / name
    assert VideoReader(path).index().num_frames == REAL_FRAMES[name]
    numbers, expected = np.arange(0, REAL_FRAMES[name], 13), decode_all(path, step=13)
    np.testing.assert_array_equal(VideoReader(path).frames("", numbers), expected)
    np.testing.assert_array_equal(VideoReader(path).frames("", numbers[-1:]), expected[-1:])


def test_the_real_clip_with_two_streams_says_which_it_takes(shared_data):
    assert VideoReader(shared_data / "videos/nasa_13013.mp4").index().note.startswith("2 video streams, took stream 3")


def test_a_picture_size_that_changes_is_refused(tmp_path, numbered_frames):
    path = tmp_path / "grows.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        larger = av.CodecContext.create("mjpeg", "w")
        larger.width, larger.height, larger.pix_fmt, larger.time_base = 96, 64, "yuvj420p", Fraction(1, 10)
        for t, (encoder, size) in enumerate([(stream, (48, 64))] * 3 + [(larger, (64, 96))] * 3):
            frame = av.VideoFrame.from_ndarray(numbered_frames(1, *size)[0], format="rgb24")
            frame.pts, frame.time_base = t, Fraction(1, 10)
            for packet in encoder.encode(frame):
                packet.stream = stream
                container.mux(packet)
    assert VideoReader(path).frames("", [0, 2]).shape == (2, 48, 64, 3)
    with pytest.raises(VideoDecodeError, match="changes within the video, from 64x48 to 96x64"):
        VideoReader(path).frames("", range(6))
