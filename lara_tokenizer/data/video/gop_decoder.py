"""Decode only the groups of pictures (GOPs) with a wanted frame, and prove that each frame is the one it claims to be.

A decoder starts at a key packet and gives its frames in presentation order. So the frames that leave it must be
the listed ones, one after the other; as soon as one is not, or is flagged as damaged, nothing more is believed:
`NotAsListedError`. The cure is to decode from the file's start, once `prove_whole` has shown that this gives
every frame.
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

from lara_tokenizer.data.video.packets import Media, PacketTable, open_video, stream_packets
from lara_tokenizer.errors import VideoDecodeError

# Reading past this many packets without decoding them costs about as much as a seek.
FAR = 64


class NotAsListedError(Exception):
    """The decoder gave something else than the frame that the packets promise."""


class GopDecoder:
    """One open file and its decoder.

    With `from_start` the frames are counted from the file's first packet, whatever their time stamps say.
    """

    def __init__(self, path: Path | Media, table: PacketTable, *, from_start: bool = False) -> None:
        if not from_start and not table.has_times:
            raise NotAsListedError("frames have no time stamps of their own")
        self._path, self._table, self._from_start = path, table, from_start
        self._frame_pts = table.frame_pts
        self._key_rows: dict[int | None, int] = {int(table.pts[row]): int(row) for row in table.keys}
        self._container: InputContainer
        self._stream: VideoStream
        self._open()

    def frames(self, wanted: Iterable[int]) -> Iterator[av.VideoFrame]:
        """Yield the wanted frames; `wanted` increases strictly.

        Raises NotAsListedError, or what PyAV raises.
        """
        for i in wanted:
            start = 0 if self._from_start else int(self._table.starts[i])
            if not (self._first_row <= start <= self._row and self._next <= i):
                self._restart(start)
            while self._next < i:
                self._decode_next()
            yield self._decode_next()

    def close(self) -> None:
        self._container.close()

    def _open(self) -> None:
        self._container, self._stream = open_video(self._path)
        self._packets: Iterator[av.Packet] = stream_packets(self._container, self._stream)
        self._row = 0  # of the next packet to decode
        self._begin(0)

    def _begin(self, row: int) -> None:
        self._first_row = row
        self._next = int(np.searchsorted(self._frame_pts, self._table.pts[row])) if row > 0 else 0
        self._at_begin = True
        self._drained = False
        self._ready: deque[av.VideoFrame] = deque()

    def _restart(self, row: int) -> None:
        """Go to a key packet without decoding what lies between."""
        self._stream.codec_context.flush_buffers()
        if not self._row <= row <= self._row + FAR:
            self._seek(row)
        for _ in range(row - self._row):
            next(self._packets, None)
        self._row = row
        self._begin(row)

    def _seek(self, row: int) -> None:
        """Go to the packet in `row` or an earlier one; to the start where the container cannot do better."""
        if row > 0:
            self._container.seek(int(self._table.dts[row]), stream=self._stream)
            packets = stream_packets(self._container, self._stream)
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
        """Frame number `self._next`, and no other."""
        frame = self._output()
        if not self._from_start:
            due = self._frame_pts[self._next]
            # What is shown before the key packet that decoding began with refers to what was not decoded.
            while self._at_begin and frame is not None and frame.pts is not None and frame.pts < due:
                frame = self._output()
            if frame is not None and frame.pts != due:
                raise NotAsListedError(f"frame {self._next} is missing or its time stamp is wrong")
            if frame is not None and frame.is_corrupt:
                raise NotAsListedError(f"frame {self._next} is damaged")
        if frame is None:
            raise NotAsListedError(f"the video ends before frame {self._next}")
        self._next += 1
        self._at_begin = False
        return frame

    def _output(self) -> av.VideoFrame | None:
        """Whatever leaves the decoder next; None at the end."""
        while not self._ready and not self._drained:
            packet = next(self._packets, None)
            if packet is None:
                self._drained = True
            else:
                self._row += 1
            # None makes the decoder give what it held back.
            self._ready.extend(self._stream.codec_context.decode(packet))
        return self._ready.popleft() if self._ready else None


def prove_whole(path: Path | Media, table: PacketTable) -> None:
    """Decode all of a file and count. Raises VideoDecodeError unless each listed frame comes out undamaged."""
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
    # Times that follow the decoding order although frames do not (an old AVI copied to mp4) are only wrong as
    # times of single frames; real ones that come out of order mean that the decoder lost its way.
    times = [pts for pts in seen if pts is not None]
    if table.has_times and table.is_reordered and times != sorted(times):
        raise VideoDecodeError(path, "damaged: its frames are decoded in another order than their time stamps")
