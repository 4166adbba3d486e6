"""From what a person points at to a list of episodes. Reads names and metadata; opens videos only to cut them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, SupportsIndex, TypedDict, overload

from lara_tokenizer.data.discover import READABLE
from lara_tokenizer.data.episode import Episode
from lara_tokenizer.data.filters import filtered
from lara_tokenizer.data.listing import Found, SourceFacts
from lara_tokenizer.data.rates import Fps, rates_of
from lara_tokenizer.data.segment import override_rate, segment_seconds, segments
from lara_tokenizer.data.sources import Finder, merged
from lara_tokenizer.data.video.images import ImageFolderReader

logger = logging.getLogger(__name__)


class LoadOptions(TypedDict, total=False):
    """The keywords of `load_episodes`, for functions that pass them on."""

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


class Episodes(list[Episode]):
    """A list of episodes that knows where they come from: `sources`, and the `options` that decide frames and times.

    A slice of it knows the same.
    """

    def __init__(
        self,
        episodes: Iterable[Episode] = (),
        sources: Sequence[SourceFacts] = (),
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(episodes)
        self.sources = tuple(sources)
        readers = sorted({type(episode.reader).__name__ for episode in self})
        self.options = dict(options or {"decoder": ", ".join(readers)})

    @overload
    def __getitem__(self, place: SupportsIndex) -> Episode: ...
    @overload
    def __getitem__(self, place: slice) -> Episodes: ...
    def __getitem__(self, place: SupportsIndex | slice) -> Episode | Episodes:
        found = super().__getitem__(place)
        return Episodes(found, self.sources, self.options) if isinstance(found, list) else found


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
) -> Episodes:
    """List the episodes of a source, sorted by id, and segments by time; says in the log what it took it for.

    Args:
        source: a video file; a folder (searched through, for datasets, videos and folders of numbered images); a glob
            ("runs/*/front.mp4"); a dataset's folder: LeRobotDataset v2.x and v3.0, RLDS, Hugging Face datasets,
            WebDataset, Something-Something v2; or a list of these. "lerobot:user/name" and "datasets:user/name" are on
            the Hub ("@revision" may follow). "video:", "lerobot:", "rlds:", "datasets:", "webdataset:" and "ssv2:" say
            what it is, "list:clips.csv" is a list of clips. An id is the path below the folder that was named, or
            below the nearest folder common to a list, and the dataset's own name for the episode.
        fps: the true rate, for all or by glob ({"rt1_*": 3}, tried on the last part of the id, on the whole, and on the
            dataset's name); a dataset's own rate wins over its files', this wins over both. Folders of images need one.
        decoder: "pyav", or "decord" or "torchcodec" with their extras.
        limit: keep the first episodes only.
        cameras: names, last parts of names, or "all"; none given takes the first of a dataset.
        split, subset: of RLDS and Hugging Face datasets (split also of Something-Something); default: all splits.
        streaming: fetch from a Hugging Face dataset only what is read.
        episodes: numbers within the dataset, [0, 7] or "0,7,10:20" (20 excluded).
        tasks: keep episodes whose instruction holds one of these texts, or fits one of these globs.
        segment: cut each episode into pieces of so many seconds, "10s"; ids end in "#t=10,20".
        from_list: a list of clips, with paths relative to `source`, or to the list: a .csv with a column path and, if
            wanted, start, end (seconds) and label; or a .txt with a path a line.

    Raises:
        ValueError: nothing is found, a source or a rate makes no sense, or a filter leaves nothing.
        ImportError: the decoder is not installed.

    >>> [episode.id for episode in load_episodes("videos/", fps={"rt1_*": 3})]  # doctest: +SKIP
    ['bridge_1.mp4', 'kitchen/rt1_7.mp4']
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit {limit}: must be at least 1 episode")
    if segment is not None:
        segment_seconds(segment)
    finder = Finder(decoder, _texts(cameras), split, subset, streaming)
    sources = [source] if isinstance(source, str | Path) else list(source)
    if from_list is not None:
        roots = [finder.find_list(from_list, sources)]
    elif sources:
        roots = [part for each in sources for part in finder.find(each)]
    else:
        raise ValueError(f"no source given. Name {READABLE}")
    founds = merged(roots)
    everything = sorted((episode for found in founds for episode in found.episodes), key=lambda episode: episode.id)
    rates = rates_of({episode.id: episode.dataset for episode in everything}, fps)
    for episode in everything:
        if (rate := rates[episode.id]) is not None:
            override_rate(episode, rate)
    kept = filtered(everything, episodes, _texts(tasks))
    _check_rates(kept, founds)
    if segment is not None:
        # One by one: a limit then opens no more files than it needs. In the order of time: nothing is sought back for.
        kept = list(islice((piece for each in kept for piece in segments(each, segment)), limit))
    kept = kept[:limit]
    facts = [found.facts() for found in founds]
    for fact in facts:
        logger.info("%s", fact)
    options = {
        "fps": dict(fps) if isinstance(fps, Mapping) else fps,
        "decoder": decoder,
        "cameras": sorted(finder.cameras),
        "split": split,
        "subset": subset,
        "streaming": streaming or None,
        "segment": segment,
        "from_list": None if from_list is None else Path(from_list).name,
    }
    return Episodes(kept, facts, options)


def _check_rates(episodes: Sequence[Episode], founds: Sequence[Found]) -> None:
    """Raises ValueError for what no rate is known of, before anything is read."""
    wanted = {episode.id for episode in episodes}
    for found in founds:
        if found.needs_rate and any(each.fps is None and each.id in wanted for each in found.episodes):
            raise ValueError(
                f"{found.name} ({found.format}) states no frame rate. Give its frames per second: fps=10 (--fps 10)"
            )
    for episode in episodes:
        if episode.fps is None and isinstance(episode.reader, ImageFolderReader):
            name = Path(episode.id).name
            raise ValueError(
                f"{episode.reader.folder} holds images, which have no rate of their own. Give their frames per second: "
                f"fps=10 or fps={{'{name}': 10}} (--fps 10 or --fps '{name}=10')"
            )


def _texts(value: str | Sequence[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)
