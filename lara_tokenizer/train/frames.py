"""Every training frame, decoded once through the processor's own resize into one memory-mapped file.

Training reads each frame hundreds of times; decoding it each time would starve the device.

    <folder>/frames.u8    uint8 (frames, 3, S, S), stream after stream
    <folder>/done.u8      uint8 (streams,): 0 to do, 1 decoded, 2 failed
    <folder>/index.json   what lies where, and the fingerprint of what it was made from
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lara_tokenizer.errors import LaraTokenizerError
from lara_tokenizer.train.streams import Stream, list_streams, nothing_readable

if TYPE_CHECKING:
    from lara_tokenizer.data import Episode
    from lara_tokenizer.model import LatentActionProcessor

logger = logging.getLogger(__name__)

FORMAT_VERSION = 2
DONE, FAILED = 1, 2
CHUNK = 64  # frames decoded and resized together: bounds the memory of a worker


class FrameCache:
    """The frames of many episodes as one array. Opens its file lazily, so that it travels to loader processes by path.

    >>> cache = FrameCache.build(load_episodes("videos/"), processor, "run/frames")  # doctest: +SKIP
    >>> cache.read(np.array([0]), np.array([[3, 8]])).shape  # doctest: +SKIP
    torch.Size([1, 2, 3, 64, 64])
    """

    start_method: str | None = None  # loader processes may start any way: nothing is open that they must not share

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        index = json.loads((self.folder / "index.json").read_text(encoding="utf-8"))
        _check_version(self.folder, index)
        self.fingerprint: str = index["fingerprint"]
        self.shape: tuple[int, int, int, int] = tuple(index["shape"])
        done = np.fromfile(self.folder / "done.u8", np.uint8)
        entries = [entry for entry, state in zip(index["streams"], done, strict=True) if state == DONE]
        self.streams = [
            Stream(number, entry["dataset"], entry["episode"], entry["camera"], np.asarray(entry["timestamps"]))
            for number, entry in enumerate(entries)
        ]
        self.offsets = np.array([entry["offset"] for entry in entries], np.int64)  # rows of the streams' first frames
        self._frames: np.memmap | None = None

    @property
    def frames(self) -> np.memmap:
        """uint8 (frames, 3, S, S), read only."""
        if self._frames is None:
            self._frames = np.memmap(self.folder / "frames.u8", np.uint8, "r", shape=self.shape)
        return self._frames

    def read(self, streams: np.ndarray, frames: np.ndarray) -> torch.Tensor:
        """uint8 (B, F, 3, S, S): frames (B, F) of `streams` (B,), each a `Stream.number`."""
        return torch.from_numpy(np.take(self.frames, self.offsets[streams][:, None] + frames, axis=0))

    def close(self) -> None:
        """Let go of the file; the next read maps it again."""
        self._frames = None

    def __getstate__(self) -> dict[str, Any]:
        # What the streams are is for planning; a loader process reads by number.
        return {**self.__dict__, "_frames": None, "streams": []}

    @classmethod
    def build(
        cls,
        episodes: Sequence[Episode],
        processor: LatentActionProcessor,
        folder: str | Path,
        *,
        workers: int = 1,
        progress: Callable[[int, int], None] | None = None,
    ) -> FrameCache:
        """Decode what the folder does not hold yet: a call after a kill goes on where the first stopped.

        An episode that cannot be read is logged and left out. `progress(streams done, streams)` is called after each.
        Raises ValueError where the folder holds other episodes or another resize, or where no episode can be read.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        plan = _plan(episodes, processor)
        _prepare(folder, plan)
        done = np.memmap(folder / "done.u8", np.uint8, "r+", shape=(len(plan["streams"]),))
        by_id = {(episode.dataset, episode.id): episode for episode in episodes}
        open_ = [number for number, state in enumerate(done) if state != DONE]
        finished = len(done) - len(open_)
        if open_ and finished:
            logger.info("%s: %d of %d streams are already decoded", folder, finished, len(done))
        todo = [(number, plan["streams"][number]) for number in open_]
        jobs = [(number, by_id[stream["dataset"], stream["episode"]], stream) for number, stream in todo]
        for number, error in _run(jobs, processor, folder, tuple(plan["shape"]), workers):
            done[number] = DONE if error is None else FAILED
            if error is not None:
                logger.warning("left out: %s", error)
            finished += 1
            if progress is not None:
                progress(finished, len(done))
        done.flush()
        cache = cls(folder)
        if not cache.streams:
            raise nothing_readable(episodes)
        return cache


def _plan(episodes: Sequence[Episode], processor: LatentActionProcessor) -> dict[str, Any]:
    """Where each stream will lie. Only containers are opened here, nothing is decoded."""
    streams, offset = [], 0
    for stream in list_streams(episodes):
        named = {"dataset": stream.dataset, "episode": stream.episode, "camera": stream.camera}
        streams.append({**named, "offset": offset, "timestamps": stream.timestamps.tolist()})
        offset += len(stream.timestamps)
    shape = (offset, 3, processor.size["height"], processor.size["width"])
    # What concerns pairs changes no frame.
    other = ("_", "auto_map", "steady_pairs")
    settings = {name: value for name, value in processor.to_dict().items() if not name.startswith(other)}
    described = json.dumps([FORMAT_VERSION, streams, shape, settings], sort_keys=True, default=str)
    fingerprint = hashlib.sha256(described.encode()).hexdigest()
    return {"format_version": FORMAT_VERSION, "fingerprint": fingerprint, "shape": shape, "streams": streams}


def _check_version(folder: Path, index: dict[str, Any]) -> None:
    if index["format_version"] != FORMAT_VERSION:
        raise ValueError(
            f"{folder}: frame cache of format {index['format_version']}, this release reads {FORMAT_VERSION}. "
            "Delete the folder; it is built again."
        )


def _prepare(folder: Path, plan: dict[str, Any]) -> None:
    """Create the files, or check that those there are this plan's."""
    index = folder / "index.json"
    if index.exists():
        there = json.loads(index.read_text(encoding="utf-8"))
        _check_version(folder, there)
        if there["fingerprint"] != plan["fingerprint"]:
            raise ValueError(
                f"{folder} holds the frames of other episodes or of another resize. Give another folder, or delete it."
            )
        return
    for name, size in (("frames.u8", int(np.prod(plan["shape"]))), ("done.u8", len(plan["streams"]))):
        with open(folder / name, "wb") as file:
            file.truncate(size)
    # The index comes last: a folder with an index has its files.
    temporary = folder / "index.json.tmp"
    temporary.write_text(json.dumps(plan), encoding="utf-8")
    os.replace(temporary, index)


def _run(
    jobs: list[tuple[int, Episode, dict[str, Any]]],
    processor: LatentActionProcessor,
    folder: Path,
    shape: tuple[int, ...],
    workers: int,
) -> Any:
    """Yield (stream number, error or None), in whatever order the streams finish."""
    if workers <= 1 or len(jobs) < 2:
        for number, episode, stream in jobs:
            yield number, _decode(episode, stream, processor, folder, shape)
        return
    with ProcessPoolExecutor(min(workers, len(jobs)), get_context("spawn"), initializer=_one_thread) as pool:
        futures: dict[Future[str | None], int] = {
            pool.submit(_decode, episode, stream, processor, folder, shape): number for number, episode, stream in jobs
        }
        for future in as_completed(futures):
            yield futures[future], future.result()


def _one_thread() -> None:
    torch.set_num_threads(1)


def _decode(
    episode: Episode, stream: dict[str, Any], processor: LatentActionProcessor, folder: Path, shape: tuple[int, ...]
) -> str | None:
    """Fill one stream's slice of the file; the reason where it cannot be read."""
    target = np.memmap(folder / "frames.u8", np.uint8, "r+", shape=shape)
    try:
        for first in range(0, len(stream["timestamps"]), CHUNK):
            wanted = range(first, min(first + CHUNK, len(stream["timestamps"])))
            frames = episode.frames(stream["camera"], list(wanted))
            start = stream["offset"] + first
            target[start : start + len(wanted)] = processor.resize_frames(frames).numpy()
    except (LaraTokenizerError, OSError) as error:
        return str(error)
    finally:
        episode.close()
        target.flush()
    return None
