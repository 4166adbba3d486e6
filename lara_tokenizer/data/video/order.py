"""Order of display from the decoder, for frames whose time stamps cannot be trusted."""

from __future__ import annotations

from collections.abc import Iterable

import av
import numpy as np
from av.video.stream import VideoStream


def decoded_order(
    stream: VideoStream, packets: Iterable[av.Packet], shown: np.ndarray, closed: np.ndarray, doubtful: np.ndarray
) -> np.ndarray:
    """Place of each packet's frame among those displayed, as decoding tells: int64 (m,), -1 where nothing was decoded.

    Only the parts between two closed starts in which a frame is doubtful are decoded. A part that cannot be decoded
    completely stays untold.

    Args:
        stream: the stream that `packets` come from, all m of them from the start of the file.
        shown, closed: bool (m,), whether a packet displays a frame, and whether all that follow are displayed later.
        doubtful: int64 (d,), rows of packets.
    """
    parts = np.cumsum(closed)
    wanted = frozenset(parts[doubtful].tolist())
    places = np.full(len(shown), -1)
    decoder = stream.codec_context
    rows: list[int] = []
    part = -1

    def finish() -> None:
        if part in wanted:
            rows.extend(_rows(decoder, None))
            decoder.flush_buffers()
            if sorted(rows) == np.flatnonzero(shown & (parts == part)).tolist():
                places[rows] = np.arange(len(rows))
        rows.clear()

    for row, packet in zip(range(len(shown)), packets, strict=False):
        if parts[row] != part:
            finish()
            part = int(parts[row])
        if part in wanted:
            packet.pts = row
            rows += _rows(decoder, packet)
    finish()
    return places


def first_decoded(stream: VideoStream, packets: Iterable[av.Packet], count: int) -> int:
    """Row of the first frame that decoding from the start of the file shows, of `count` packets; -1 where none is."""
    for row, packet in zip(range(count), packets, strict=False):
        packet.pts = row
        if rows := _rows(stream.codec_context, packet):
            return rows[0]
    return next(iter(_rows(stream.codec_context, None)), -1)


def _rows(decoder: av.VideoCodecContext, packet: av.Packet | None) -> list[int]:
    """Rows of the frames that the decoder gives for a packet; none where it fails."""
    try:
        return [-1 if frame.pts is None else frame.pts for frame in decoder.decode(packet)]
    except av.error.FFmpegError:
        return []
