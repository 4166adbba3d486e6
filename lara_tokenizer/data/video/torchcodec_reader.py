"""`TorchcodecReader`: frames of one video file through torchcodec."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from lara_tokenizer.data.video.display import Orientation
from lara_tokenizer.data.video.media import Media, open_video
from lara_tokenizer.data.video.pixel_reader import PixelReader


class TorchcodecReader(PixelReader):
    """Pixels from torchcodec (extra `torchcodec`, and FFmpeg's shared libraries, version 4 to 8).

    Colours differ from PyAV's by about 2 of 255 where a file names an invalid colour matrix.

    torchcodec decodes from the last key frame before the frame asked for, and seeks there unless its last frame came
    from the same key frame. It believes the container's key flags, and some of its seeks end behind the key frame. So
    the key frame has to be a proven start, and unless a seek to it cannot end elsewhere, it is read along: its time
    shows that its packet was decoded, and its image has to be PyAV's. The time of every frame is compared with the
    packets'.
    """

    library = "torchcodec"

    def __init__(self, path: str | Path | Media) -> None:
        super().__init__(path)
        self._last = -1  # the frame read last
        self._is_compared = False  # whether any image was compared since the file was opened
        self._numbers = np.zeros(0, np.int64)  # int64 (n,): torchcodec's number of each frame
        self._keys = np.zeros(0, np.int64)  # int64 (n,): the key frame from which torchcodec decodes it
        self._times = np.zeros(0)  # float64 (n,): seconds on the file's clock
        self._is_sure = np.zeros(0, bool)  # bool (n,): whether a seek to it, as a key frame, has to end there

    def _pixels(self, indices: np.ndarray) -> np.ndarray:
        wanted = np.unique(indices)
        jumps = self._jumps(wanted)
        needed = ~self._is_sure[jumps]
        needed[:1] |= not self._is_compared
        compared = jumps[needed]
        frames = np.union1d(wanted, compared)
        try:
            batch = self._opened.get_frames_at(self._numbers[frames].tolist())
        except RuntimeError as error:
            raise self._refusal("fails to decode these frames") from error
        self._check_times(frames, batch.pts_seconds.numpy())
        images = batch.data.numpy()
        if len(compared):
            self._check_images(compared, images[np.searchsorted(frames, compared)])
            self._check_rotation()
            self._is_compared = True
        self._last = int(frames[-1])
        return images if np.array_equal(frames, indices) else images[np.searchsorted(frames, indices)]

    def _jumps(self, wanted: np.ndarray) -> np.ndarray:
        """Key frames at which torchcodec begins anew to read `wanted`, ascending; refuse where one is no start."""
        keys = np.unique(self._keys[wanted])
        if self._last >= 0 and wanted[0] > self._last and keys[0] == self._keys[self._last]:
            keys = keys[1:]
        table = self._scan()[0]
        is_start = (table.starts[keys] == table.rows[keys]) | (keys == 0)
        if not is_start.all():
            key = int(keys[np.argmin(is_start)])
            raise self._refusal(f"begins to decode at frame {key}, where that gives wrong images")
        return keys

    def _check_times(self, frames: np.ndarray, seconds: np.ndarray) -> None:
        """Compare the times of decoded frames, float64 (n,) on the file's clock, with the packet scan."""
        times = self._times
        # A frame that is further off than half the smallest gap is another frame.
        slack = np.diff(times).min() / 2 if len(times) > 1 else np.inf
        off = ~(np.abs(seconds - times[frames]) <= slack)
        if off.any():
            k = int(np.argmax(off))
            given, right = seconds[k] - times[0], self.index().timestamps[frames[k]]
            raise self._refusal(f"gives the frame at {given:.3f} s for frame {frames[k]}, which is at {right:.3f} s")

    def _check_rotation(self) -> None:
        """Refuse a turned file if this version of torchcodec does not rotate; an image may look the same turned."""
        if self._exact._orientation != Orientation():
            if not getattr(self._opened.metadata, "rotation", None):
                raise self._refusal("does not rotate images by the file's display matrix")
            self._is_sure[:] = False

    def _open(self) -> Any:
        from torchcodec.decoders import VideoDecoder

        self._check_stamps()
        # Any object with `read` and `seek`, though torchcodec's annotation names two classes.
        source: Any = self._input()
        try:
            decoder = VideoDecoder(
                source,
                stream_index=self._scan()[0].stream,
                dimension_order="NHWC",
                num_ffmpeg_threads=1,
                seek_mode="exact",
            )
        except RuntimeError as error:
            raise self._refusal("cannot open it") from error
        self._number_frames(len(decoder), np.asarray(decoder._get_key_frame_indices(), np.int64))
        container, stream = open_video(self.path)
        with container:
            assert stream.time_base is not None
            table = self._scan()[0]
            self._times = table.pts[table.rows] * float(stream.time_base)
            self._is_sure = self._sure_landings(container, stream)
        self._last, self._is_compared = -1, False
        return decoder

    def _number_frames(self, count: int, keys: np.ndarray) -> None:
        """Match the packet table's frames with torchcodec's `count` frames, of which `keys` are key frames."""
        table = self._scan()[0]
        if count == len(table.pts) > table.num_frames:
            # Packets that are not displayed (VP8's invisible frames) are counted too, in order of their times.
            self._numbers = np.searchsorted(np.sort(table.pts), table.pts[table.rows])
        else:
            self._check_count(count)
            self._numbers = np.arange(count)
        keys = np.union1d([0], keys)
        own_keys = keys[np.searchsorted(keys, self._numbers, side="right") - 1]
        self._keys = np.searchsorted(self._numbers, own_keys)

    def _sure_landings(self, container: InputContainer, stream: VideoStream) -> np.ndarray:
        """bool (n,): whether a seek to each frame, if it is a key frame, has to end at its packet.

        mp4 seeks to the last packet that its index calls a key frame and that is decoded by the time of display.
        Matroska goes by times of display. If the next packet is decoded later, its flags are of no account.
        """
        table = self._scan()[0]
        pts, dts = table.pts[table.rows], table.dts[table.rows]
        # PyAV before 17 has no index.
        entries = getattr(stream, "index_entries", ()) if "mp4" in container.format.name else ()
        listed = np.array(sorted(entry.timestamp for entry in entries if entry.is_keyframe), np.int64)
        if table.is_proven and "matroska" in container.format.name:
            return pts < np.append(table.dts[1:], np.iinfo(np.int64).max)[table.rows]
        if table.is_proven and len(listed):
            return listed[np.searchsorted(listed, pts, side="right") - 1] == dts
        return np.zeros(table.num_frames, bool)
