"""Decoding of requested frames: seek to a proven start before each, decode forward, check every packet and frame.

Only the groups of pictures (GOPs) with a requested frame are decoded. Packets are matched with the packet table by
their PTS, then carry their row as PTS through the decoder, so that each frame tells which packet it comes from: a
repeated or missing time stamp cannot confuse two frames. Frames come out in presentation order and must be those of
the table one by one. At the first mismatch or damaged frame `FrameMismatchError` is raised. The caller then decodes
from the start of the file, after `verify_decodes_completely` has shown that this yields every listed frame.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import PictureType
from av.video.stream import VideoStream

from lara_tokenizer.data.video.display import Orientation
from lara_tokenizer.data.video.media import Media, check_codec, open_video, stream_packets
from lara_tokenizer.data.video.packets import SEEK_THRESHOLD, PacketTable
from lara_tokenizer.data.video.times import NO_TIME
from lara_tokenizer.errors import VideoDecodeError

# Codecs whose decoder logs damage (a wrong checksum of a slice) and outputs a picture of what its memory holds. Others
# log about good files, too.
_DAMAGE_IS_LOGGED = frozenset({"ffv1"})
_INVALID_DATA = -av.error.tag_to_code(b"INDA")  # AVERROR_INVALIDDATA
# One frame in so many may come out of order before the decoder counts as lost.
_FEW_FALSE = 50


class FrameMismatchError(Exception):
    """The decoder output differs from the frame that the packet table lists."""


class GopDecoder:
    """One open file and its decoder.

    With `from_start`, frames are counted from the first packet of the file and their time stamps are ignored.
    """

    def __init__(self, path: Path | Media, table: PacketTable, *, from_start: bool = False) -> None:
        if not from_start and not table.is_ordered:
            raise FrameMismatchError("the time stamps do not give the order of the frames")
        self._path = path
        self._table = table
        self._from_start = from_start
        self._numbers = np.full(len(table.pts), -1)  # of the frame that each packet displays
        self._numbers[table.rows] = np.arange(table.num_frames)
        self._unused = frozenset(table.unused.tolist())
        self.orientation = Orientation()  # of the frame decoded last
        self._container: InputContainer
        self._stream: VideoStream
        self._open()

    def frames(self, indices: Iterable[int]) -> Iterator[av.VideoFrame]:
        """Yield the frames of strictly increasing `indices`.

        Raises FrameMismatchError and PyAV's errors.
        """
        for i in indices:
            start = 0 if self._from_start else int(self._table.starts[i])
            # Continuing is possible only within the run of packets decoded since the last seek, and only forward.
            if not (self._first_row <= start <= self._row and self._next <= i):
                self._jump_to(start)
            while self._next < i:
                self._decode_next()
            yield self._decode_next()

    def close(self) -> None:
        self._container.close()

    def _open(self) -> None:
        self._container, self._stream = open_video(self._path)
        self._packets: Iterator[av.Packet] = stream_packets(self._container, self._stream)
        self._row = 0  # of the next packet to decode
        context = self._stream.codec_context
        self.header_size = context.width, context.height
        self._reset_at(0)

    def _reset_at(self, row: int) -> None:
        """Expect the first frame that decoding from the packet in `row` outputs."""
        self._first_row = row
        self._first = self._next = int(np.argmax(self._table.starts == row)) if row > 0 else 0
        self._is_first_after_seek = True
        self._drained = False
        self._ready: deque[av.VideoFrame] = deque()

    def _jump_to(self, row: int) -> None:
        """Move to the start in `row` without decoding the packets in between."""
        self._stream.codec_context.flush_buffers()
        if not self._row <= row <= self._row + SEEK_THRESHOLD:
            self._seek(row)
        while self._row < row and self._next_packet() is not None:
            pass
        self._reset_at(row)

    def _seek(self, row: int) -> None:
        """Move to the packet in `row` or an earlier one; to the start of the file if that cannot be sought."""
        if not self._table.is_stamped and self._row <= row:
            return  # where time stamps repeat, a position is known only by counting packets
        if row > 0 and self._table.is_stamped:
            self._container.seek(int(self._table.dts[row]), stream=self._stream)
            packets = stream_packets(self._container, self._stream)
            # Containers seek inexactly: accept the position only if it is one known packet at or before the target.
            for packet in packets:
                landed = np.flatnonzero(self._table.pts == (NO_TIME if packet.pts is None else packet.pts))
                if packet.is_keyframe and len(landed) == 1 and landed[0] <= row:
                    self._packets, self._row = chain([packet], packets), int(landed[0])
                    return
                if len(landed) and landed[0] > row:
                    break
        self.close()
        self._open()

    def _decode_next(self) -> av.VideoFrame:
        """Decode frame `self._next` and verify it."""
        frame = self._output()
        if not self._from_start:
            if frame is not None and self._number(frame) != self._next:
                raise FrameMismatchError(f"frame {self._next} is missing or its time stamp is wrong")
            if frame is not None and frame.is_corrupt:
                raise FrameMismatchError(f"frame {self._next} is damaged")
            if self._is_first_after_seek and frame is not None and not self._can_start_with(frame):
                raise FrameMismatchError(f"frame {self._next} is flagged as a key frame and is none")
        if frame is None:
            raise FrameMismatchError(f"the video ends before frame {self._next}")
        # A matrix in the container comes with every frame; one in the stream comes with a key frame and lasts.
        if self._is_first_after_seek or frame.key_frame:
            self.orientation = Orientation.of_frame(frame)
        self._next += 1
        self._is_first_after_seek = False
        return frame

    def _number(self, frame: av.VideoFrame) -> int:
        """Number of the frame that was expected from this frame's packet; -1 for none."""
        return -1 if frame.pts is None else int(self._numbers[frame.pts])

    def _can_start_with(self, frame: av.VideoFrame) -> bool:
        return self._first_row == 0 or self._table.is_proven or frame.pict_type == PictureType.I

    def _next_packet(self) -> av.Packet | None:
        """The next packet, with its row as PTS; None at the end."""
        packet = next(self._packets, None)
        if packet is None:
            return None
        if not self._from_start:
            pts = NO_TIME if packet.pts is None else packet.pts
            if self._row >= len(self._table.pts) or pts != self._table.pts[self._row]:
                raise FrameMismatchError(f"packet {self._row} is another than before")
        packet.pts = self._row
        self._row += 1
        return packet

    def _output(self) -> av.VideoFrame | None:
        """The next frame that the decoder outputs; None at the end."""
        while not self._ready and not self._drained:
            packet = self._next_packet()
            self._drained = packet is None
            if packet is not None and self._is_unusable(self._row - 1):
                continue
            # Decoding None flushes the frames that the decoder delays.
            self._ready.extend(self._decode(packet))
        return self._ready.popleft() if self._ready else None

    def _decode(self, packet: av.Packet | None) -> list[av.VideoFrame]:
        """Frames that the decoder outputs for a packet. Raises FFmpegError, also for damage that is only logged."""
        context = self._stream.codec_context
        if context.codec.canonical_name not in _DAMAGE_IS_LOGGED:
            return context.decode(packet)
        level = av.logging.get_level()
        av.logging.set_level(av.logging.ERROR)
        try:
            with av.logging.Capture() as logged:
                frames = context.decode(packet)
        finally:
            av.logging.set_level(level)
        if logged:
            raise av.error.InvalidDataError(_INVALID_DATA, logged[0][2].strip())
        return frames

    def _is_unusable(self, row: int) -> bool:
        """Whether a packet refers to others that are not in the file, or were not decoded since the last seek.

        The latter are the leading frames of the packet sought, to which no later ones refer.
        """
        if row in self._unused:
            return True
        return not self._from_start and -1 < self._numbers[row] < self._first


def verify_decodes_completely(path: Path | Media, table: PacketTable) -> None:
    """Decode the whole file. Raises VideoDecodeError unless every listed frame is decoded undamaged."""
    decoder = GopDecoder(path, table, from_start=True)
    seen: list[int] = []
    sizes: dict[str, None] = {}  # in order of display
    fault = ""
    try:
        while (frame := decoder._output()) is not None and not frame.is_corrupt:
            seen.append(-1 if frame.pts is None else frame.pts)
            sizes[f"{frame.width}x{frame.height}"] = None
        fault = ", then comes a damaged one" if frame is not None else ""
    except av.error.FFmpegError as error:
        fault = f", then comes {str(error.strerror).lower()}"
    finally:
        decoder.close()
    if fault or len(seen) != table.num_frames:
        _check_codec(path, table, seen)
        if len(sizes) > 1:
            raise VideoDecodeError(path, f"the frame size changes within the video, from {' to '.join(sizes)}")
        raise VideoDecodeError(path, f"damaged: {len(seen)} of {table.num_frames} frames can be read{fault}")
    # Two cases look alike. Where times follow the decoding order although frames are reordered (an old AVI remuxed to
    # mp4), only the times are wrong. Where frames with true times come out unordered, the decoder has lost its way,
    # unless it is a frame here and there: then these have false stamps.
    numbers = [int(decoder._numbers[row]) for row in seen if 0 <= row < len(table.pts)]
    displaced = len(numbers) - _longest_rise(numbers)
    if table.is_stamped and table.is_reordered and displaced > max(2, len(numbers) // _FEW_FALSE):
        raise VideoDecodeError(path, "damaged: its frames are decoded in another order than their time stamps")


def _check_codec(path: Path | Media, table: PacketTable, seen: list[int]) -> None:
    """Refuse a transport stream whose codec is another one where the first packet gave no frame."""
    missing = min(frozenset(table.rows.tolist()) - frozenset(seen), default=0)
    container, stream = open_video(path)
    with container:
        # A little earlier, since the codec is told before the first packet that has it.
        packet = next(islice(stream_packets(container, stream), max(0, missing - 3), None), None)
        if packet is not None and packet.pos is not None:
            check_codec(path, container, stream, packet.pos, f" near frame {len(seen)}")


def _longest_rise(numbers: list[int]) -> int:
    """Length of the longest subsequence that increases."""
    ends: list[int] = []  # the least last member of such a subsequence of each length
    for number in numbers:
        at = bisect_left(ends, number)
        ends[at : at + 1] = [number]
    return len(ends)
