"""decord and torchcodec give the frames that PyAV gives, or refuse."""

import os
import pickle
import signal
import sys
import time
from contextlib import suppress

import numpy as np
import pytest
from video_files import (
    hide,
    number_in,
    numbered,
    pack_divx,
    read_packets,
    set_matrix,
    write_clip,
    write_packets,
)
from video_flags import flag_keys
from video_matrix import EQUAL, decode_plainly, verdict

from lara_tokenizer.data import VideoReader, load_episodes
from lara_tokenizer.data.video.backends import SharedVideo, open_video_file, video_reader_class
from lara_tokenizer.errors import VideoDecodeError


@pytest.fixture(params=["decord", "torchcodec"])
def other(request):
    """The reader class of a library that is installed and loads."""
    try:
        return video_reader_class(request.param)
    except ImportError as error:
        pytest.skip(str(error))


CLIPS = {
    "h264": ("clip.mp4", "libx264", 10, {"bf": "2"}),
    "h264 open GOPs": ("clip.mp4", "libx264", 12, {"x264-params": "open-gop=1:bframes=3:scenecut=0"}),
    "hevc open GOPs": ("clip.mp4", "libx265", 12, {"x265-params": "open-gop=1:bframes=3:log-level=0"}),
    "vp9": ("clip.webm", "libvpx-vp9", 30, {"deadline": "realtime", "cpu-used": "8"}),
}


@pytest.mark.parametrize("clip", CLIPS)
def test_the_frames_are_those_of_pyav(other, tmp_path, write_video, numbered_frames, clip):
    name, codec, gop, options = CLIPS[clip]
    path = write_video(tmp_path / name, numbered_frames(120, 64, 64), fps=25, codec=codec, gop=gop, options=options)
    expected = VideoReader(path).frames("", range(120)).astype(int)
    reader = other(path)
    for numbers in (range(40), range(40, 80), range(1, 120, 9), [100, 3, 3, 50], [119]):
        difference = np.abs(reader.frames("", numbers) - expected[list(numbers)])
        assert difference.mean() < 0.5
    np.testing.assert_array_equal(reader.index().timestamps, VideoReader(path).index().timestamps)


def test_real_clips_give_the_frames_of_pyav(other, shared_data):
    for name in ("lapa_bridge_real_1.mp4", "moto_oxe_fractal20220817_eps_00084376.mp4", "nasa_13013.mp4"):
        path = shared_data / "videos" / name
        numbers = range(0, VideoReader(path).index().num_frames, 11)
        difference = np.abs(other(path).frames("", numbers).astype(int) - VideoReader(path).frames("", numbers))
        assert difference.mean() < 0.5


def test_a_clip_whose_frames_they_miscount_or_mistime_is_refused(other, shared_data):
    """opencv_box.mp4: times in decoding order, and a last packet that is not shown."""
    reader = other(shared_data / "videos/opencv_box.mp4")
    with pytest.raises(VideoDecodeError, match=r"counts 456 frames|gives the frame at .* Use the decoder pyav"):
        reader.frames("", range(0, 455, 30))


def test_a_transport_stream_is_refused_where_the_picture_is_another(tmp_path, write_video, numbered_frames):
    decord = pytest.importorskip("decord")
    del decord
    path = write_video(tmp_path / "clip.ts", numbered_frames(60), fps=25, gop=12, options={"bf": "2"})
    with pytest.raises(VideoDecodeError, match="another image for frame 0"):
        video_reader_class("decord")(path).frames("", range(10))


def write_packed(folder, write_video):
    frames, options = numbered(48), {"bf": "1", "b": "2000000", "sc_threshold": "1000000000"}
    plain = write_video(folder / "plain.avi", frames, fps=25, codec="mpeg4", gop=12, options=options)
    return write_packets(folder / "packed.avi", plain, pack_divx(read_packets(plain)))


def write_refresh(folder, write_video):
    options = {"x264-params": "intra-refresh=1:keyint=16:bframes=0"}
    return write_video(folder / "refresh.mkv", numbered(48), fps=25, gop=16, options=options)


def write_joined(folder, write_video):
    parts = [write_clip(folder / f"{first}.ts", "h264", numbered(24, first)) for first in (0, 24)]
    (folder / "joined.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    return folder / "joined.ts"


MISLEADING = {
    "packed DivX": write_packed,
    "intra refresh": write_refresh,
    "joined with cat": write_joined,
    "ffv1 flagged all key": lambda folder, _: flag_keys(write_clip(folder / "a.mp4", "ffv1", numbered(48))),
    "hevc in ts": lambda folder, _: write_clip(folder / "a.ts", "hevc", numbered(48), variant="b_frames"),
    "B frames in avi": lambda folder, _: write_clip(folder / "a.avi", "h264", numbered(48), variant="b_frames"),
    "B frames in wmv": lambda folder, _: write_clip(folder / "a.wmv", "mpeg4", numbered(48), variant="b_frames"),
}


@pytest.mark.parametrize("kind", MISLEADING)
def test_pictures_after_a_misleading_start_are_right_or_refused(other, tmp_path, write_video, kind):
    path = MISLEADING[kind](tmp_path, write_video)
    expected = decode_plainly(path)
    assert [number_in(frame) for frame in expected] == list(range(48))
    assert verdict(path, "pyav", expected) == EQUAL
    given = verdict(path, other.library, expected)
    assert given == EQUAL or (given.startswith("refused") and given.endswith("Use the decoder pyav"))


def test_a_seek_that_misses_within_a_still_scene_is_refused_once_it_moves(other, tmp_path):
    frames = numbered(60)
    frames[8:40] = frames[8]
    for suffix, codec, variant in (("mp4", "mpeg4", "open_gop"), ("ts", "h264", "b_frames")):
        path = write_clip(tmp_path / f"still.{suffix}", codec, frames, variant=variant)
        expected = VideoReader(path).frames("", range(60))
        reader = other(path)
        with suppress(VideoDecodeError):
            for numbers in ([20], [25, 30, 37], range(41, 60)):
                given = reader.frames("", numbers).astype(int)
                assert np.abs(given - expected[list(numbers)]).max() <= 2


def test_decord_repeats_no_frame_in_place_of_the_last(tmp_path):
    """It does in one of five runs or so, by chance of its threads."""
    pytest.importorskip("decord")
    path = write_clip(tmp_path / "a.avi", "mpeg2", numbered(20), gop=20)
    for _ in range(12):
        with suppress(VideoDecodeError):
            frames = video_reader_class("decord")(path).frames("", range(20))
            assert number_in(frames[-1]) == 19


@pytest.mark.parametrize("matrix", [(0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)])
def test_rotated_clips_stand_upright(other, tmp_path, matrix):
    path = set_matrix(write_clip(tmp_path / "a.mp4", "h264", numbered(12, width=64, height=64)), *matrix)
    np.testing.assert_array_equal(other(path).frames("", [9, 3]), VideoReader(path).frames("", [9, 3]))


@pytest.mark.parametrize("matrix", [(-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0)])
def test_mirrored_clips_are_refused(other, tmp_path, matrix):
    path = set_matrix(write_clip(tmp_path / "a.mp4", "h264", numbered(12)), *matrix)
    with pytest.raises(VideoDecodeError, match=r"does not mirror them\. Use the decoder pyav"):
        other(path).frames("", [3])


def test_torchcodec_skips_packets_that_display_nothing(tmp_path):
    pytest.importorskip("torchcodec")
    plain = write_clip(tmp_path / "plain.webm", "vp8", numbered(40))
    path = write_packets(tmp_path / "hidden.webm", plain, hide(read_packets(plain), {3, 4, 20}))
    shown = [number for number in range(40) if number not in (3, 4, 20)]
    for numbers in ([36, 2, 3], list(range(37))):
        frames = video_reader_class("torchcodec")(path).frames("", numbers)
        assert [number_in(frame) for frame in frames] == [shown[i] for i in numbers]


def test_decord_and_av1_end_in_a_clear_error(tmp_path, write_video, numbered_frames):
    pytest.importorskip("decord")
    path = write_video(tmp_path / "a.mp4", numbered_frames(10, 64, 64), codec="libsvtav1", options={"preset": "12"})
    with pytest.raises(VideoDecodeError, match=r"decord cannot open it .AV1.* Use the decoder pyav"):
        video_reader_class("decord")(path).frames("", [0])


def test_the_reader_travels_and_reopens(other, tmp_path, write_video, numbered_frames):
    reader = other(write_video(tmp_path / "a.mp4", numbered_frames(20)))
    before = reader.frames("", [3, 4])
    copy = pickle.loads(pickle.dumps(reader))
    np.testing.assert_array_equal(copy.frames("", [3, 4]), before)
    reader.close()
    np.testing.assert_array_equal(reader.frames("", [3, 4]), before)


def test_a_file_replaced_after_its_frames_were_counted_is_refused(other, tmp_path):
    path = write_clip(tmp_path / "a.mp4", "h264", numbered(20))
    reader = other(path)
    assert reader.index().num_frames == 20
    write_clip(path, "h264", numbered(21))
    with pytest.raises(VideoDecodeError, match="has changed since its frames were counted"):
        reader.frames("", [3])


def test_load_episodes_passes_the_decoder_on(other, tmp_path, write_video, numbered_frames):
    write_video(tmp_path / "a.mp4", numbered_frames(5))
    assert type(load_episodes(tmp_path, decoder=other.library)[0].reader) is other


def test_an_unknown_decoder_lists_those_there_are(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"x")
    with pytest.raises(ValueError, match="decoder 'opencv': takes pyav, decord, torchcodec"):
        load_episodes(tmp_path, decoder="opencv")


def test_a_decoder_that_is_not_installed_names_its_extra(tmp_path, monkeypatch):
    monkeypatch.setattr("lara_tokenizer.data.video.backends.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"decord needs the 'decord' extra: pip install 'lara-tokenizer\[decord\]'"):
        video_reader_class("decord")


def test_torchcodec_without_ffmpeg_says_what_to_install(monkeypatch):
    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == "torchcodec":
                raise RuntimeError("Could not load libtorchcodec")

    monkeypatch.setattr("lara_tokenizer.data.video.backends.find_spec", lambda name: object())
    monkeypatch.delitem(sys.modules, "torchcodec", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(ImportError, match="apt-get install ffmpeg"):
        video_reader_class("torchcodec")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_does_not_wait_for_the_threads_of_an_open_decord_reader(tmp_path, write_video, numbered_frames):
    pytest.importorskip("decord")
    path = write_video(tmp_path / "clip.mp4", numbered_frames(12))
    open_video_file(path, "decord").frames("", [3])
    child = os.fork()
    if child == 0:
        os._exit(0)
    for _ in range(100):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.1)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        pytest.fail("the child hangs")
    assert status == 0


def test_a_shared_video_names_the_file_it_reads(tmp_path):
    assert SharedVideo(tmp_path / "a.mp4", "pyav").files("") == (tmp_path / "a.mp4",)
