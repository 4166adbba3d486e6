"""Frames are shown as the whole display matrix says: turned, mirrored, or both."""

import io
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from lara_tokenizer.data import VideoReader
from lara_tokenizer.data.video.display import Orientation

ONE = 2**16

# name: matrix (a, b, c, d), and what it does to a picture (H, W, C). Each was compared with the ffmpeg tool.
ORIENTATIONS = {
    "upright": ((ONE, 0, 0, ONE), lambda p: p),
    "left and right exchanged": ((-ONE, 0, 0, ONE), lambda p: p[:, ::-1]),
    "top and bottom exchanged": ((ONE, 0, 0, -ONE), lambda p: p[::-1]),
    "half a turn": ((-ONE, 0, 0, -ONE), lambda p: p[::-1, ::-1]),
    "a quarter clockwise": ((0, ONE, -ONE, 0), lambda p: np.rot90(p, -1)),
    "a quarter counterclockwise": ((0, -ONE, ONE, 0), lambda p: np.rot90(p)),
    "rows and columns exchanged": ((0, ONE, ONE, 0), lambda p: p.swapaxes(0, 1)),
    "exchanged about the other diagonal": ((0, -ONE, -ONE, 0), lambda p: np.rot90(p.swapaxes(0, 1), 2)),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory, write_video, numbered_frames):
    return write_video(tmp_path_factory.mktemp("plain") / "plain.mp4", numbered_frames(3))


@pytest.mark.parametrize("case", ORIENTATIONS)
def test_a_matrix_in_the_header_puts_the_picture_upright(plain, tmp_path, decode_all, case):
    (a, b, c, d), turn = ORIENTATIONS[case]
    data = plain.read_bytes()
    at = data.index(b"tkhd") + 44  # version, times, ids, layer and volume of the track header
    path = tmp_path / "turned.mp4"
    path.write_bytes(data[:at] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 2**30) + data[at + 36 :])
    stored = decode_all(path)
    np.testing.assert_array_equal(VideoReader(path).frames("", [2, 0]), [turn(stored[2]), turn(stored[0])])


def test_stretched_and_slanted_pictures_take_the_nearest_of_the_eight():
    def shown(a, b, c, d):
        return Orientation.from_matrix((a, b, 0, c, d, 0, 0, 0, 2**30))

    assert shown(2 * ONE, 0, 0, ONE) == shown(ONE, ONE // 8, 0, ONE) == shown(ONE, 0, ONE // 4, ONE) == Orientation()
    assert shown(0, 0, 0, 0) == shown(ONE, 0, 0, 0) == Orientation()
    assert shown(ONE, 1143, -1143, ONE) == Orientation()
    assert shown(0, 3 * ONE, -2 * ONE, 0) == shown(0, ONE, -ONE, 0)


def test_a_stack_of_pictures_is_turned_like_each_of_them(numbered_frames):
    frames = numbered_frames(3)
    orientation = Orientation(transpose=True, mirror_x=True)
    np.testing.assert_array_equal(orientation.apply(frames), np.rot90(frames, -1, axes=(1, 2)))


def test_a_mirror_image_that_only_the_first_packet_states_holds_for_all_frames(
    tmp_path, write_video, numbered_frames, decode_all
):
    good = write_video(tmp_path / "good.mp4", numbered_frames(20), gop=6, options={"bf": "0"})
    # A message of kind 47 (display orientation) that exchanges left and right until further notice.
    message = bytes([0x06, 47, 3, 0x40, 0x00, 0x09, 0x80])
    path = tmp_path / "mirrored.mp4"
    with av.open(str(good)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate([packet for packet in source.demux(video=0) if packet.size]):
            first = struct.pack(">I", len(message)) + message if number == 0 else b""
            copy = av.Packet(first + bytes(packet))
            copy.pts, copy.dts, copy.time_base, copy.stream = packet.pts, packet.dts, packet.time_base, stream
            copy.is_keyframe = packet.is_keyframe
            target.mux(copy)
    stored = decode_all(good)
    np.testing.assert_array_equal(VideoReader(path).frames("", range(20)), stored[:, :, ::-1])
    np.testing.assert_array_equal(VideoReader(path).frames("", [14])[0], stored[14, :, ::-1])


@pytest.mark.parametrize(("tag", "turn"), [(1, 0), (3, 2), (6, -1), (8, 1)])
def test_motion_jpeg_with_the_exif_data_of_a_camera_is_read_upright(tmp_path, numbered_frames, tag, turn):
    pixels, data = numbered_frames(1)[0], io.BytesIO()
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = tag, "camera"
    Image.fromarray(pixels).save(data, "JPEG", quality=95, exif=exif)
    with av.open(str(tmp_path / "camera.avi"), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for time in range(3):
            packet = av.Packet(data.getvalue())
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, time, time, Fraction(1, 10)
            packet.is_keyframe = True
            container.mux(packet)
    given = VideoReader(tmp_path / "camera.avi").frames("", [1])[0]
    assert np.abs(given.astype(int) - np.rot90(pixels, turn)).mean() < 20
