"""`TorchcodecReader`: frames of one video file through torchcodec."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lara_tokenizer.data.video.packets import Media
from lara_tokenizer.data.video.pixel_reader import PixelReader


class TorchcodecReader(PixelReader):
    """Pixels from torchcodec (extra `torchcodec`, and FFmpeg's shared libraries, version 4 to 8).

    Colours differ from PyAV's by about 2 of 255 where a file names an invalid colour matrix.

    torchcodec decodes from the last key frame before the frame asked for, and seeks there unless its last frame came
    from the same key frame. It believes the container's key flags, and some seeks end behind the key frame, so the
    image of that key frame is read along and compared with PyAV's. Each frame's time is compared with the packets'.
    """

    library = "torchcodec"

    def __init__(self, path: str | Path | Media) -> None:
        super().__init__(path)
        self._starts = np.zeros(0, np.int64)  # frames from which torchcodec decodes the frames up to the next of them
        self._last = (-1, -1)  # number of the frame read last, and of its start among `_starts`

    def _read(self, indices: np.ndarray) -> np.ndarray:
        if self._opened is None:
            self._opened, self._last = self._open(), (-1, -1)
        wanted = np.unique(indices)
        new_starts = self._new_starts(wanted)
        numbers = np.union1d(wanted, new_starts)
        batch = self._opened.get_frames_at(numbers.tolist())
        self._check_times(numbers, batch.pts_seconds.numpy() - self._opened.metadata.begin_stream_seconds)
        pixels = batch.data.numpy()
        if len(new_starts):
            self._check_images(new_starts, pixels[np.searchsorted(numbers, new_starts)])
        self._last = int(numbers[-1]), int(self._start_of(numbers[-1:])[0])
        return pixels if np.array_equal(numbers, indices) else pixels[np.searchsorted(numbers, indices)]

    def _new_starts(self, wanted: np.ndarray) -> np.ndarray:
        """Frames at which torchcodec begins anew in order to read `wanted`, ascending."""
        starts = np.unique(self._start_of(wanted))
        last, last_start = self._last
        return starts[1:] if starts[:1] == last_start and wanted[0] > last else starts

    def _start_of(self, numbers: np.ndarray) -> np.ndarray:
        return self._starts[np.searchsorted(self._starts, numbers, side="right") - 1]

    def _check_times(self, numbers: np.ndarray, seconds: np.ndarray) -> None:
        """Compare the times of decoded frames, float64 (n,) from the file's first frame on, with the packet scan."""
        timestamps = self.index().timestamps
        # A frame that is further off than half the smallest gap is another frame.
        slack = np.diff(timestamps).min() / 2 if len(timestamps) > 1 else np.inf
        off = ~(np.abs(seconds - timestamps[numbers]) <= slack)
        if off.any():
            k = int(np.argmax(off))
            raise self._refusal(
                f"gives the frame at {seconds[k]:.3f} s for frame {numbers[k]}, which is at "
                f"{timestamps[numbers[k]]:.3f} s"
            )

    def _open(self) -> Any:
        from torchcodec.decoders import VideoDecoder

        self._check_times_exist()
        # Any object with `read` and `seek`, though torchcodec's annotation names two classes.
        source: Any = self._input()
        decoder = VideoDecoder(
            source,
            stream_index=self._scan()[0].stream,
            dimension_order="NHWC",
            num_ffmpeg_threads=1,
            seek_mode="exact",
        )
        self._check_count(len(decoder))
        self._starts = np.union1d([0], decoder._get_key_frame_indices().numpy())
        return decoder
