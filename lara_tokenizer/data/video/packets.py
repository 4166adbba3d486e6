"""Frame count, times and decoding start points of a video, from one pass over its packets, almost without decoding.

Only where time stamps are in doubt, or a cut file has no start at all, the frames concerned are decoded.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from lara_tokenizer.data.episode import FrameIndex
from lara_tokenizer.data.video.bitstream import Start, shown_test, start_test, turn_test
from lara_tokenizer.data.video.media import Media, check_codec, decode_errors, open_video, stream_packets
from lara_tokenizer.data.video.times import (
    HOLE,
    NO_TIME,
    Display,
    decoded_order,
    display_order,
    first_decoded,
    hole_note,
)
from lara_tokenizer.errors import VideoDecodeError

# In packets (frames, for decord): a jump forward by at most this many reads on, since a seek costs about as much.
SEEK_THRESHOLD = 64
# Frames with a false stamp, among those decoded to learn their order, that are no sign of another fault.
_FEW_FALSE = 3


@dataclass(frozen=True, slots=True)
class PacketTable:
    """The m packets of a stream in decoding order, and the n frames displayed from them.

    Frame i of a video is the i-th displayed packet in presentation order. Packets that an edit list discards are
    decoded, since others may refer to them, but never displayed, nor are VP8's and VP9's invisible frames. A row is a
    position in this list of packets: `pts` and `dts` have one entry per row; `rows` and `starts` contain rows.
    """

    stream: int  # index of the stream in the container
    pts: np.ndarray  # int64 (m,): presentation time in ticks of the stream; `NO_TIME` where there is none
    dts: np.ndarray  # int64 (m,): decoding time, or presentation time where there is none
    rows: np.ndarray  # int64 (n,): row of the displayed packet of each frame
    starts: np.ndarray  # int64 (n,): row of the packet from which each frame is decoded exactly; 0 is the file's start
    is_stamped: bool
    """Each frame has a time stamp of its own: frames can be sought by it."""
    is_ordered: bool
    """The packets tell the order of display, so that `starts` are of use."""
    is_proven: bool
    """The codec's own headers say that decoding can begin at `starts`; otherwise only the container's flags do."""
    is_turned_within: bool  # the stream itself states an orientation, which its later key frames may not repeat
    unused: np.ndarray  # int64 (u,): rows at the head of a cut file that refer to packets which are not in it
    lost: np.ndarray  # int64 (n,): row at or before each frame's at which bytes are lost since its start; -1 for none

    @property
    def num_frames(self) -> int:
        return len(self.rows)

    @property
    def is_reordered(self) -> bool:
        """Whether presentation order differs from decoding order, judged by the times."""
        return bool((np.diff(self.rows) < 0).any())


def scan(path: Path | Media) -> tuple[PacketTable, FrameIndex]:
    """Packet table and frame times of a video, from one pass over its packets. Raises VideoDecodeError."""
    with decode_errors(path):
        container, stream = open_video(path)
        with container:
            packets = _Packets.read(container, stream)
            if not packets.shown.any():
                raise VideoDecodeError(path, "the video stream holds no frame")
            if packets.is_tested and packets.starts[0] < Start.OPEN:
                check_codec(path, container, stream, 0, "")
            unused = _unused_head(packets, has_b_frames=bool(stream.codec_context.has_b_frames))
            packets.shown[unused] = False
            unrefreshed = _unrefreshed_head(path, packets)
            packets.shown[unrefreshed] = False
            left_out = len(unused) + len(unrefreshed)
            display = display_order(packets.pts, packets.dts, packets.shown, packets.starts)
            if len(display.doubtful) and (stream.codec_context.has_b_frames or (np.diff(display.rows) < 0).any()):
                order = _decoded_order(path, packets, display)
                told = display_order(packets.pts, packets.dts, packets.shown, packets.starts, order)
                # Stamps that the decoder contradicts all along (ASF) are times of decoding: any other order of them
                # is worse.
                if len(told.doubtful) <= max(_FEW_FALSE, (order >= 0).sum() // 4):
                    display = told
            if packets.corrupt[-1]:
                count = len(display.rows)
                promised = f" of {stream.frames}" if stream.frames > count else ""
                raise VideoDecodeError(path, f"the file is cut off in frame {count}{promised}")
            return _table(stream, packets, display, unused), _frame_index(
                path, container, stream, packets, display, left_out
            )


@dataclass(frozen=True, slots=True)
class _Packets:
    """Columns of one pass over the m packets of a stream."""

    pts: np.ndarray  # int64 (m,), `NO_TIME` where there is none
    dts: np.ndarray  # int64 (m,), `NO_TIME` where there is none
    sizes: np.ndarray  # int64 (m,), bytes
    keys: np.ndarray  # bool (m,), the container's flag
    starts: np.ndarray  # uint8 (m,), a `Start` by the codec's own header
    shown: np.ndarray  # bool (m,)
    corrupt: np.ndarray  # bool (m,): bytes are lost within or just after it
    is_tested: bool  # the codec's own headers tell `starts`
    is_turned: bool  # some packet states how to turn the picture
    last_duration: int  # of the last one, in ticks; 0 where unknown

    @classmethod
    def read(cls, container: InputContainer, stream: VideoStream) -> _Packets:
        """Read all packets; the codec's header is read where a decoder might start, or might show nothing."""
        starts_at, shows = start_test(stream.codec_context), shown_test(stream.codec_context)
        states_turn = turn_test(stream.codec_context)
        is_turned, last_duration = False, 0
        rows: list[tuple[int, ...]] = []
        for packet in stream_packets(container, stream):
            last_duration = packet.duration or 0
            is_key, start = packet.is_keyframe, Start.NONE
            if is_key or not rows:
                # Without a test of its own, a codec is decoded from an I picture, which `GopDecoder` checks.
                start = Start.OPEN if starts_at is None else starts_at(bytes(packet))
                is_turned = is_turned or (states_turn is not None and states_turn(bytes(packet)))
            shown = not packet.is_discard and (shows is None or shows(bytes(packet)))
            pts, dts = (NO_TIME if time is None else time for time in (packet.pts, packet.dts))
            rows.append((pts, dts, packet.size, is_key, start, shown, packet.is_corrupt))
        columns = np.array(rows, np.int64).reshape(-1, 7).T.copy()
        keys = columns[3] != 0
        starts = columns[4].astype(np.uint8)
        if starts_at is None and len(keys) > 1 and keys.all():
            starts[:] = Start.NONE  # flags that are never off say nothing
        if stream.codec_context.codec.canonical_name == "ffv1" and not starts.all():
            # Early versions have no checksum: the decoder patches a damaged picture, even a key frame, with what it
            # has decoded before. Read alone, such a frame would differ from itself read in order.
            starts[1:] = Start.NONE
        return cls(
            pts=columns[0],
            dts=columns[1],
            sizes=columns[2],
            keys=keys,
            starts=starts,
            shown=columns[5] != 0,
            corrupt=columns[6] != 0,
            is_tested=starts_at is not None,
            is_turned=is_turned,
            last_duration=last_duration,
        )

    def digest(self) -> str:
        """Hex SHA-256 of sizes, times and flags: another file, or a file encoded anew, has another."""
        return hashlib.sha256(np.stack([self.pts, self.dts, self.sizes, self.keys]).tobytes()).hexdigest()


def _decoded_order(path: Path | Media, packets: _Packets, display: Display) -> np.ndarray:
    container, stream = open_video(path)
    with container:
        closed = packets.starts == Start.CLOSED
        return decoded_order(stream, stream_packets(container, stream), packets.shown, closed, display.doubtful)


def _unused_head(packets: _Packets, *, has_b_frames: bool) -> np.ndarray:
    """Rows at the head of the file that no decoder can show, as it was cut from a longer one: int64 (u,).

    They come before the first start, or follow it and are displayed before it. None where there is no start at all.
    """
    starts = np.flatnonzero(packets.starts >= Start.OPEN)
    if not len(starts) or packets.starts[0] == Start.UNKNOWN:
        return np.zeros(0, np.int64)
    first = stop = int(starts[0])
    begin = packets.pts[first]
    if has_b_frames and packets.starts[first] == Start.OPEN and begin != NO_TIME:
        # Leading frames come directly after it. Some muxers set their negative times to 0 or drop them.
        while stop + 1 < len(packets.pts) and packets.pts[stop + 1] <= begin:
            stop += 1
    rows = np.append(np.arange(first), np.arange(first + 1, stop + 1))
    return rows[packets.shown[rows]]


def _unrefreshed_head(path: Path | Media, packets: _Packets) -> np.ndarray:
    """Rows at the head of a file without any start that display nothing, as no decoder shows them: int64 (u,).

    A stream that is refreshed part by part is cut anywhere: its pictures are whole some frames later. Unlike those of
    an unused head, the packets are decoded, since they refresh parts of the picture.
    """
    none = np.zeros(0, np.int64)
    if packets.starts[0] != Start.NONE or not packets.is_tested or (packets.starts >= Start.OPEN).any():
        return none
    container, stream = open_video(path)
    with container:
        first = first_decoded(stream, stream_packets(container, stream), len(packets.pts))
    if first < 0 or packets.pts[first] == NO_TIME:
        return none
    rows = np.flatnonzero(packets.shown)
    return rows[packets.pts[rows] < packets.pts[first]]


def _table(stream: VideoStream, packets: _Packets, display: Display, unused: np.ndarray) -> PacketTable:
    is_reordered = bool((np.diff(display.rows) < 0).any())
    kinds = packets.starts
    if stream.codec_context.has_b_frames and not is_reordered:
        # The codec may reorder frames and the container may not know it (AVI): frames that are displayed before an
        # open start are not seen as such, and every count after it would be wrong.
        kinds = np.where(kinds == Start.CLOSED, kinds, Start.NONE)
    is_ordered = display.is_stamped or (display.ticks is not None and not is_reordered)
    starts = _starts(display, packets.pts if display.is_stamped else np.arange(len(packets.pts)), kinds)
    return PacketTable(
        stream=stream.index,
        pts=packets.pts,
        dts=np.where(packets.dts == NO_TIME, packets.pts, packets.dts),
        rows=display.rows,
        starts=starts,
        is_stamped=display.is_stamped,
        is_ordered=is_ordered,
        is_proven=packets.is_tested,
        is_turned_within=packets.is_turned,
        unused=unused,
        lost=_lost(display.rows, starts, packets, unused),
    )


def _lost(rows: np.ndarray, starts: np.ndarray, packets: _Packets, unused: np.ndarray) -> np.ndarray:
    """The last row at which bytes are lost between the start and the packet of each frame; -1 where there is none."""
    holes = np.flatnonzero(packets.corrupt)
    if not len(holes):
        return np.full(len(rows), -1)
    # Where files are joined, the packet before the last one is marked although nothing is lost.
    begins = np.append(np.flatnonzero(packets.starts >= Start.OPEN), len(packets.starts))
    holes = holes[begins[np.searchsorted(begins, holes, side="right")] > holes + 2]
    if len(unused):
        holes = holes[holes >= begins[0]]
    if not len(holes):
        return np.full(len(rows), -1)
    last = np.append(holes, -1)[np.searchsorted(holes, rows, side="right") - 1]
    return np.where(last >= starts, last, -1)


def _frame_index(
    path: Path | Media,
    container: InputContainer,
    stream: VideoStream,
    packets: _Packets,
    display: Display,
    left_out: int,
) -> FrameIndex:
    notes = []
    count = len(display.rows)
    if left_out:
        some = f"{left_out} frames cannot be decoded and are"
        frames = "frame cannot be decoded and is" if left_out == 1 else some
        notes.append(f"the file begins within a group of pictures: its first {frames} left out")
    if len(container.streams.video) > 1:
        size = f"{stream.codec_context.width}x{stream.codec_context.height}"
        notes.append(f"{len(container.streams.video)} video streams, took stream {stream.index} ({size})")
    if _promised(container, stream, packets) > count:
        notes.append(f"the header promises {stream.frames} frames, the file holds {count}")
    rate = float(stream.average_rate or stream.guessed_rate or 0)
    if display.ticks is None:
        if rate <= 0:
            raise VideoDecodeError(path, "its frames have neither time stamps nor a rate")
        notes.append(f"no time stamps: times come from the nominal {rate:.4g} frames per second")
        return FrameIndex(np.arange(count) / rate, rate, "; ".join(notes), digest=packets.digest())
    assert stream.time_base is not None
    tick = stream.time_base
    timestamps = (display.ticks - display.ticks[0]) * tick.numerator / tick.denominator
    rate = _nominal_rate(timestamps, rate)
    begin = float(display.ticks[0] * tick)
    # Where a false stamp is far ahead, the end in the header is that of this stamp.
    last = max(begin + float(timestamps[-1]), float(int(packets.pts.max()) * tick))
    end = last + max(float(packets.last_duration * tick), 1 / rate if rate > 0 else 0.0)
    notes += [display.note, hole_note(timestamps), _early_end(container, stream, end, rate)]
    return FrameIndex(
        timestamps,
        rate,
        "; ".join(note for note in notes if note),
        start=round(max(0.0, begin - (container.start_time or 0) / av.time_base), 6),
        digest=packets.digest(),
    )


def _promised(container: InputContainer, stream: VideoStream, packets: _Packets) -> int:
    """Number of frames in the header, where that is more than the file can account for; 0 otherwise."""
    if stream.frames <= len(packets.pts):
        return 0
    if "mp4" in container.format.name:
        return stream.frames
    # The others count in ticks, of which a frame may take several.
    known = packets.dts[packets.dts != NO_TIME]
    step = float(np.median(np.diff(known))) if len(known) > 1 else 1.0
    return stream.frames if len(known) and stream.frames > known[-1] + step else 0


def _early_end(container: InputContainer, stream: VideoStream, end: float, rate: float) -> str:
    """Remark where a Matroska or WebM file ends before the time in its header; other headers count frames, or lie."""
    if "matroska" not in container.format.name or rate <= 0:
        return ""
    promised = -math.inf
    if match := re.fullmatch(r"(\d+):(\d\d):(\d\d\.\d+)", stream.metadata.get("DURATION", "")):
        hours, minutes, seconds = map(float, match.groups())
        promised = 3600 * hours + 60 * minutes + seconds
    elif len(container.streams) == 1 and container.duration:
        promised = ((container.start_time or 0) + container.duration) / av.time_base
    missing = promised - end
    return f"the file ends {missing:.1f} s before the end that its header states" if missing * rate > HOLE else ""


def _starts(display: Display, pts: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Row from which to decode each frame: the last start at or before it, if the frame is not displayed before that.

    `kinds` is a `Start` per packet.
    """
    rows = display.rows
    keys = np.flatnonzero(kinds >= Start.OPEN)
    if not len(keys):
        return np.zeros(len(rows), np.int64)
    start = np.searchsorted(keys, rows, side="right") - 1
    # Leading frames of an open GOP: a frame that follows a key packet but is displayed before it may refer to frames
    # before that packet, so decoding has to start at an earlier key packet.
    while (leading := (start > 0) & (pts[rows] < pts[keys[start]])).any():
        start -= leading
    return np.where(start > 0, keys[start], 0)


def _nominal_rate(timestamps: np.ndarray, stated: float) -> float:
    """The median rate, or the mean rate where both agree to within 5 %."""
    # The median ignores gaps in a recording, but times rounded to milliseconds would make it 30.3 instead of 30.
    if len(timestamps) == 1:
        return stated
    median, mean = 1 / float(np.median(np.diff(timestamps))), (len(timestamps) - 1) / float(timestamps[-1])
    return mean if abs(mean - median) < 0.05 * median else median
