"""Damaged files end as one VideoDecodeError with a plain reason, or are read correctly."""

import pickle
import shutil
import struct
from contextlib import suppress

import av
import numpy as np
import pytest

from lara_tokenizer.data import VideoReader
from lara_tokenizer.errors import VideoDecodeError


@pytest.fixture(scope="module")
def good(tmp_path_factory, write_video, numbered_frames):
    """60 frames, GOP 12, the header in front; encoded without assembler, for the same bytes in each run."""
    path = tmp_path_factory.mktemp("good") / "good.mp4"
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=10, options={"x264-params": "asm=0:bframes=2"})
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 64, 48, "yuv420p", 12
        for pixels in numbered_frames(60):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def read_all(path):
    reader = VideoReader(path)
    return reader.frames("", range(reader.index().num_frames))


def scramble(data: bytes, first: float, last: float) -> bytes:
    broken = bytearray(data)
    for k in range(int(first * len(data)), int(last * len(data))):
        broken[k] = (broken[k] * 7 + 13) % 256
    return bytes(broken)


# What is done to a good file's bytes, and what the error says.
BYTES = {
    "zero bytes": (lambda data: b"", r"empty \(0 bytes\)"),
    "random bytes": (lambda data: np.random.default_rng(0).bytes(5000), "not a video, or damaged"),
    "text": (lambda data: b"no video at all\n" * 100, "not a video, or damaged"),
    "cut off in the header": (lambda data: data[:200], r"no video in it \(streams: data\)"),
    "cut off in a frame": (lambda data: data[: len(data) * 6 // 10], r"cut off in frame \d+ of 60"),
    "scrambled in the middle": (lambda data: scramble(data, 0.5, 0.6), r"damaged: \d+ of 60 frames can be read"),
}


@pytest.mark.parametrize("case", BYTES)
def test_a_broken_file_says_in_one_line_what_is_wrong(good, tmp_path, case):
    spoil, message = BYTES[case]
    path = tmp_path / "bad.mp4"
    path.write_bytes(spoil(good.read_bytes()))
    with pytest.raises(VideoDecodeError, match=message) as caught:
        read_all(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_frames_before_the_damage_are_given(good, tmp_path, decode_all):
    path = tmp_path / "bad.mp4"
    path.write_bytes(scramble(good.read_bytes(), 0.8, 0.9))
    np.testing.assert_array_equal(VideoReader(path).frames("", [0, 11, 14]), decode_all(good)[[0, 11, 14]])


def test_audio_only_names_what_there_is(tmp_path, write_audio):
    write_audio(tmp_path / "sound.m4a")
    with pytest.raises(VideoDecodeError, match=r"no video in it \(streams: audio\)"):
        VideoReader(tmp_path / "sound.m4a").index()


def test_a_folder_and_a_missing_file_are_named_as_such(tmp_path):
    with pytest.raises(VideoDecodeError, match="a folder, not a video file"):
        VideoReader(tmp_path).index()
    with pytest.raises(VideoDecodeError, match="no such file"):
        VideoReader(tmp_path / "gone.mp4").index()


def test_a_file_that_vanishes_after_the_scan(good, tmp_path):
    path = shutil.copy(good, tmp_path / "clip.mp4")
    reader = VideoReader(path)
    reader.index()
    path.unlink()
    with pytest.raises(VideoDecodeError, match="no such file"):
        reader.frames("", [0])


def test_a_file_that_changes_after_the_scan_is_not_read_by_its_old_times(good, tmp_path, decode_all):
    path = shutil.copy(good, tmp_path / "clip.mp4")
    reader = VideoReader(path)
    before = reader.index()
    path.write_bytes(good.read_bytes()[: good.stat().st_size * 6 // 10])
    with pytest.raises(VideoDecodeError, match="has changed since its frames were counted"):
        reader.frames("", range(60))
    shutil.copy(good, path)
    reader.close()
    assert reader.index().digest == before.digest
    np.testing.assert_array_equal(reader.frames("", range(60)), decode_all(good))


# name: file name, codec, options, packets cut off; of 40 frames in groups of 8 (mpeg2 and mpeg4: B pictures shift them)
CUT = {
    "h264": ("a.mkv", "libx264", {"bf": "2"}, 3),
    "h264 in ts, open groups": ("a.ts", "libx264", {"x264-params": "open-gop=1:bframes=2:b-adapt=0:keyint=8"}, 5),
    "hevc": ("a.mkv", "libx265", {"x265-params": "log-level=0:open-gop=1:bframes=2:keyint=8"}, 3),
    "mpeg2": ("a.ts", "mpeg2video", {"bf": "2"}, 5),
    "mpeg4": ("a.mkv", "mpeg4", {"bf": "2"}, 8),
    "vp9": ("a.webm", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}, 3),
}  # fmt: skip


@pytest.mark.parametrize("case", CUT)
def test_a_video_that_begins_within_a_group_of_pictures_leaves_out_what_needs_the_missing(
    tmp_path, write_video, numbered_frames, decode_all, rewrite, case
):
    name, codec, options, cut = CUT[case]
    whole = write_video(tmp_path / name, numbered_frames(40), fps=25, codec=codec, gop=8, options=options)
    expected = decode_all(whole)
    with av.open(str(whole)) as source, av.open(str(tmp_path / f"late_{name}"), "w") as target:
        copy = target.add_stream_from_template(source.streams.video[0])
        for packet in [packet for packet in source.demux(video=0) if packet.size][cut:]:
            packet.stream = copy
            target.mux(packet)
    reader = VideoReader(tmp_path / f"late_{name}")
    index = reader.index()
    assert "begins within a group of pictures: its first" in index.note
    n = index.num_frames
    assert 24 <= n <= 36
    np.testing.assert_array_equal(reader.frames("", range(n)), expected[-n:])
    np.testing.assert_array_equal(VideoReader(reader.path).frames("", [n - 1, 3, 0]), expected[[-1, 3 - n, -n]])


@pytest.mark.parametrize("suffix", [".mkv", ".ts"])
def test_a_cut_stream_without_key_frames_begins_at_its_first_whole_picture(
    tmp_path, write_video, numbered_frames, decode_all, suffix
):
    options = {"x264-params": "intra-refresh=1:keyint=8:bframes=0"}
    whole = write_video(tmp_path / f"whole{suffix}", numbered_frames(40), fps=25, options=options)
    path = tmp_path / f"cut{suffix}"
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        copy = target.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.size]
        at = next(k for k, packet in enumerate(packets) if k and packet.is_keyframe)
        for packet in packets[at:]:
            packet.stream = copy
            target.mux(packet)
    expected, reader = decode_all(path), VideoReader(path)
    count = reader.index().num_frames
    left_out = 40 - at - count
    assert f"its first {left_out} frames cannot be decoded and are left out" in reader.index().note
    np.testing.assert_array_equal(reader.frames("", range(count)), decode_all(whole)[at + left_out :])
    np.testing.assert_array_equal(reader.frames("", [20, 3]), expected[[20, 3]])


@pytest.mark.parametrize("codecs", [("libx264", "mpeg2video"), ("mpeg2video", "libx264"), ("mpeg2video", "mpeg2video")])
def test_joined_streams_of_other_codecs_or_sizes_are_refused_in_one_line(
    tmp_path, write_video, numbered_frames, codecs
):
    first, second = (
        write_video(tmp_path / f"{number}.ts", numbered_frames(20)[:, : 48 - 16 * number], fps=25, codec=codec)
        for number, codec in enumerate(codecs)
    )
    path = tmp_path / "cat.ts"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    changes = "the frame size changes within the video, from 64x48 to 64x32"
    if codecs[0] != codecs[1]:
        names = [name.replace("libx", "h") for name in codecs]
        changes = f"the codec changes within the video, from {names[0]} to {names[1]}"
    for indices in ([30], range(40)):
        with pytest.raises(VideoDecodeError, match=changes):
            VideoReader(path).frames("", indices)


def test_frames_after_lost_bytes_are_refused_until_the_next_start(tmp_path, write_video, numbered_frames, decode_all):
    good = write_video(tmp_path / "good.ts", numbered_frames(40, 96, 128), gop=12, options={"bf": "0"})
    expected, data = decode_all(good), good.read_bytes()
    with av.open(str(good)) as container:
        positions = [packet.pos for packet in container.demux(video=0) if packet.size]
    # Two transport packets in the middle of frame 15.
    at = positions[15] + 188
    path = tmp_path / "lossy.ts"
    path.write_bytes(data[:at] + data[at + 2 * 188 :])
    reader = VideoReader(path)
    n = reader.index().num_frames
    np.testing.assert_array_equal(reader.frames("", range(12)), expected[:12])
    np.testing.assert_array_equal(reader.frames("", range(n - 16, n)), expected[-16:])
    with pytest.raises(VideoDecodeError, match=r"damaged: bytes are lost near frame 1[4-7]"):
        reader.frames("", range(n))


def test_a_header_that_promises_more_frames_than_there_are_reads_right(
    tmp_path, write_video, numbered_frames, decode_all
):
    path = write_video(tmp_path / "clip.avi", numbered_frames(20), codec="mjpeg", pix_fmt="yuvj420p")
    data, lie = path.read_bytes(), (444).to_bytes(4, "little")
    at = data.index(b"strh") + 8 + 32  # dwLength of the stream header
    path.write_bytes(data[:at] + lie + data[at + 4 :])
    reader = VideoReader(path)
    assert reader.index().note == "the header promises 444 frames, the file holds 20"
    np.testing.assert_array_equal(reader.frames("", range(20)), decode_all(path))


def test_a_header_table_that_claims_two_thousand_million_frames_reads_right(good, tmp_path):
    """The four bytes by which decord aborts the process."""
    path, data = tmp_path / "lies.mp4", good.read_bytes()
    at = data.index(b"stts") + 4 + 4 + 4
    path.write_bytes(data[:at] + (2**31 - 1).to_bytes(4, "big") + data[at + 4 :])
    np.testing.assert_array_equal(read_all(path), read_all(good))


def test_a_frame_size_beyond_all_cameras_is_refused(tmp_path, write_video, numbered_frames):
    header = write_video(tmp_path / "header.avi", numbered_frames(3), codec="ffv1")
    data = header.read_bytes()
    at = data.index(b"strf") + 12  # width and height of the stream's format
    header.write_bytes(data[:at] + struct.pack("<ii", 20000, 9000) + data[at + 8 :])
    with pytest.raises(VideoDecodeError, match="frames of 20000x9000; up to 67,108,864 pixels are read"):
        read_all(header)
    picture = write_video(tmp_path / "picture.avi", numbered_frames(3), codec="mjpeg", pix_fmt="yuvj420p")
    baseline = b"\xff\xc0\0\x11\x08"
    data = picture.read_bytes()
    picture.write_bytes(data.replace(baseline + struct.pack(">HH", 48, 64), baseline + struct.pack(">HH", 9000, 20000)))
    with pytest.raises(VideoDecodeError, match="damaged: 0 of 3 frames can be read"):
        read_all(picture)


def test_a_damaged_motion_jpeg_is_not_shown(tmp_path, write_video, numbered_frames):
    path = write_video(tmp_path / "clip.avi", numbered_frames(8), codec="mjpeg", pix_fmt="yuvj420p")
    data = path.read_bytes()
    at = data.index(b"\xff\xc4", len(data) // 2) + 8  # a Huffman table
    path.write_bytes(data[:at] + b"\xff" * 12 + data[at + 12 :])
    with pytest.raises(VideoDecodeError, match=r"damaged: \d of 8 frames can be read"):
        read_all(path)


def test_a_picture_named_as_a_video_is_one_frame(tmp_path):
    from PIL import Image

    Image.new("RGB", (64, 48), (200, 30, 30)).save(tmp_path / "image.mp4", format="PNG")
    assert (read_all(tmp_path / "image.mp4") == (200, 30, 30)).all()


ZOO = {
    "invalid data": (av.error.InvalidDataError(1, "x"), "not a video, or damaged"),
    "end of file": (av.error.EOFError(1, "x"), "cannot be read"),
    "not written yet": (av.error.PatchWelcomeError(1, "x"), "cannot be read"),
    "unknown codec": (av.error.DecoderNotFoundError(1, "x"), "no decoder"),
    "bytes that are no text": (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x"), "cannot be read"),
    "too much memory": (MemoryError(), "more memory"),
    "index": (IndexError("x"), "cannot be read"),
    "permission": (PermissionError(13, "x"), "no permission"),
    "stack trace": (RuntimeError("first line\nat 0x00"), r"RuntimeError: first line\)$"),
}


@pytest.mark.parametrize("kind", ZOO)
def test_each_error_of_the_libraries_becomes_one_plain_line(good, monkeypatch, kind):
    error, message = ZOO[kind]

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr("lara_tokenizer.data.video.packets.av.open", fail)
    with pytest.raises(VideoDecodeError, match=message):
        VideoReader(good).index()


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.ts"])
def test_files_with_a_few_flipped_bytes_end_in_frames_or_in_one_error(tmp_path, write_video, numbered_frames, name):
    data = write_video(tmp_path / name, numbered_frames(24), options={"bf": "2"}).read_bytes()
    rng = np.random.default_rng(0)
    for trial in range(40):
        broken = bytearray(data)
        for at in rng.integers(0, len(data), 1 + trial % 5):
            broken[at] = rng.integers(256)
        path = tmp_path / f"broken{trial}.{name.rpartition('.')[2]}"
        path.write_bytes(broken)
        reader = VideoReader(path)
        with suppress(VideoDecodeError):
            n = reader.index().num_frames
            assert reader.frames("", range(n)).shape[0] == n
            assert (np.diff(reader.index().timestamps) > 0).all()


def test_a_wrong_checksum_that_the_decoder_only_logs_is_damage(tmp_path, write_video, numbered_frames):
    path = write_video(
        tmp_path / "clip.mkv", numbered_frames(12), codec="ffv1", gop=4, options={"level": "3", "slicecrc": "1"}
    )
    assert VideoReader(path).frames("", [5]).shape[0] == 1
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][5]
        middle = packet.pos + packet.size // 2
    content = bytearray(path.read_bytes())
    content[middle] ^= 0x55
    path.write_bytes(content)
    level = av.logging.get_level()
    with pytest.raises(VideoDecodeError, match=r"damaged: 5 of 12 frames can be read, then comes slice crc mismatch"):
        VideoReader(path).frames("", [5])
    assert av.logging.get_level() == level
