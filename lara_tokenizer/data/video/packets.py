"""The packets of a video stream: how many frames there are, when, and where decoding can start. No decoding."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from lara_tokenizer.data.episode import FrameIndex
from lara_tokenizer.errors import VideoDecodeError, first_line

_NO_TIME = np.iinfo(np.int64).min


class Media(Hashable, Protocol):
    """A video that is no file of its own: a tar's member, a table's cell. Picklable and hashable; `str()` names it."""

    def open(self) -> BinaryIO:
        """Its bytes from the start, seekable; the caller closes it."""


@dataclass(frozen=True, slots=True)
class PacketTable:
    """The stream's packets in decoding order (m rows), and the n frames that they show.

    Frame i of a video is its i-th shown packet in presentation order. Packets that an edit list discards are
    decoded, as others may refer to them, and never shown.
    """

    stream: int  # the stream's number in the container
    pts: np.ndarray  # int64 (m,): presentation time, in ticks of the stream
    dts: np.ndarray  # int64 (m,): decoding time, or presentation time where there is none
    keys: np.ndarray  # int64 (k,): rows of the key packets
    rows: np.ndarray  # int64 (n,): row of each frame
    starts: np.ndarray  # int64 (n,): row of the key packet from which each frame decodes to its right pixels

    @classmethod
    def build(
        cls, stream: int, pts: list[int | None], dts: list[int | None], keys: list[bool], shown: list[bool]
    ) -> PacketTable:
        """One list item a packet. `shown` is False for the packets that an edit list discards."""
        times = np.array([_NO_TIME if t is None else t for t in pts], np.int64)
        shown_rows = np.flatnonzero(shown)
        # Stable, so that packets without times keep the order they came in.
        rows = shown_rows[np.argsort(times[shown_rows], kind="stable")]
        key_rows = np.flatnonzero(keys)
        return cls(
            stream=stream,
            pts=times,
            dts=np.array([p if d is None else d for p, d in zip(times, dts, strict=True)], np.int64),
            keys=key_rows,
            rows=rows,
            starts=_starts(times, key_rows, rows),
        )

    @property
    def num_frames(self) -> int:
        return len(self.rows)

    @property
    def frame_pts(self) -> np.ndarray:
        """int64 (n,): presentation time of each frame."""
        return self.pts[self.rows]

    @property
    def has_times(self) -> bool:
        """Whether each frame has a presentation time of its own."""
        return bool(self.frame_pts[0] != _NO_TIME and (np.diff(self.frame_pts) > 0).all())

    @property
    def is_reordered(self) -> bool:
        """Whether frames are shown in another order than they are decoded in, going by their times."""
        return bool((np.diff(self.rows) < 0).any())


def _starts(pts: np.ndarray, keys: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """For the frame in each of `rows`, the key packet to decode from; row 0 where there is none before it."""
    start = np.searchsorted(keys, rows, side="right") - 1
    # A frame that follows a key packet and is shown before it may refer to frames before that packet.
    while True:
        leading = (start > 0) & (pts[rows] < pts[keys[start]]) if len(keys) else np.zeros(len(rows), bool)
        if not leading.any():
            return np.where(start > 0, keys[start], 0) if len(keys) else np.zeros(len(rows), np.int64)
        start -= leading


def open_video(path: Path | Media) -> tuple[InputContainer, VideoStream]:
    """Open a video and choose its best video stream, to be decoded in one thread. Raises VideoDecodeError."""
    if isinstance(path, Path):
        if os.stat(path).st_size == 0:
            raise VideoDecodeError(path, "the file is empty (0 bytes)")
        # An absolute path, as ffmpeg takes what stands before a colon for a protocol.
        container = av.open(os.path.abspath(path), "r", metadata_errors="ignore")
    else:
        container = av.open(path.open(), "r", metadata_errors="ignore")
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream) or stream.disposition & av.stream.Disposition.attached_pic:
        kinds = ", ".join(sorted({each.type for each in container.streams})) or "nothing"
        container.close()
        raise VideoDecodeError(path, f"no video in it (streams: {kinds})")
    if stream.codec_context is None:
        container.close()
        raise VideoDecodeError(path, "no decoder for its video codec")
    # The cores are better used by a process each than by threads of one decoder.
    stream.codec_context.thread_count = 1
    return container, stream


def stream_packets(container: InputContainer, stream: VideoStream) -> Iterator[av.Packet]:
    """The stream's packets in decoding order, without empty ones (AVI's "show the last frame again")."""
    return (packet for packet in container.demux(stream) if packet.size > 0)


def scan(path: Path | Media) -> tuple[PacketTable, FrameIndex]:
    """Read through a video's packets. Raises VideoDecodeError."""
    with plain_errors(path):
        container, stream = open_video(path)
        with container:
            facts = [
                (packet.pts, packet.dts, packet.is_keyframe, not packet.is_discard, packet.is_corrupt)
                for packet in stream_packets(container, stream)
            ]
            if not any(shown for _, _, _, shown, _ in facts):
                raise VideoDecodeError(path, "the video stream holds no frame")
            pts, dts, keys, shown, corrupt = (list(column) for column in zip(*facts, strict=True))
            table = PacketTable.build(stream.index, pts, dts, keys, shown)
            if corrupt[-1]:
                promised = f" of {stream.frames}" if stream.frames > table.num_frames else ""
                raise VideoDecodeError(path, f"the file is cut off in frame {table.num_frames}{promised}")
            return table, _frame_index(path, container, stream, table)


def _frame_index(path: Path | Media, container: InputContainer, stream: VideoStream, table: PacketTable) -> FrameIndex:
    notes = []
    if len(container.streams.video) > 1:
        size = f"{stream.codec_context.width}x{stream.codec_context.height}"
        notes.append(f"{len(container.streams.video)} video streams, took stream {stream.index} ({size})")
    if stream.frames > len(table.pts):
        notes.append(f"the header promises {stream.frames} frames, the file holds {table.num_frames}")
    rate = float(stream.average_rate or stream.guessed_rate or 0)
    if table.has_times:
        assert stream.time_base is not None
        ticks = table.frame_pts - table.frame_pts[0]
        timestamps = ticks * stream.time_base.numerator / stream.time_base.denominator
        return FrameIndex(timestamps, _nominal_rate(timestamps, rate), "; ".join(notes))
    if rate <= 0:
        raise VideoDecodeError(path, "its frames have neither time stamps nor a rate")
    notes.append(f"no time stamps: times come from the nominal {rate:.4g} frames per second")
    return FrameIndex(np.arange(table.num_frames) / rate, rate, "; ".join(notes))


def _nominal_rate(timestamps: np.ndarray, stated: float) -> float:
    """The median rate, or the mean where that is about the same: times rounded to ms would give 30.3 for 30."""
    if len(timestamps) == 1:
        return stated
    median, mean = 1 / float(np.median(np.diff(timestamps))), (len(timestamps) - 1) / float(timestamps[-1])
    return mean if abs(mean - median) < 0.05 * median else median


@contextmanager
def plain_errors(path: Path | Media) -> Iterator[None]:
    """Turn whatever a decoder throws into one VideoDecodeError in plain words."""
    try:
        yield
    except VideoDecodeError:
        raise
    except Exception as error:
        # Damaged files make PyAV raise many unrelated types (InvalidData, EOF, Index, UnicodeDecode, Memory,
        # PatchWelcome ...). All of them mean that this file cannot be read.
        raise VideoDecodeError(path, _reason(error)) from error


def _reason(error: Exception) -> str:
    match error:
        case FileNotFoundError():
            return "no such file (moved or deleted?)"
        case IsADirectoryError():
            return "a folder, not a video file"
        case PermissionError():
            return "no permission to read it"
        case av.error.DecoderNotFoundError():
            return "no decoder for its video codec"
        case av.error.InvalidDataError():
            return "not a video, or damaged (invalid data)"
        case MemoryError():
            return "more memory asked for than there is (a damaged header?)"
        case _:
            return f"cannot be read ({type(error).__name__}: {first_line(error)})"
