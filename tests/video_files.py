"""Clips in every pair of codec and container, whose frames show their own number, so that a wrong frame is seen as one.

All are written by PyAV. `video_flags` makes their containers lie about key frames.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from scheduling import ordinary_scheduling

WIDTH, HEIGHT = 64, 48
_BITS = 6  # numbers 0 to 63, then 0 again


def numbered(count: int, first: int = 0, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """uint8 (count, height, width, 3): frames that show their number, red on the left, blue on the right."""
    frames = np.empty((count, height, width, 3), np.uint8)
    side = width // _BITS
    for frame, number in zip(frames, range(first, first + count), strict=True):
        frame[:] = 110
        for bit in range(_BITS):
            is_set = number >> bit & 1
            frame[: height // 4, bit * side : (bit + 1) * side] = 235 if is_set else 20
            frame[height // 4 : height // 2, bit * side : (bit + 1) * side] = 20 if is_set else 235
        frame[height // 2 :, : width // 2] = (200, 30, 30)
        frame[height // 2 :, width // 2 :] = (30, 30, 200)
        left = number * 7 % (width - 8)
        frame[-height // 4 : -height // 8, left : left + 8] = (240, 240, 60)
    return frames


def number_in(frame: np.ndarray) -> int:
    """The number that a decoded frame, uint8 (H, W, 3), shows; -1 where it is unreadable."""
    height, side, grey = frame.shape[0], frame.shape[1] // _BITS, frame.mean(2)
    number = 0
    for bit in range(_BITS):
        inner = slice(bit * side + 3, (bit + 1) * side - 3)
        above = grey[height // 16 : height // 4 - height // 16, inner].mean()
        below = grey[height // 4 + height // 16 : height // 2 - height // 16, inner].mean()
        if abs(above - below) < 60:
            return -1
        number |= int(above > below) << bit
    return number


@dataclass(frozen=True)
class Codec:
    """An encoder and its options for clear tiny pictures.

    `b_frames` and `open_gop` are added for these variants; None where the codec has none.
    """

    encoder: str
    options: dict[str, str]
    b_frames: dict[str, str] | None = None
    open_gop: dict[str, str] | None = None
    pix_fmt: str = "yuv420p"


def _x26x(name: str, more: str) -> dict[str, str]:
    return {f"{name}-params": f"{more}:scenecut=0:log-level=0" if name == "x265" else f"{more}:scenecut=0"}


_CLEAR = {"b": "2000000"}  # bits per second: plenty for this size
_VPX = _CLEAR | {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0", "auto-alt-ref": "0"}
_ALT_REF = {"deadline": "good", "lag-in-frames": "16", "auto-alt-ref": "1"}
_OLD = _CLEAR | {"bf": "0", "sc_threshold": "1000000000"}
_MPEG_B, _MPEG_OPEN = {"bf": "2", "flags": "+cgop"}, {"bf": "2"}

CODECS = {
    "h264": Codec(
        "libx264",
        {"preset": "ultrafast"} | _x26x("x264", "bframes=0"),
        _x26x("x264", "bframes=2:b-adapt=0"),
        _x26x("x264", "bframes=3:b-adapt=0:open-gop=1"),
    ),
    "hevc": Codec(
        "libx265",
        {"preset": "ultrafast"} | _x26x("x265", "bframes=0:open-gop=0"),
        _x26x("x265", "bframes=2:b-adapt=0:open-gop=0"),
        _x26x("x265", "bframes=3:b-adapt=0:open-gop=1"),
    ),
    "vp8": Codec("libvpx", _VPX, _ALT_REF),
    "vp9": Codec("libvpx-vp9", _VPX, _ALT_REF),
    "av1": Codec(
        "libsvtav1",
        {"preset": "12", "svtav1-params": "pred-struct=1"},
        {"svtav1-params": "pred-struct=2"},
        {"svtav1-params": "pred-struct=2:irefresh-type=1"},
    ),
    "mpeg1": Codec("mpeg1video", _OLD, _MPEG_B, _MPEG_OPEN),
    "mpeg2": Codec("mpeg2video", _OLD, _MPEG_B, _MPEG_OPEN),
    "mpeg4": Codec("mpeg4", _OLD, _MPEG_B, _MPEG_OPEN),
    "h263": Codec("h263p", _OLD),
    "flv1": Codec("flv", _OLD),
    "wmv1": Codec("wmv1", _OLD),
    "wmv2": Codec("wmv2", _OLD),
    "msmpeg4v2": Codec("msmpeg4v2", _OLD),
    "msmpeg4v3": Codec("msmpeg4", _OLD),
    "mjpeg": Codec("mjpeg", _CLEAR, pix_fmt="yuvj420p"),
    "ffv1": Codec("ffv1", {"coder": "1", "context": "1"}),
    "prores": Codec("prores_ks", {"profile": "1"}, pix_fmt="yuv422p10le"),
}

# Suffix, and the options of its muxer. "frag.mp4" is a fragmented mp4.
CONTAINERS: dict[str, dict[str, str]] = {
    "mp4": {},
    "frag.mp4": {"movflags": "frag_keyframe+empty_moov+default_base_moof"},
    "mov": {},
    "mkv": {},
    "webm": {},
    "avi": {},
    "ts": {},
    "mpg": {},
    "wmv": {},
    "flv": {},
    "ogv": {},
}


def write_clip(
    path: Path, codec: str, frames: np.ndarray, *, variant: str = "plain", gop: int = 8, fps: int = 25
) -> Path:
    """Encode uint8 (n, H, W, 3) with `CODECS[codec]` into the container of the path's suffix.

    `variant` is "plain", "b_frames" or "open_gop". Raises PyAV's errors, and ValueError where the codec lacks the
    variant.
    """
    chosen = CODECS[codec]
    extra = {"plain": {}, "b_frames": chosen.b_frames, "open_gop": chosen.open_gop}[variant]
    if extra is None:
        raise ValueError(f"{codec} has no {variant}")
    suffix = suffix_of(path)
    # Bit exact: mkv and others would write random identifiers, and the time of day.
    options = CONTAINERS[suffix] | {"fflags": "+bitexact"}
    with ordinary_scheduling(), av.open(str(path), "w", container_options=options) as container:
        stream = container.add_stream(chosen.encoder, rate=Fraction(fps), options=chosen.options | extra)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.gop_size = chosen.pix_fmt, gop
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def read_packets(path: Path) -> list[tuple[bytes, bool]]:
    """The bytes and the key flag of each packet of the first video stream, in file order."""
    with av.open(str(path)) as container:
        return [(bytes(packet), packet.is_keyframe) for packet in container.demux(video=0) if packet.size]


def write_packets(path: Path, like: Path, packets: list[tuple[bytes, bool]], fps: int = 25) -> Path:
    """Write packets, of the codec of the file `like`, one after the other in time. Returns `path`."""
    with av.open(str(like)) as source, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for number, (data, is_key) in enumerate(packets):
            packet = av.Packet(data)
            packet.stream, packet.time_base = stream, Fraction(1, fps)
            packet.pts = packet.dts = number
            packet.is_keyframe = is_key
            container.mux(packet)
    return path


_VOP = b"\0\0\1\xb6"  # start code of an MPEG-4 picture; the next two bits are its type: I, P, B


def pack_divx(packets: list[tuple[bytes, bool]]) -> list[tuple[bytes, bool]]:
    """The "packed bitstream" of DivX: each B picture is in one packet with the P picture that follows it in time.

    An empty picture takes the place of the B picture. `packets` are MPEG-4 with single B pictures.
    """
    packed: list[tuple[bytes, bool]] = []
    for data, is_key in packets:
        if data[data.index(_VOP) + 4] >> 6 == 2:
            packed[-1] = packed[-1][0] + data, packed[-1][1]
            packed.append((_VOP + b"\x50\x4f", False))
        else:
            # Decoders unpack only what this user data announces.
            packed.append((data.replace(_VOP, b"\0\0\1\xb2DivX503b1393p" + _VOP, 1) if is_key else data, is_key))
    return packed


def hide(packets: list[tuple[bytes, bool]], numbers: set[int]) -> list[tuple[bytes, bool]]:
    """VP8 packets, of which some display nothing, as alternate reference frames."""
    return [
        (bytes([data[0] & 0xEF]) + data[1:] if number in numbers else data, is_key)
        for number, (data, is_key) in enumerate(packets)
    ]


def set_matrix(path: Path, a: int, b: int, c: int, d: int) -> Path:
    """Give an mp4 the display matrix (a, b, c, d) of its track header, such as (-1, 0, 0, 1) for a mirror image."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4
    at += 52 if data[at] else 40  # by version
    data[at : at + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def suffix_of(path: Path) -> str:
    """The key of `CONTAINERS` for a file's name."""
    return "frag.mp4" if path.name.endswith(".frag.mp4") else path.suffix[1:]
