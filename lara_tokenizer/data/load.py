"""`load_episodes`: resolve sources, list their episodes, set frame rates, and filter. Opens videos only to cut them."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import islice
from math import isfinite
from pathlib import Path
from typing import Any, SupportsIndex, TypedDict, overload

from lara_tokenizer._files import summarize_names
from lara_tokenizer.data import video
from lara_tokenizer.data.episode import Episode
from lara_tokenizer.data.listing import Listing, ListOptions, SourceInfo
from lara_tokenizer.data.merging import merge_listings
from lara_tokenizer.data.segment import SegmentReader, override_rate, segment_seconds, segments
from lara_tokenizer.data.shard import Shard
from lara_tokenizer.data.sources import READABLE, resolve_list, resolve_source
from lara_tokenizer.data.video.suffixes import RAW_SUFFIXES
from lara_tokenizer.errors import LaraTokenizerError

logger = logging.getLogger(__name__)

Fps = float | Mapping[str, float] | None


class LoadOptions(TypedDict, total=False):
    """Keywords of `load_episodes`, for functions that pass them on."""

    fps: Fps
    decoder: str
    limit: int | None
    cameras: str | Sequence[str]
    split: str | None
    subset: str | None
    streaming: bool
    episodes: str | Sequence[int] | None
    tasks: str | Sequence[str]
    segment: str | None
    from_list: str | Path | None
    shard: str | None


class Episodes(list[Episode]):
    """A list of episodes with their `sources`, and the `options` that decide frames and times.

    `named` is what `load_episodes` was given as its source. A slice keeps all three.
    """

    def __init__(
        self,
        episodes: Iterable[Episode] = (),
        sources: Sequence[SourceInfo] = (),
        options: Mapping[str, Any] | None = None,
        named: Sequence[str] = (),
    ) -> None:
        super().__init__(episodes)
        self.sources = tuple(sources)
        self.named = tuple(named)
        readers = sorted({type(episode.reader).__name__ for episode in self})
        self.options = dict(options or {"decoder": ", ".join(readers)})

    @overload
    def __getitem__(self, index: SupportsIndex) -> Episode: ...
    @overload
    def __getitem__(self, index: slice) -> Episodes: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Episode | Episodes:
        selected = super().__getitem__(index)
        return Episodes(selected, self.sources, self.options, self.named) if isinstance(selected, list) else selected


def load_episodes(
    source: str | Path | Sequence[str | Path] = (),
    *,
    fps: Fps = None,
    decoder: str = "pyav",
    limit: int | None = None,
    cameras: str | Sequence[str] = (),
    split: str | None = None,
    subset: str | None = None,
    streaming: bool = False,
    episodes: str | Sequence[int] | None = None,
    tasks: str | Sequence[str] = (),
    segment: str | None = None,
    from_list: str | Path | None = None,
    shard: str | None = None,
) -> Episodes:
    """List the episodes of a source, sorted by id, segments by time; log what each source was detected as.

    Args:
        source: a video file; a folder (searched for datasets, videos and folders of numbered images); a glob
            ("runs/*/front.mp4"); a dataset's folder: LeRobotDataset v2.x and v3.0, RLDS, Hugging Face datasets,
            WebDataset, Something-Something v2; or a list of these. "lerobot:user/name" and "datasets:user/name" are on
            the Hub ("@revision" may follow). The prefixes "video:", "lerobot:", "rlds:", "datasets:", "webdataset:" and
            "ssv2:" select a format explicitly, "list:clips.csv" is a list of clips. An id is the path below the folder
            that was named (for several sources: below their nearest common folder) plus the dataset's own name for the
            episode.
        fps: the true rate in frames per second, for all or by glob ({"rt1_*": 3}, matched against the last part of the
            id, the whole id, and the dataset's name). Overrides the dataset's own rate, which overrides its files'.
            Required for folders of images.
        decoder: "pyav", or "decord" or "torchcodec" with their extras.
        limit: keep only the first episodes.
        cameras: names, last parts of names, or "all"; default: the first camera of a dataset.
        split, subset: of RLDS and Hugging Face datasets (split also of Something-Something); default: all splits.
        streaming: download from a Hugging Face dataset only what is read.
        episodes: indices within the dataset, [0, 7] or "0,7,10:20" (20 excluded).
        tasks: keep episodes whose instruction contains one of these texts, or matches one of these globs.
        segment: cut each episode into segments of so many seconds, "10s"; ids end in "#t=10,20".
        from_list: a list of clips, with paths relative to `source`, or to the list itself: a .csv with a column path
            and optionally start, end (seconds) and label; or a .txt with one path per line.
        shard: keep one of several parts of equal work, "0/8" to "7/8"; "auto" takes it from the environment of a Slurm
            array, or from RANK and WORLD_SIZE. What `limit` and the filters leave is split.

    Raises:
        ValueError: nothing is found, a source or a rate is invalid, or a filter selects nothing.
        ImportError: the decoder is not installed.

    >>> [episode.id for episode in load_episodes("videos/", fps={"rt1_*": 3})]  # doctest: +SKIP
    ['bridge_1.mp4', 'kitchen/rt1_7.mp4']
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit {limit}: must be at least 1 episode")
    if segment is not None:
        segment_seconds(segment)
    chosen = None if shard is None else Shard.parse(shard)
    list_options = ListOptions(_strings(cameras), decoder, split, subset, streaming)
    sources = [source] if isinstance(source, str | Path) else list(source)
    if from_list is not None:
        resolved = [resolve_list(from_list, sources, list_options)]
    elif sources:
        resolved = [part for each in sources for part in resolve_source(each, list_options)]
    else:
        raise ValueError(f"no source given. Name {READABLE}")
    listings = merge_listings(resolved)
    listed = sorted((episode for listing in listings for episode in listing.episodes), key=lambda episode: episode.id)
    rates = _override_rates({episode.id: episode.dataset for episode in listed}, fps)
    for episode in listed:
        if (rate := rates[episode.id]) is not None:
            override_rate(episode, rate)
    selected = _filter_tasks(_filter_indices(listed, episodes), _strings(tasks))
    _check_rates(selected, listings)
    if segment is not None:
        # Lazily, so that a limit opens no more files than necessary. Segments stay in order of time, so that an encoder
        # reads each file forward only.
        selected = list(islice((part for each in selected for part in segments(each, segment)), limit))
    infos = [listing.info() for listing in listings]
    for info in infos:
        logger.info("%s", info)
    options = {
        "fps": dict(fps) if isinstance(fps, Mapping) else fps,
        "decoder": decoder,
        "cameras": sorted(list_options.cameras),
        "split": split,
        "subset": subset,
        "streaming": streaming or None,
        "segment": segment,
        "from_list": None if from_list is None else Path(from_list).name,
        "shard": None if chosen is None else str(chosen),
    }
    named = [str(each) for each in sources] + ([] if from_list is None else [f"list:{from_list}"])
    selected = selected[:limit]
    return Episodes(selected if chosen is None else chosen.select(selected), infos, options, named)


def parse_indices(text: str) -> list[range]:
    """Episode indices and ranges, "0,7,10:20", as ranges. Raises ValueError for anything else.

    >>> parse_indices("0,7,10:20")
    [range(0, 1), range(7, 8), range(10, 20)]
    """
    ranges = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?::(\d+))?\s*", part)
        if match is None or (match[2] is not None and int(match[2]) <= int(match[1])):
            raise ValueError(f"episodes {text!r}: takes indices and ranges, such as '0,7,10:20' (20 excluded)")
        ranges.append(range(int(match[1]), int(match[2] or int(match[1]) + 1)))
    return ranges


def _override_rates(datasets: Mapping[str, str], fps: Fps) -> dict[str, float | None]:
    """The overriding rate of each episode, None for the source's own. `datasets` has the dataset's name by id.

    A glob may match the last part of an id or the whole id, each also without "#t=...", or the dataset's name.
    """
    by_glob = fps if isinstance(fps, Mapping) else {} if fps is None else {"*": fps}
    rates: dict[str, float | None] = dict.fromkeys(datasets)
    for pattern, rate in by_glob.items():
        if not (isfinite(rate) and rate > 0):
            raise ValueError(f"fps {rate!r} for {pattern!r}: must be above 0 frames per second")
        matches = [name for name, dataset in datasets.items() if _matches_episode(name, dataset, pattern)]
        if not matches:
            raise ValueError(f"fps: {pattern!r} matches no episode. There are: {summarize_names(datasets, 5)}")
        for episode_id in matches:
            other = rates[episode_id]
            if other is not None and other != rate:
                raise ValueError(f"fps: {pattern!r} says {rate:g} for {episode_id}, another glob {other:g}. Keep one")
            rates[episode_id] = rate
    return rates


def _matches_episode(name: str, dataset: str, pattern: str) -> bool:
    whole = name.partition("#t=")[0]
    return any(fnmatchcase(each, pattern) for each in (name, whole, whole.rpartition("/")[2], dataset))


def _filter_indices(episodes: list[Episode], selection: str | Sequence[int] | None) -> list[Episode]:
    """The episodes with a selected index: the dataset's own, or else the position in the list.

    Raises ValueError for an index, or a whole range, that no episode has.
    """
    if selection is None:
        return episodes
    ranges = parse_indices(selection) if isinstance(selection, str) else [range(i, i + 1) for i in selection]
    indexed = [(i if episode.index is None else episode.index, episode) for i, episode in enumerate(episodes)]
    existing = {index for index, _ in indexed}
    for part in ranges:
        if not (part.start in existing or any(index in part for index in existing)):
            requested = f"{part.start}" if len(part) == 1 else f"{part.start}:{part.stop}"
            raise ValueError(
                f"episodes {requested}: not in the source, which has {len(existing)} ({min(existing)} to "
                f"{max(existing)})"
            )
    # A set for single indices, since a list of thousands of them would be searched for every episode.
    singles = {part.start for part in ranges if len(part) == 1}
    longer = [part for part in ranges if len(part) > 1]
    return [episode for index, episode in indexed if index in singles or any(index in part for part in longer)]


def _filter_tasks(episodes: list[Episode], tasks: Sequence[str]) -> list[Episode]:
    """The episodes whose instruction contains or matches one of `tasks`. Raises ValueError where none does."""
    if not tasks:
        return episodes
    texts = {episode.id: _instruction(episode) for episode in episodes}
    selected = [episode for episode in episodes if any(_matches_task(texts[episode.id], task) for task in tasks)]
    if not selected:
        existing = sorted({text for text in texts.values() if text})
        hint = f"There are: {summarize_names(map(repr, existing), 5)}" if existing else "None has a text"
        raise ValueError(f"task {tasks[0]!r}: no episode has it. {hint}")
    return selected


def _instruction(episode: Episode) -> str:
    """The episode's instruction, read from its data if the listing does not contain it."""
    if episode.text is None and "text" in episode.available_signals:
        try:
            texts = episode.signals().texts or ()
            episode.text = "; ".join(dict.fromkeys(texts)) or None
        except (LaraTokenizerError, OSError) as error:
            logger.warning("task: the text of %s cannot be read, so it is left out (%s)", episode.id, error)
        finally:
            episode.close()
    return episode.text or ""


def _matches_task(text: str, task: str) -> bool:
    text, task = text.lower(), task.lower()
    return fnmatchcase(text, task) if any(letter in task for letter in "*?[") else task in text


def _check_rates(episodes: Sequence[Episode], listings: Sequence[Listing]) -> None:
    """Raise ValueError for episodes without a known rate, before anything is read."""
    selected = {episode.id for episode in episodes}
    for listing in listings:
        if listing.needs_rate and any(each.fps is None and each.id in selected for each in listing.episodes):
            raise ValueError(
                f"{listing.name} ({listing.format}) states no frame rate. Give its frames per second: fps=10 (--fps 10)"
            )
    for episode in episodes:
        # The part of a list's film has the rate of the whole film.
        whole = episode.reader.whole if isinstance(episode.reader, SegmentReader) else episode
        if whole.fps is not None:
            continue
        reader, name = whole.reader, Path(whole.id).name
        if isinstance(reader, video.VideoReader | video.SharedVideo) and str(reader.path).lower().endswith(
            RAW_SUFFIXES
        ):
            raise ValueError(
                f"{reader.path} is a raw stream, which states no times. Give its frames per second: fps=30 or "
                f"fps={{'{name}': 30}} (--fps 30 or --fps '{name}=30')"
            )
        if isinstance(reader, video.ImageFolderReader):
            raise ValueError(
                f"{reader.folder} holds images, which have no rate of their own. Give their frames per second: "
                f"fps=10 or fps={{'{name}': 10}} (--fps 10 or --fps '{name}=10')"
            )


def _strings(value: str | Sequence[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)
