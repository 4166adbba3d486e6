"""A key frame is one by the codec's own bits, whatever the container's flags say."""

import struct

import av
import numpy as np
import pytest
from av.video.frame import PictureType

from lara_tokenizer.data import VideoReader, load_episodes
from lara_tokenizer.data.video.bitstream import Start, _av1, _h263, _h264, _hevc, _vp9, _vp9_shown
from lara_tokenizer.data.video.packets import scan

# name: file suffix, codec, pixel format, encoder options. All in groups of 6 pictures but those that are intra only.
LIARS = {
    "h264 in mp4": ("mp4", "libx264", "yuv420p", {"bf": "2"}),
    "h264 in mkv, open groups": ("mkv", "libx264", "yuv420p", {"x264-params": "open-gop=1:bframes=2:b-adapt=0"}),
    "h264 in avi, open groups": ("avi", "libx264", "yuv420p", {"x264-params": "open-gop=1:bframes=2:b-adapt=0"}),
    "h264 in mp4, intra refresh": ("mp4", "libx264", "yuv420p", {"x264-params": "intra-refresh=1:bframes=0"}),
    "hevc in mp4": ("mp4", "libx265", "yuv420p", {"x265-params": "log-level=0:bframes=2"}),
    "hevc in mkv, open groups": ("mkv", "libx265", "yuv420p", {"x265-params": "log-level=0:open-gop=1:bframes=2"}),
    "mpeg4 in mp4": ("mp4", "mpeg4", "yuv420p", {}),
    "mpeg4 in avi, B pictures": ("avi", "mpeg4", "yuv420p", {"bf": "2"}),
    "mpeg2 in ts, B pictures": ("ts", "mpeg2video", "yuv420p", {"bf": "2"}),
    "mpeg1 in mkv": ("mkv", "mpeg1video", "yuv420p", {"bf": "2"}),
    "h263 in avi": ("avi", "h263p", "yuv420p", {}),
    "flv1 in flv": ("flv", "flv", "yuv420p", {}),
    "wmv1 in avi": ("avi", "wmv1", "yuv420p", {}),
    "wmv2 in wmv": ("wmv", "wmv2", "yuv420p", {}),
    "msmpeg4v2 in avi": ("avi", "msmpeg4v2", "yuv420p", {}),
    "msmpeg4v3 in avi": ("avi", "msmpeg4", "yuv420p", {}),
    "vp8 in webm": ("webm", "libvpx", "yuv420p", {"deadline": "realtime", "cpu-used": "8"}),
    "vp9 in mp4": ("mp4", "libvpx-vp9", "yuv420p", {"deadline": "realtime", "cpu-used": "8"}),
    "ffv1 in mkv, groups": ("mkv", "ffv1", "yuv420p", {}),
    "svq1 in mov, no test of its own": ("mov", "svq1", "yuv410p", {}),
}  # fmt: skip
# FFV1 in groups: its key frames are known, but without a checksum a damaged one is patched with frames before it.
UNPROVEN = (
    "h264 in avi, open groups",
    "h264 in mp4, intra refresh",
    "ffv1 in mkv, groups",
    "svq1 in mov, no test of its own",
)
COUNT = 26


@pytest.fixture(scope="module", params=LIARS)
def liar(request, tmp_path_factory, write_video, flag_all, numbered_frames, decode_all):
    """A file in which every packet is flagged as a key frame, and the frames of a whole decode."""
    suffix, codec, pix_fmt, options = LIARS[request.param]
    folder = tmp_path_factory.mktemp("liar")
    height, width = (144, 176) if codec == "h263p" else (48, 64)
    true = write_video(
        folder / f"true.{suffix}",
        numbered_frames(COUNT, height, width),
        fps=25,
        codec=codec,
        gop=6,
        pix_fmt=pix_fmt,
        options=options,
    )
    path = flag_all(true, folder / f"clip.{suffix}")
    return request.param, path, decode_all(path)


def test_with_lying_flags_every_skip_leads_to_the_frame_of_a_whole_decode(liar):
    name, path, expected = liar
    rng = np.random.default_rng(0)
    backward, strided = np.arange(COUNT - 1, -1, -5), np.arange(1, COUNT, 7)
    reader = VideoReader(path)
    assert reader.index().num_frames == COUNT, name
    for number in [*backward, *strided, *rng.integers(0, COUNT, 6)]:
        np.testing.assert_array_equal(reader.frames("", [number])[0], expected[number])
    for number in (7, 20, COUNT - 1):
        np.testing.assert_array_equal(VideoReader(path).frames("", [number])[0], expected[number])


def test_the_true_starts_are_found_among_lying_flags(liar):
    name, path, _ = liar
    with av.open(str(path)) as container:
        keys = sum(frame.key_frame and frame.pict_type == PictureType.I for frame in container.decode(video=0))
    starts = np.unique(scan(path)[0].starts)
    # Each start is the packet of an I picture, and none is missed but where no header can tell.
    assert len(starts) == (1 if name in UNPROVEN else keys)


@pytest.mark.parametrize("codec", ["mjpeg", "ffv1", "prores_ks", "png"])
def test_each_frame_is_a_start_where_every_picture_stands_alone(tmp_path, write_video, numbered_frames, codec):
    pix_fmt = {"mjpeg": "yuvj420p", "prores_ks": "yuv422p10le", "png": "rgb24"}.get(codec, "yuv420p")
    suffix = "mkv" if codec == "ffv1" else "mov"
    path = write_video(tmp_path / f"a.{suffix}", numbered_frames(6), codec=codec, gop=1, pix_fmt=pix_fmt)
    assert scan(path)[0].starts.tolist() == list(range(6))


@pytest.mark.parametrize("codec", ["mpeg4", "libsvtav1"])
def test_an_mp4_without_its_table_of_key_frames_reads_exactly(
    tmp_path, write_video, numbered_frames, decode_all, codec
):
    options = {"preset": "12"} if codec == "libsvtav1" else {}
    path = write_video(tmp_path / "a.mp4", numbered_frames(20, 64, 64), codec=codec, gop=6, options=options)
    # Without "stss" all samples are key frames by the standard.
    path.write_bytes(path.read_bytes().replace(b"stss", b"free"))
    expected = decode_all(path)
    for number in (19, 7, 13, 1):
        np.testing.assert_array_equal(VideoReader(path).frames("", [number])[0], expected[number])
    assert len(np.unique(scan(path)[0].starts)) == 4


def test_a_palette_that_comes_with_the_first_packet_is_not_skipped(tmp_path, decode_all):
    path, palette = tmp_path / "palette.avi", np.random.default_rng(0).integers(0, 256, (256, 4)).astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("rawvideo", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "pal8"
        for number in range(8):
            picture = np.full((48, 64), 30 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray((picture, palette), format="pal8")))
    expected = decode_all(path)
    for number in (7, 3):
        np.testing.assert_array_equal(VideoReader(path).frames("", [number])[0], expected[number])


def test_segments_of_a_file_with_lying_flags_are_the_film_cut_up(tmp_path, write_video, flag_all, decode_all):
    frames = np.random.default_rng(0).integers(0, 256, (20, 6, 8, 3)).astype(np.uint8).repeat(8, 1).repeat(8, 2)
    true = write_video(tmp_path / "true.avi", frames, codec="mpeg4", gop=7)
    path = flag_all(true, tmp_path / "lie.mp4")
    cuts = load_episodes(path, segment="0.5s")
    assert [part.num_frames() for part in cuts] == [5, 5, 5, 5]
    backward = [part.frames("", range(5)) for part in reversed(cuts)][::-1]
    np.testing.assert_array_equal(np.concatenate(backward), decode_all(true))


def length_prefixed(*units: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(unit)) + unit for unit in units)


# Recovery point messages: frames until recovery as exp-Golomb code, then whether the pictures are exact.
AT_ONCE, APPROXIMATE, LATER = (bytes([6, 6, 1, bits, 128]) for bits in (0b11000000, 0b10000000, 0b01010000))
I_SLICE, P_SLICE = bytes([0x41, 0b10001000]), bytes([0x41, 0b11000000])  # first macroblock 0, slice type 7; type 0

H264 = {
    "refresh": ([bytes([0x67, 1]), bytes([0x65, 0x88])], Start.CLOSED),
    "I picture after an exact recovery point": ([AT_ONCE, I_SLICE], Start.OPEN),
    "I picture after an approximate recovery point": ([APPROXIMATE, I_SLICE], Start.UNKNOWN),
    "recovery some frames later": ([LATER, I_SLICE], Start.UNKNOWN),
    "I picture alone": ([I_SLICE], Start.UNKNOWN),
    "P picture after an exact recovery point": ([AT_ONCE, P_SLICE], Start.NONE),
    "no picture": ([AT_ONCE], Start.UNKNOWN),
    "nothing": ([], Start.UNKNOWN),
}


@pytest.mark.parametrize("case", H264)
def test_h264_starts_at_refreshes_and_at_exact_recovery_points(case):
    units, start = H264[case]
    assert _h264(length_prefixed(*units), 4) is start
    assert _h264(b"".join(b"\0\0\1" + unit for unit in units), 0) is start


def test_hevc_starts_at_random_access_pictures():
    kinds = {0: Start.NONE, 1: Start.NONE, 9: Start.NONE, 19: Start.WHOLE, 20: Start.CLOSED, 21: Start.OPEN}
    assert {kind: _hevc(length_prefixed(bytes([kind << 1, 1, 0])), 4) for kind in kinds} == kinds
    assert _hevc(b"\0\0\0\1" + bytes([32 << 1, 1]) + b"\0\0\1" + bytes([20 << 1, 1]), 0) is Start.CLOSED


def test_a_packet_cut_anywhere_is_no_reason_to_fail():
    data = bytes([0x82, 0x49, 0x83, 0x42, 0x10, 0x85, 0x89, 0x84, 0x83, 0x81, 0xC9])
    for test in (_av1, _h263, _vp9, _vp9_shown, lambda data: _h264(data, 4), lambda data: _hevc(data, 0)):
        for size in range(len(data)):
            test(data[:size])
            test(b"\xff" * size)
            test(b"\0\0\0\0\6" + b"\xff" * size)
