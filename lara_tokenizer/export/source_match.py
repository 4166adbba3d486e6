"""The episodes that a table was made from, found again, and checked before anything is written."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lara_tokenizer.data import Episode
from lara_tokenizer.errors import EpisodeReadError
from lara_tokenizer.export.pixels import PairSample, check_pixels
from lara_tokenizer.table.metadata import FRAMES
from lara_tokenizer.table.reader import TokenSequence, TokenTable
from lara_tokenizer.table.source import Source, check_revisions, find_episodes, recorded_load_options

# Times come from the same arithmetic as when the table was made; a rate that differs at all is off by far more.
_SAME_TIME = 1e-6  # seconds


@dataclass(slots=True)
class Matched:
    """A table and its source, known to belong together.

    Fields:
        tokens: what of the table is exported.
        episodes: of the source, by id; those without a row are left out.
        wanted: pairs to export, of each episode and camera with at least one, in the table's order.
        num_frames: of each episode and camera.
        rows: in the selection, wanted or not.
        left_out: why and how many of them are not wanted.
    """

    tokens: TokenTable
    episodes: dict[str, Episode] = field(default_factory=dict)
    wanted: dict[tuple[str, str], int] = field(default_factory=dict)
    num_frames: dict[tuple[str, str], int] = field(default_factory=dict)
    rows: int = 0
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def total_wanted(self) -> int:
        return sum(self.wanted.values())

    def sequences(self, *columns: str) -> Iterator[tuple[Episode, TokenSequence]]:
        """Each episode with the rows of a camera; see `TokenTable.tracks`."""
        for track in self.tokens.sequences(*columns):
            yield self.episodes[track.episode], track


def match_source(
    tokens: TokenTable,
    source: Source,
    from_list: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
) -> Matched:
    """Load the source as the table's was loaded, and compare: episodes, lengths, times, and the pixels of a few pairs.

    Args:
        tokens: the table.
        source: the video it was made from, as given to `encode_dataset`: paths, or episodes.
        from_list: the list of clips, where the table was made from one.
        out: where the export will lie.

    Raises:
        ValueError: `out` lies in the source; an episode is missing, has too few frames, or other times (another video,
            or another rate), or other pixels; or no pair is left to export.
        JobMismatchError: a dataset of the Hub is at another revision.
    """
    if out is not None:
        _check_outside(Path(out), source)
    loaded, by_id = find_episodes(source, recorded_load_options(tokens.metadata, source, from_list))
    check_revisions(tokens.metadata, loaded.sources)
    matched, sample = Matched(tokens), PairSample()
    for track in tokens.sequences("codes"):
        episode = by_id.get(track.episode)
        if episode is None:
            raise ValueError(
                f"episode {track.episode!r} of {tokens.path} is not in the source, which has {_some(by_id)}. Name the "
                "source that the table was made from."
            )
        matched.num_frames[track.episode, track.camera] = _check_track(track, episode, tokens)
        matched.episodes[track.episode] = episode
        sample.add(track)
        matched.rows += len(track.frames)
        if wanted := int(track.selected.sum()):
            matched.wanted[track.episode, track.camera] = wanted
    matched.left_out = Counter({reason: count for reason, count in tokens.left_out.items() if count})
    if not matched.wanted:
        reasons = "; ".join(f"{count:,} {reason}" for reason, count in matched.left_out.items()) or "no rows"
        raise ValueError(f"{tokens.path}: no pair of stride {tokens.stride} is left to export ({reasons}).")
    check_pixels(sample.pairs, matched.episodes, tokens.metadata.get(FRAMES))
    return matched


def _some(names: Mapping[str, object], shown: int = 3) -> str:
    """The first names, and how many there are."""
    named = ", ".join(list(names)[:shown])
    return named if len(names) <= shown else f"{named} and {len(names) - shown:,} more"


def _check_outside(out: Path, source: Source) -> None:
    """Raises ValueError where the export would lie in its source, and be found in it the next time."""
    target = Path(os.path.realpath(out))
    for item in [source] if isinstance(source, (str, Path)) else source:
        if isinstance(item, Episode):
            return
        for folder in (Path(item), Path(str(item).partition(":")[2] or os.devnull)):  # "lerobot:demos" too
            if folder.is_dir() and target.is_relative_to(folder.resolve()):
                raise ValueError(f"--out {out} lies in its source, {folder}, and would be found there the next time.")


def _check_track(track: TokenSequence, episode: Episode, tokens: TokenTable) -> int:
    """The number of frames of an episode, which has those of the table, at the same times."""
    if track.camera not in episode.cameras:
        raise ValueError(
            f"episode {track.episode!r} has no camera {track.camera!r} in the source; it has "
            f"{', '.join(map(repr, episode.cameras))}. Name the source that {tokens.path} was made from."
        )
    try:
        timestamps = episode.timestamps(track.camera)
    except EpisodeReadError as error:
        raise ValueError(f"episode {track.episode!r} cannot be read: {error}") from error
    finally:
        episode.close()
    last = int(max(track.frames.max(), track.futures.max()))
    if last >= len(timestamps):
        raise ValueError(
            f"episode {track.episode!r} has {len(timestamps)} frames in the source, {tokens.path} labels frame {last}: "
            "the table was made from another video. Encode again, or name the right source."
        )
    wrong = np.flatnonzero(np.abs(timestamps[track.frames] - track.timestamps) > _SAME_TIME)
    if len(wrong):
        row = wrong[0]
        raise ValueError(
            f"episode {track.episode!r}: frame {track.frames[row]} is at {timestamps[track.frames[row]]:.3f} s in the "
            f"source and at {track.timestamps[row]:.3f} s in {tokens.path}: another video, or another frame rate. "
            "Encode again, or name the right source."
        )
    return len(timestamps)
