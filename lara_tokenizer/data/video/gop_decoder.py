"""Decoding of requested frames: seek to the key frame before each, decode forward, check every frame's PTS.

Only the groups of pictures (GOPs) with a requested frame are decoded. After a seek, the decoder outputs frames in
presentation order, so their PTS must match the packet table one by one. At the first mismatch or damaged frame
`FrameMismatchError` is raised. The caller then decodes from the start of the file, after `verify_decodes_completely`
has shown that this yields every listed frame.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from lara_tokenizer.data.video.packets import SEEK_THRESHOLD, Media, PacketTable, open_video, stream_packets
from lara_tokenizer.errors import VideoDecodeError


class FrameMismatchError(Exception):
    """The decoder output differs from the frame that the packet table lists."""


class GopDecoder:
    """One open file and its decoder.

    With `from_start`, frames are counted from the first packet of the file and their time stamps are ignored.
    """

    def __init__(self, path: Path | Media, table: PacketTable, *, from_start: bool = False) -> None:
        if not from_start and not table.has_times:
            raise FrameMismatchError("frames have no time stamps of their own")
        self._path = path
        self._table = table
        self._from_start = from_start
        self._frame_pts = table.frame_pts
        self._key_rows: dict[int | None, int] = {int(table.pts[row]): int(row) for row in table.keys}
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
        self._reset_at(0)

    def _reset_at(self, row: int) -> None:
        """Expect the first frame that decoding from the packet in `row` outputs."""
        self._first_row = row
        self._next = int(np.searchsorted(self._frame_pts, self._table.pts[row])) if row > 0 else 0
        self._is_first_after_seek = True
        self._drained = False
        self._ready: deque[av.VideoFrame] = deque()

    def _jump_to(self, row: int) -> None:
        """Move to a key packet without decoding the packets in between."""
        self._stream.codec_context.flush_buffers()
        if not self._row <= row <= self._row + SEEK_THRESHOLD:
            self._seek(row)
        for _ in range(row - self._row):
            next(self._packets, None)
        self._row = row
        self._reset_at(row)

    def _seek(self, row: int) -> None:
        """Move to the packet in `row` or an earlier key packet; to the start if the container cannot seek there."""
        if row > 0:
            self._container.seek(int(self._table.dts[row]), stream=self._stream)
            packets = stream_packets(self._container, self._stream)
            # Containers seek inexactly: accept the position only if it is a known key packet at or before the target.
            for packet in packets:
                landed = self._key_rows.get(packet.pts) if packet.is_keyframe else None
                if landed is not None and landed <= row:
                    self._packets, self._row = chain([packet], packets), landed
                    return
                if landed is not None:
                    break
        self.close()
        self._open()

    def _decode_next(self) -> av.VideoFrame:
        """Decode frame `self._next` and verify it."""
        frame = self._output()
        if not self._from_start:
            due = self._frame_pts[self._next]
            # Leading frames of the first key packet refer to packets that were not decoded: discard them.
            while self._is_first_after_seek and frame is not None and frame.pts is not None and frame.pts < due:
                frame = self._output()
            if frame is not None and frame.pts != due:
                raise FrameMismatchError(f"frame {self._next} is missing or its time stamp is wrong")
            if frame is not None and frame.is_corrupt:
                raise FrameMismatchError(f"frame {self._next} is damaged")
        if frame is None:
            raise FrameMismatchError(f"the video ends before frame {self._next}")
        self._next += 1
        self._is_first_after_seek = False
        return frame

    def _output(self) -> av.VideoFrame | None:
        """The next frame that the decoder outputs; None at the end."""
        while not self._ready and not self._drained:
            packet = next(self._packets, None)
            if packet is None:
                self._drained = True
            else:
                self._row += 1
            # Decoding None flushes the frames that the decoder delays.
            self._ready.extend(self._stream.codec_context.decode(packet))
        return self._ready.popleft() if self._ready else None


def verify_decodes_completely(path: Path | Media, table: PacketTable) -> None:
    """Decode the whole file. Raises VideoDecodeError unless every listed frame is decoded undamaged."""
    decoder = GopDecoder(path, table, from_start=True)
    seen: list[int | None] = []
    fault = ""
    try:
        while (frame := decoder._output()) is not None and not frame.is_corrupt:
            seen.append(frame.pts)
        fault = ", then comes a damaged one" if frame is not None else ""
    except av.error.FFmpegError as error:
        fault = f", then comes {str(error.strerror).lower()}"
    finally:
        decoder.close()
    if fault or len(seen) != table.num_frames:
        raise VideoDecodeError(path, f"damaged: {len(seen)} of {table.num_frames} frames can be read{fault}")
    # Two cases look alike. Where times follow the decoding order although frames are reordered (an old AVI remuxed to
    # mp4), only the times are wrong. Where frames with true times come out unordered, the decoder has lost its way.
    times = [pts for pts in seen if pts is not None]
    if table.has_times and table.is_reordered and times != sorted(times):
        raise VideoDecodeError(path, "damaged: its frames are decoded in another order than their time stamps")
