"""Frame count, times and decoding start points of a video, from its packets, without decoding."""

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

from lara_tokenizer.errors import VideoDecodeError, first_line

# In packets (frames, for decord): a jump forward by at most this many reads on, since a seek costs about as much.
SEEK_THRESHOLD = 64
_NO_TIME = np.iinfo(np.int64).min

FrameTimes = tuple[np.ndarray, float, str]  # timestamps, rate and note, as in a `FrameIndex`


class Media(Hashable, Protocol):
    """A video that is not a file of its own, such as a tar member. Picklable and hashable; `str()` is its name."""

    def open(self) -> BinaryIO:
        """The bytes from the start as a seekable file; the caller closes it."""


@dataclass(frozen=True, slots=True)
class PacketTable:
    """The m packets of a stream in decoding order, and the n frames displayed from them.

    Frame i of a video is the i-th displayed packet in presentation order. Packets that an edit list discards are
    decoded, since others may refer to them, but never displayed. A row is a position in this list of packets: `pts`
    and `dts` have one entry per row; `keys`, `rows` and `starts` contain rows.
    """

    stream: int  # index of the stream in the container
    pts: np.ndarray  # int64 (m,): presentation time in ticks of the stream
    dts: np.ndarray  # int64 (m,): decoding time, or presentation time where there is none
    keys: np.ndarray  # int64 (k,): rows of the key packets, ascending
    rows: np.ndarray  # int64 (n,): row of the displayed packet of each frame
    starts: np.ndarray  # int64 (n,): row of the key packet from which each frame is decoded exactly

    @classmethod
    def build(
        cls, stream: int, pts: list[int | None], dts: list[int | None], keys: list[bool], shown: list[bool]
    ) -> PacketTable:
        """A table from one list item per packet. `shown` is True for displayed packets, False for discarded ones."""
        times = np.array([_NO_TIME if t is None else t for t in pts], np.int64)
        shown_rows = np.flatnonzero(shown)
        # A stable sort keeps packets without times in file order.
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
        """Whether presentation order differs from decoding order, judged by the times."""
        return bool((np.diff(self.rows) < 0).any())


def _starts(pts: np.ndarray, keys: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Row of the key packet to decode each frame from; 0 where no key packet precedes it."""
    start = np.searchsorted(keys, rows, side="right") - 1
    # Leading frames of an open GOP: a frame that follows a key packet but is displayed before it may refer to frames
    # before that packet, so decoding has to start at an earlier key packet.
    while True:
        leading = (start > 0) & (pts[rows] < pts[keys[start]]) if len(keys) else np.zeros(len(rows), bool)
        if not leading.any():
            return np.where(start > 0, keys[start], 0) if len(keys) else np.zeros(len(rows), np.int64)
        start -= leading


def open_video(path: Path | Media) -> tuple[InputContainer, VideoStream]:
    """Open a video and choose its best video stream, for single-threaded decoding. Raises VideoDecodeError."""
    if isinstance(path, Path):
        if os.stat(path).st_size == 0:
            raise VideoDecodeError(path, "the file is empty (0 bytes)")
        # An absolute path, since ffmpeg takes a prefix up to a colon for a protocol.
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
    # One process per core uses the cores better than threads of one decoder.
    stream.codec_context.thread_count = 1
    return container, stream


def stream_packets(container: InputContainer, stream: VideoStream) -> Iterator[av.Packet]:
    """Packets of the stream in decoding order, without empty ones (AVI's "repeat the last frame")."""
    return (packet for packet in container.demux(stream) if packet.size > 0)


def scan(path: Path | Media) -> tuple[PacketTable, FrameTimes]:
    """Packet table and frame times of a video, from one pass over its packets. Raises VideoDecodeError."""
    with decode_errors(path):
        container, stream = open_video(path)
        with container:
            packets = [
                (packet.pts, packet.dts, packet.is_keyframe, not packet.is_discard, packet.is_corrupt)
                for packet in stream_packets(container, stream)
            ]
            if not any(shown for _, _, _, shown, _ in packets):
                raise VideoDecodeError(path, "the video stream holds no frame")
            pts, dts, keys, shown, corrupt = (list(column) for column in zip(*packets, strict=True))
            table = PacketTable.build(stream.index, pts, dts, keys, shown)
            if corrupt[-1]:
                promised = f" of {stream.frames}" if stream.frames > table.num_frames else ""
                raise VideoDecodeError(path, f"the file is cut off in frame {table.num_frames}{promised}")
            return table, _frame_times(path, container, stream, table)


def _frame_times(path: Path | Media, container: InputContainer, stream: VideoStream, table: PacketTable) -> FrameTimes:
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
        return timestamps, _nominal_rate(timestamps, rate), "; ".join(notes)
    if rate <= 0:
        raise VideoDecodeError(path, "its frames have neither time stamps nor a rate")
    notes.append(f"no time stamps: times come from the nominal {rate:.4g} frames per second")
    return np.arange(table.num_frames) / rate, rate, "; ".join(notes)


def _nominal_rate(timestamps: np.ndarray, stated: float) -> float:
    """The median rate, or the mean rate where both agree to within 5 %."""
    # The median ignores gaps in a recording, but times rounded to milliseconds would make it 30.3 instead of 30.
    if len(timestamps) == 1:
        return stated
    median, mean = 1 / float(np.median(np.diff(timestamps))), (len(timestamps) - 1) / float(timestamps[-1])
    return mean if abs(mean - median) < 0.05 * median else median


@contextmanager
def decode_errors(path: Path | Media) -> Iterator[None]:
    """Convert any exception of a decoder into a VideoDecodeError with a plain reason."""
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
            return "more memory requested than available (a damaged header?)"
        case _:
            return f"cannot be read ({type(error).__name__}: {first_line(error)})"
