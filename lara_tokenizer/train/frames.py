"""Sources of training frames: `FrameCache` decodes every frame once into a file, `ReaderFrames` decodes on demand.

Both return the same pixels, resized by the model's own processor. A run reads each frame hundreds of times, so
decoding it each time would starve the device; the cache is one memory-mapped file:

    <folder>/frames.u8    uint8 (frames, 3, S, S), sequence after sequence
    <folder>/done.u8      uint8 (sequences,): 0 to do, 1 decoded, 2 failed
    <folder>/index.json   offset, episode, camera and timestamps of each sequence, and which of the recorded frames it
                          holds; a fingerprint of all that and the resize
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from lara_tokenizer._files import write_atomically
from lara_tokenizer._parse import shown
from lara_tokenizer.errors import LaraTokenizerError, first_line
from lara_tokenizer.train.sequences import FrameSequence, check_datasets, list_sequences

if TYPE_CHECKING:
    from lara_tokenizer.data import Episode
    from lara_tokenizer.model import LatentActionProcessor

logger = logging.getLogger(__name__)

FORMAT_VERSION = 2
DONE, FAILED = 1, 2
CHUNK = 64  # frames decoded and resized together: bounds the memory of a worker
MAX_OPEN_EPISODES = 8  # per process: each may hold a decoder, or a whole record


class FrameSource(Protocol):
    """Random access to resized frames: a `FrameCache` or `ReaderFrames`."""

    sequences: list[FrameSequence]
    start_method: str | None
    """Start method that loader processes need; None for any."""

    def read(self, sequences: np.ndarray, frames: np.ndarray) -> Tensor:
        """Read frames (B, F) of `sequences` (B,), each a `FrameSequence.index`: uint8 (B, F, 3, S, S)."""

    def close(self) -> None:
        """Close open files; the next read opens them again."""


class FrameCache:
    """Decoded frames of many episodes in one memory-mapped file.

    The file is opened lazily, so that a cache is pickled to loader processes by its path.

    >>> cache = FrameCache.build(load_episodes("videos/"), processor, "run/frames")  # doctest: +SKIP
    >>> cache.read(np.array([0]), np.array([[3, 8]])).shape  # doctest: +SKIP
    torch.Size([1, 2, 3, 64, 64])
    """

    start_method: str | None = None  # nothing is open that a fork would share

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        index = _read_index(self.folder)
        try:
            self.fingerprint: str = index["fingerprint"]
            self.shape: tuple[int, int, int, int] = tuple(index["shape"])
            done = np.fromfile(self.folder / "done.u8", np.uint8)
            entries = [entry for entry, state in zip(index["streams"], done, strict=True) if state == DONE]
            self.sequences = [_sequence(i, entry) for i, entry in enumerate(entries)]
            self.offsets = np.array([entry["offset"] for entry in entries], np.int64)  # rows of the first frames
            size = (self.folder / "frames.u8").stat().st_size
        except (KeyError, TypeError, ValueError, OverflowError, OSError) as error:
            raise _damaged(self.folder, error) from error
        if size != math.prod(self.shape):
            raise _damaged(self.folder, f"frames.u8 has {size:,} bytes, expected {math.prod(self.shape):,}")
        self._frames: np.memmap | None = None

    @property
    def frames(self) -> np.memmap:
        """All frames: uint8 (frames, 3, S, S), read only."""
        if self._frames is None:
            self._frames = np.memmap(self.folder / "frames.u8", np.uint8, "r", shape=self.shape)
        return self._frames

    def read(self, sequences: np.ndarray, frames: np.ndarray) -> Tensor:
        """Read frames (B, F) of `sequences` (B,), each a `FrameSequence.index`: uint8 (B, F, 3, S, S)."""
        return torch.from_numpy(np.take(self.frames, self.offsets[sequences][:, None] + frames, axis=0))

    def close(self) -> None:
        """Close the file; the next read maps it again."""
        self._frames = None

    def __getstate__(self) -> dict[str, Any]:
        # Sequences are for planning only; a loader process reads by index and need not receive all timestamps.
        return {**self.__dict__, "_frames": None, "sequences": []}

    @classmethod
    def build(
        cls,
        episodes: Sequence[Episode],
        processor: LatentActionProcessor,
        folder: str | Path,
        *,
        frame_rate: float = 0.0,
        workers: int = 1,
        progress: Callable[[int, int], None] | None = None,
    ) -> FrameCache:
        """Decode the frames that the folder does not hold yet; a call after a kill continues where it stopped.

        A sequence that cannot be read is logged and left out.

        Args:
            episodes: all of their cameras are decoded.
            processor: defines the resize.
            folder: created if needed; several runs may share it.
            frame_rate: frames of each camera that are decoded a second, at most; 0 decodes all.
            workers: decoding processes.
            progress: called as progress(sequences done, sequences) after each.

        Raises:
            ValueError: the folder holds other episodes, another rate or another resize, or no episode of a dataset can
                be read.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        plan = _plan(episodes, processor, frame_rate)
        _create_files(folder, plan)
        done = np.memmap(folder / "done.u8", np.uint8, "r+", shape=(len(plan["streams"]),))
        by_id = {(episode.dataset, episode.id): episode for episode in episodes}
        # Failed ones are tried again: the cause may have been a full disk or a network drive.
        todo = [(i, plan["streams"][i]) for i, state in enumerate(done) if state != DONE]
        finished = len(done) - len(todo)
        if todo and finished:
            logger.info("%s: %d of %d camera sequences are already decoded", folder, finished, len(done))
        jobs = [(i, by_id[entry["dataset"], entry["episode"]], entry) for i, entry in todo]
        for i, error in _decode_all(jobs, processor, folder, tuple(plan["shape"]), workers):
            done[i] = DONE if error is None else FAILED
            if error is not None:
                logger.warning("left out: %s", error)
            finished += 1
            if progress is not None:
                progress(finished, len(done))
        done.flush()
        cache = cls(folder)
        check_datasets(episodes, cache.sequences)
        return cache


class ReaderFrames:
    """Frames decoded on demand, for data too large for a `FrameCache`: the same pixels, no disk, slower reads.

    A copy that is pickled to a loader process opens its episodes itself. Start such processes with "spawn", or call
    `close()` before they fork: two processes must not read through one open file.

    Episodes whose frames cannot be listed are logged and left out; ValueError if none of a dataset remains.
    `frame_rate` thins the frames as in `FrameCache.build`.

    >>> frames = ReaderFrames(load_episodes("videos/"), processor)  # doctest: +SKIP
    >>> frames.read(np.array([0]), np.array([[3, 8]])).shape        # doctest: +SKIP
    torch.Size([1, 2, 3, 64, 64])
    """

    start_method: str | None = "spawn"  # a fork would share the readers' open files

    def __init__(
        self, episodes: Sequence[Episode], processor: LatentActionProcessor, *, frame_rate: float = 0.0
    ) -> None:
        self.sequences = list_sequences(episodes, frame_rate)
        by_id = {(episode.dataset, episode.id): episode for episode in episodes}
        self._sources = [(by_id[each.dataset, each.episode], each.camera) for each in self.sequences]
        self._recorded = [each.recorded for each in self.sequences]
        self.processor = processor
        self._open: OrderedDict[int, Episode] = OrderedDict()  # least recently used first
        self._process = os.getpid()

    def read(self, sequences: np.ndarray, frames: np.ndarray) -> Tensor:
        """Read frames (B, F) of `sequences` (B,), each a `FrameSequence.index`: uint8 (B, F, 3, S, S).

        Raises LaraTokenizerError, naming the episode, for frames that cannot be decoded.
        """
        size = (3, self.processor.size["height"], self.processor.size["width"])
        out = torch.empty(*frames.shape, *size, dtype=torch.uint8)
        # One decoding call per sequence, each frame once, however many pairs of the batch share it.
        for sequence in np.unique(sequences).tolist():
            rows = np.flatnonzero(sequences == sequence)
            requested, slots = np.unique(frames[rows], return_inverse=True)
            pixels = self._decode(sequence, requested)
            out[torch.from_numpy(rows)] = pixels[torch.from_numpy(slots.reshape(len(rows), -1))]
        return out

    def close(self) -> None:
        """Close open files; the next read opens them again."""
        while self._open:
            self._open.popitem()[1].close()

    def _decode(self, sequence: int, indices: np.ndarray) -> Tensor:
        """uint8 (n, 3, S, S)."""
        episode, camera, recorded = self._opened(sequence), self._sources[sequence][1], self._recorded[sequence]
        indices = indices if recorded is None else recorded[indices]
        chunks = [indices[first : first + CHUNK] for first in range(0, len(indices), CHUNK)]
        try:
            return torch.cat([self.processor.resize_frames(episode.frames(camera, chunk)) for chunk in chunks])
        except (LaraTokenizerError, OSError) as error:
            # An error of one argument: unpickled from a loader process, it keeps its type.
            raise LaraTokenizerError(
                f"episode {episode.id!r} cannot be read at frames {indices[0]} to {indices[-1]}: {error}. Leave it out "
                "of the source, or train with cache_frames: true, which skips what cannot be read."
            ) from error

    def _opened(self, sequence: int) -> Episode:
        """The sequence's episode, kept open while it is among the last few used."""
        if self._open and self._process != os.getpid():
            raise RuntimeError(
                "this process was forked from one that had episodes open: start loader processes with "
                "multiprocessing_context='spawn', or call close() before they start."
            )
        self._process = os.getpid()
        episode, _ = self._sources[sequence]
        key = id(episode)  # cameras of one episode share its reader
        self._open[key] = episode
        self._open.move_to_end(key)
        while len(self._open) > MAX_OPEN_EPISODES:
            self._open.popitem(last=False)[1].close()
        return episode

    def __getstate__(self) -> dict[str, Any]:
        # Open readers stay here; sequences are for planning only (see FrameCache).
        return {**self.__dict__, "_open": OrderedDict(), "sequences": []}


def _plan(episodes: Sequence[Episode], processor: LatentActionProcessor, frame_rate: float) -> dict[str, Any]:
    """Contents of index.json: the offset of each sequence. Opens containers, decodes nothing."""
    entries, offset = [], 0
    for each in list_sequences(episodes, frame_rate):
        entry = {"dataset": each.dataset, "episode": each.episode, "camera": each.camera, "offset": offset}
        entry["timestamps"] = each.timestamps.tolist()
        if each.recorded is not None:
            entry |= {"recorded": each.recorded.tolist(), "period": each.period}
        entries.append(entry)
        offset += len(each.timestamps)
    shape = (offset, 3, processor.size["height"], processor.size["width"])
    # Options of pairs change no frame, so runs with and without them share a cache.
    skipped = ("_", "auto_map", "steady_pairs")
    settings = {name: value for name, value in processor.to_dict().items() if not name.startswith(skipped)}
    content = json.dumps([FORMAT_VERSION, entries, shape, settings], sort_keys=True, default=str)
    fingerprint = hashlib.sha256(content.encode()).hexdigest()
    return {"format_version": FORMAT_VERSION, "fingerprint": fingerprint, "shape": shape, "streams": entries}


def _sequence(index: int, entry: dict[str, Any]) -> FrameSequence:
    recorded = np.asarray(entry["recorded"], np.int64) if "recorded" in entry else None
    names = (entry["dataset"], entry["episode"], entry["camera"])
    return FrameSequence(index, *names, np.asarray(entry["timestamps"]), recorded, entry.get("period"))


def _read_index(folder: Path) -> dict[str, Any]:
    """The content of a cache's index.json. Raises ValueError for a damaged one, and one of another format."""
    try:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        version = index["format_version"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _damaged(folder, error) from error
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{folder}: frame cache of format {shown(version)}, this release reads {FORMAT_VERSION}. "
            "Delete the folder; it is built again."
        )
    return index


def _damaged(folder: Path, reason: object) -> ValueError:
    text = first_line(reason) if isinstance(reason, BaseException) else reason
    return ValueError(f"{folder}: a damaged frame cache ({text}). Delete the folder; it is built again.")


def _create_files(folder: Path, plan: dict[str, Any]) -> None:
    """Create the cache's files, or check that existing ones belong to this plan."""
    index = folder / "index.json"
    if index.exists():
        if _read_index(folder).get("fingerprint") != plan["fingerprint"]:
            raise ValueError(
                f"{folder} holds the frames of other episodes, of another frame_rate or of another resize. Give "
                "another folder, or delete it."
            )
        sizes = {"frames.u8": math.prod(plan["shape"]), "done.u8": len(plan["streams"])}
        for name, size in sizes.items():
            if not (folder / name).is_file() or (folder / name).stat().st_size != size:
                raise _damaged(folder, f"{name} has not the {size:,} bytes that it should have")
        return
    for name, size in (("frames.u8", int(np.prod(plan["shape"]))), ("done.u8", len(plan["streams"]))):
        with open(folder / name, "wb") as file:
            file.truncate(size)
    # The index comes last: a folder with an index has its files.
    write_atomically(index, json.dumps(plan))


def _decode_all(
    jobs: list[tuple[int, Episode, dict[str, Any]]],
    processor: LatentActionProcessor,
    folder: Path,
    shape: tuple[int, ...],
    workers: int,
) -> Iterator[tuple[int, str | None]]:
    """Yield (sequence index, error or None) as sequences finish, in any order."""
    if workers <= 1 or len(jobs) < 2:
        for i, episode, entry in jobs:
            yield i, _decode_sequence(episode, entry, processor, folder, shape)
        return
    # One thread of torch per process: the resizes would otherwise compete for all cores.
    with ProcessPoolExecutor(min(workers, len(jobs)), get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        futures: dict[Future[str | None], int] = {
            pool.submit(_decode_sequence, episode, entry, processor, folder, shape): i for i, episode, entry in jobs
        }
        for future in as_completed(futures):
            yield futures[future], future.result()


def _decode_sequence(
    episode: Episode, entry: dict[str, Any], processor: LatentActionProcessor, folder: Path, shape: tuple[int, ...]
) -> str | None:
    """Decode one sequence into its slice of the file; the reason if it cannot be read."""
    out = np.memmap(folder / "frames.u8", np.uint8, "r+", shape=shape)
    count = len(entry["timestamps"])
    try:
        for first in range(0, count, CHUNK):
            indices = list(range(first, min(first + CHUNK, count)))
            recorded = [entry["recorded"][i] for i in indices] if "recorded" in entry else indices
            frames = episode.frames(entry["camera"], recorded)
            start = entry["offset"] + first
            out[start : start + len(indices)] = processor.resize_frames(frames).numpy()
    except (LaraTokenizerError, OSError) as error:
        return str(error)
    finally:
        episode.close()
        out.flush()
    return None
