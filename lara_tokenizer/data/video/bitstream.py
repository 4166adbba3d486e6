"""Key frames and shown frames by the first bits of each packet, independent of the container's flags.

Containers flag packets as key frames that are none: an mp4 without a sync sample table flags all, and so do many AVI,
wmv and fragmented mp4 files. An I picture is no proof either: with H.264, later pictures may refer to frames before it.
So each codec's own header is read, which takes microseconds a packet. Decoders for it are not needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import IntEnum
from itertools import pairwise

from av.video.codeccontext import VideoCodecContext


class Start(IntEnum):
    """Whether a decoder can start at a packet; from `OPEN` on it can."""

    NONE = 0
    UNKNOWN = 1
    """No place to skip to, but no sign either that frames before it are missing: an I picture, or headers alone."""
    OPEN = 2
    """From here on frames are exact, except those that follow in the file and are displayed before this one."""
    WHOLE = 3  # all that follows in the file is exact
    CLOSED = 4  # all that follows in the file is exact and displayed later


StartTest = Callable[[bytes], Start]

_DISPLAY_ORIENTATION = 47  # kind of a message of H.264 and HEVC
# Codecs whose every frame stands alone, though ffmpeg does not list them as such.
_INTRA_ONLY = frozenset({"cfhd", "png"})


def start_test(context: VideoCodecContext) -> StartTest | None:
    """A function of a packet's bytes that tells whether decoding can start there; None for a codec without one."""
    codec, extradata = context.codec.canonical_name, context.extradata or b""
    if context.pix_fmt == "pal8" and codec != "png":  # AVI and mov send the palette with the first packet only
        return _never
    if context.codec.intra_only or codec in _INTRA_ONLY:
        return _always
    if codec in ("h264", "hevc"):
        test, length_size = {"h264": _h264, "hevc": _hevc}[codec], _length_size(codec, extradata)
        return lambda data: test(data, length_size)
    return _START_TESTS.get(codec)


def shown_test(context: VideoCodecContext) -> Callable[[bytes], bool] | None:
    """A function of a packet's bytes that tells whether a frame is displayed; None where each packet displays one."""
    return {"av1": _av1_shown, "vp8": _vp8_shown, "vp9": _vp9_shown}.get(context.codec.canonical_name)


def turn_test(context: VideoCodecContext) -> Callable[[bytes], bool] | None:
    """A function of a packet's bytes that tells whether they state how to turn the picture; None for most codecs."""
    codec = context.codec.canonical_name
    if codec not in ("h264", "hevc"):
        return None
    length_size = _length_size(codec, context.extradata or b"")
    header, kind = (1, 6) if codec == "h264" else (2, 39)

    def states_turn(data: bytes) -> bool:
        for unit in _nal_units(data, length_size):
            found = unit[0] & 31 if codec == "h264" else unit[0] >> 1 & 63
            if found == kind and any(message == _DISPLAY_ORIENTATION for message, _ in _messages(unit[header:])):
                return True
            if 1 <= found <= 5 or (codec == "hevc" and found < 32):
                return False  # pictures come after their messages
        return False

    return states_turn


def _length_size(codec: str, extradata: bytes) -> int:
    """Bytes of the length before each unit of H.264 or HEVC; 0 where start codes part them."""
    if codec == "h264":
        return (extradata[4] & 3) + 1 if len(extradata) > 4 and extradata[0] == 1 else 0
    # Parameter sets in a stream without lengths begin with the start code 0 0 1 or 0 0 0 1.
    has_lengths = len(extradata) > 21 and extradata[:3] not in (b"\0\0\0", b"\0\0\1")
    return (extradata[21] & 3) + 1 if has_lengths else 0


class _Bits:
    """A reader of single bits, most significant first; bits past the end are zeros."""

    def __init__(self, data: bytes, limit: int = 64) -> None:
        data = data[:limit]
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def read(self, count: int) -> int:
        self._left -= count
        value = self._value >> self._left if self._left >= 0 else self._value << -self._left
        return value & ((1 << count) - 1)

    def exp_golomb(self) -> int:
        zeros = 0
        while zeros < 32 and not self.read(1):
            zeros += 1
        return (1 << zeros) - 1 + self.read(zeros) if zeros else 0


def _always(data: bytes) -> Start:
    return Start.CLOSED


def _never(data: bytes) -> Start:
    return Start.UNKNOWN


def _nal_units(data: bytes, length_size: int) -> Iterator[bytes]:
    """NAL units of H.264 or HEVC; `length_size` bytes of length are before each, or start codes if it is 0."""
    position = 0
    while length_size and position + length_size < len(data):
        size = int.from_bytes(data[position : position + length_size], "big")
        position += length_size
        if size == 0:
            continue
        yield data[position : position + size]
        position += size
    if not length_size:
        position = data.find(b"\0\0\1") + 3
        while position > 2 and position < len(data):
            next_code = data.find(b"\0\0\1", position)
            # The last unit of a packet is most of its bytes: no copy of more than the header that is read.
            yield data[position : next_code if next_code >= 0 else position + 64]
            position = next_code + 3


def _h264(data: bytes, length_size: int) -> Start:
    recovers = False
    for unit in _nal_units(data, length_size):
        kind = unit[0] & 31
        if kind == 5:  # instantaneous decoding refresh
            return Start.CLOSED
        if kind == 6:
            recovers |= _recovers_at_once(unit[1:])
        elif 1 <= kind <= 4:
            # Frames displayed from an I picture with such a message on are exact. Without it, they may refer back.
            header = _Bits(unit[1:])
            header.exp_golomb()  # number of the first macroblock
            if kind > 1 or header.exp_golomb() not in (2, 7):
                return Start.NONE
            return Start.OPEN if recovers else Start.UNKNOWN
    return Start.UNKNOWN


def _messages(unit: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and content of each message in a unit of supplemental information (SEI), without the unit's header."""
    data, position = unit.replace(b"\0\0\3", b"\0\0"), 0
    while position + 2 < len(data):
        numbers = []
        for _ in range(2):  # kind and size, each as a sum of bytes that ends at the first below 255
            number = 0
            while position < len(data) and data[position] == 255:
                number, position = number + 255, position + 1
            if position >= len(data):
                return
            numbers.append(number + data[position])
            position += 1
        kind, size = numbers
        yield kind, data[position : position + size]
        position += size


def _recovers_at_once(unit: bytes) -> bool:
    """Whether supplemental information says that all frames from this one on are exact.

    Intra refresh says so for a later frame, and some encoders only promise approximate pictures.
    """
    content = next((content for kind, content in _messages(unit) if kind == 6), None)
    if content is None:
        return False
    message = _Bits(content)
    recovery_frame_count, is_exact = message.exp_golomb(), message.read(1)
    return recovery_frame_count == 0 and bool(is_exact)


def _hevc(data: bytes, length_size: int) -> Start:
    for unit in _nal_units(data, length_size):
        kind = unit[0] >> 1 & 63
        if kind in (19, 20):  # instantaneous decoding refresh, the former with leading pictures that refer to it
            return Start.CLOSED if kind == 20 else Start.WHOLE
        if kind < 32:
            return Start.OPEN if 16 <= kind <= 21 else Start.NONE  # broken link or clean random access
    return Start.UNKNOWN


def _mpeg4(data: bytes) -> Start:
    at = data.find(b"\0\0\1\xb6")
    if at < 0:
        return _h263(data) or Start.UNKNOWN  # "short header"
    # P pictures refer to the I or P picture before them, so that an I picture cuts all references but those of B.
    return Start.OPEN if at + 4 < len(data) and data[at + 4] >> 6 == 0 else Start.NONE


def _h263(data: bytes) -> Start:
    bits = _Bits(data)
    if bits.read(22) != 0x20:
        return Start.NONE
    bits.read(13)  # temporal reference, two marker bits, split screen, document camera, freeze release
    if bits.read(3) != 7:
        return Start.NONE if bits.read(1) else Start.CLOSED
    if bits.read(3) == 1:
        bits.read(18)
    return Start.NONE if bits.read(3) else Start.CLOSED


def _flv1(data: bytes) -> Start:
    bits = _Bits(data)
    bits.read(17 + 5 + 8)
    size = bits.read(3)
    bits.read({0: 16, 1: 32}.get(size, 0))
    return Start.NONE if bits.read(2) else Start.CLOSED


def _two_bits(data: bytes) -> Start:
    return Start.CLOSED if data and data[0] >> 6 == 0 else Start.NONE


def _one_bit(data: bytes) -> Start:
    return Start.CLOSED if data and data[0] >> 7 == 0 else Start.NONE


def _mpeg_video(data: bytes) -> Start:
    at = data.find(b"\0\0\1\0")
    if at < 0 or at + 5 >= len(data):
        return Start.UNKNOWN
    if data[at + 5] >> 3 & 7 != 1:
        return Start.NONE
    # The first in the order of display of its group: no picture that follows is displayed before it.
    if not (data[at + 4] or data[at + 5] >> 6):
        return Start.CLOSED
    group = data.find(b"\0\0\1\xb8", 0, at)
    return Start.WHOLE if group >= 0 and data[group + 7] & 64 else Start.OPEN  # the bit of a closed group


def _theora(data: bytes) -> Start:
    return Start.CLOSED if data and data[0] & 0xC0 == 0 else Start.NONE


def _ffv1(data: bytes) -> Start:
    # The first decision of the range coder, at even odds.
    return Start.CLOSED if int.from_bytes(data[:2], "big") >= 0x7F80 else Start.NONE


def _vp8(data: bytes) -> Start:
    return Start.CLOSED if data and not data[0] & 1 else Start.NONE


def _vp8_shown(data: bytes) -> bool:
    return not data or bool(data[0] & 16)


def _vp9_frames(data: bytes) -> Iterator[tuple[bool, bool]]:
    """For each frame of a packet, whether it is a key frame and whether it is displayed."""
    ends = [0, len(data)]
    # Frames that are not displayed are packed with the next one that is; an index at the end gives their sizes.
    marker = data[-1] if data else 0
    count, size = (marker & 7) + 1, (marker >> 3 & 3) + 1
    index = data[-(2 + count * size) :]
    if marker >> 5 == 6 and len(index) == 2 + count * size and index[0] == marker:
        ends = [0]
        for k in range(count):
            ends.append(ends[-1] + int.from_bytes(index[1 + k * size : 1 + (k + 1) * size], "little"))
    for first, stop in pairwise(ends):
        if stop > first:
            bits = _Bits(data[first : first + 2])
            bits.read(2)
            profile = bits.read(1) | bits.read(1) << 1
            bits.read(profile == 3)
            if bits.read(1):  # displays a frame decoded before
                yield False, True
            else:
                yield not bits.read(1), bool(bits.read(1))


def _vp9(data: bytes) -> Start:
    is_key, _ = next(_vp9_frames(data), (False, True))
    return Start.CLOSED if is_key else Start.NONE


def _vp9_shown(data: bytes) -> bool:
    return any(shown for _, shown in _vp9_frames(data))


def _av1_units(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind of each open bitstream unit (OBU) of a packet, and its first two bytes."""
    position = 0
    while position < len(data):
        header = data[position]
        position += 2 if header & 4 else 1
        size = len(data) - position
        if header & 2:
            size = shift = 0
            while position < len(data) and shift < 56:
                byte = data[position]
                size, shift, position = size | (byte & 127) << shift, shift + 7, position + 1
                if byte < 128:
                    break
        yield header >> 3 & 15, data[position : position + 2]
        position += size


def _av1(data: bytes) -> Start:
    has_sequence = False
    for kind, start in _av1_units(data):
        if kind == 1:
            has_sequence = True
            if start and start[0] & 8:  # every frame is a still picture
                return Start.CLOSED
        elif kind in (3, 6) and start:
            # One bit shows an earlier frame, two are the type (0 for key frames, 1 for others), one shows this frame.
            if start[0] >> 4 == 1 and has_sequence:
                return Start.CLOSED
            return Start.NONE if start[0] >> 5 == 1 else Start.UNKNOWN
    return Start.UNKNOWN


def _av1_shown(data: bytes) -> bool:
    for kind, start in _av1_units(data):
        if kind in (3, 6) and start and start[0] & 0x90:
            return True
        if kind == 1 and start and start[0] & 8:  # still pictures have no such bits
            return True
    return False


_START_TESTS: dict[str, StartTest] = {
    "av1": _av1,
    "ffv1": _ffv1,
    "flv1": _flv1,
    "h263": _h263,
    "h263p": _h263,
    "mpeg1video": _mpeg_video,
    "mpeg2video": _mpeg_video,
    "mpeg4": _mpeg4,
    "msmpeg4v2": _two_bits,
    "msmpeg4v3": _two_bits,
    "theora": _theora,
    "vp8": _vp8,
    "vp9": _vp9,
    "wmv1": _two_bits,
    "wmv2": _one_bit,
}
