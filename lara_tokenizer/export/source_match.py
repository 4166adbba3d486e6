"""Find the episodes that a table was made from, and check that they are the same, before anything is written."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lara_tokenizer._files import summarize_names
from lara_tokenizer.data import Episode
from lara_tokenizer.errors import EpisodeReadError
from lara_tokenizer.export.source_state import SequenceState, check_content, episodes_with_rows
from lara_tokenizer.table.links import NamedFolders
from lara_tokenizer.table.metadata import FRAMES
from lara_tokenizer.table.reader import TokenSequence, TokenTable
from lara_tokenizer.table.source import Source, check_revisions, find_episodes, named_paths, recorded_load_options

# Times come from the same arithmetic as when the table was made; a rate that differs at all is off by far more.
_SAME_TIME = 1e-6  # seconds
_PAIRS = 8  # pairs whose pixels are compared: at least half as many, of as many sequences
# Differences that another release of a decoder may cause. Pillow's resize in place of torch's changes less than 0.0001.
_ABSOLUTE, _RELATIVE = 0.002, 0.02
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(slots=True)
class MatchedSource:
    """A table and the episodes it was made from.

    Attributes:
        table: the rows to export.
        episodes: of the source, by id; those without a row are left out.
        selected: count of pairs to export, by (episode, camera), in the table's order; none is 0.
        num_frames: count of frames, by (episode, camera).
        states: of the source as it was matched, one for each sequence.
        rows: count of rows in the table's stride and cameras, selected or not.
        left_out: count of rows that are not selected, by reason.
    """

    table: TokenTable
    episodes: dict[str, Episode] = field(default_factory=dict)
    selected: dict[tuple[str, str], int] = field(default_factory=dict)
    num_frames: dict[tuple[str, str], int] = field(default_factory=dict)
    states: list[SequenceState] = field(default_factory=list)
    rows: int = 0
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def num_pairs(self) -> int:
        """Count of pairs to export."""
        return sum(self.selected.values())

    def sequences(self, *columns: str) -> Iterator[tuple[Episode, TokenSequence]]:
        """Each episode with the rows of one camera; see `TokenTable.sequences`."""
        for sequence in self.table.sequences(*columns):
            yield self.episodes[sequence.episode], sequence


def match_source(
    table: TokenTable,
    source: Source,
    from_list: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
) -> MatchedSource:
    """Load the source as the table's was loaded, and compare episodes, lengths, times, and the pixels of a few pairs.

    Args:
        table: the rows to export.
        source: the video it was made from, as given to `encode_dataset`: paths, or episodes.
        from_list: the list of clips, if the table was made from one.
        out: the folder of the export.

    Raises:
        ValueError: `out` is inside the source; links lead out of a folder that was named; files are not those that the
            table was made from; an episode is missing, has too few frames, other times (another video, or another rate)
            or other pixels; or no pair is left to export.
        JobMismatchError: a dataset of the Hub is at another revision.
    """
    if out is not None:
        _check_outside(Path(out), source)
    loaded, by_id = find_episodes(source, recorded_load_options(table.metadata, source, from_list))
    _check_links(NamedFolders(source), table, by_id)
    check_revisions(table.metadata, loaded.sources)
    check_content(table, by_id)
    matched = MatchedSource(table)
    sample = PairSample()
    for sequence in table.sequences("codes"):
        episode = by_id.get(sequence.episode)
        if episode is None:
            raise ValueError(
                f"episode {sequence.episode!r} of {table.path} is not in the source, which has "
                f"{summarize_names(by_id, 3)}. Name the source that the table was made from."
            )
        matched.states.append(state := _check_sequence(sequence, episode, table))
        matched.num_frames[sequence.episode, sequence.camera] = state.num_frames
        matched.episodes[sequence.episode] = episode
        sample.add(sequence)
        matched.rows += len(sequence.frames)
        if selected := int(sequence.selected.sum()):
            matched.selected[sequence.episode, sequence.camera] = selected
    matched.left_out = Counter({reason: count for reason, count in table.left_out.items() if count})
    if not matched.selected:
        reasons = "; ".join(f"{count:,} {reason}" for reason, count in matched.left_out.items()) or "no rows"
        raise ValueError(f"{table.path}: no pair of stride {table.stride} is left to export ({reasons}).")
    _check_pixels(sample.pairs, matched.episodes, table.metadata.get(FRAMES))
    return matched


def instructions(episode: Episode, sequence: TokenSequence, default: str | None = None) -> list[str]:
    """The instruction of each row of a sequence: the table's, else the source's, else the default.

    Args:
        default: for rows without one; None refuses them.

    Raises:
        ValueError: neither the table nor the source has an instruction, and there is no default.
    """
    known = sequence.texts or [None] * len(sequence.frames)
    texts = [text or episode.text or default for text in known]
    if None in texts:
        raise ValueError(
            f"episode {sequence.episode!r} has no instruction, in the table or in the source. Give one for all that "
            "have none (--instruction), or encode a source that has texts."
        )
    return [text for text in texts if text is not None]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two frames of an episode, with the mean change of their pixels, 0 to 1, that the table records."""

    episode: str
    camera: str
    frame: int
    future: int
    motion: float


@dataclass(slots=True)
class PairSample:
    """The pair with most motion of a few sequences, evenly spread over all that are added."""

    pairs: list[Pair] = field(default_factory=list)
    _seen: int = 0
    _every: int = 1

    def add(self, sequence: TokenSequence) -> None:
        """Consider one more sequence."""
        if self._seen % self._every == 0 and np.isfinite(sequence.motions).any():
            row = int(np.nanargmax(sequence.motions))
            frame, future = int(sequence.frames[row]), int(sequence.futures[row])
            motion = float(sequence.motions[row])
            self.pairs.append(Pair(sequence.episode, sequence.camera, frame, future, motion))
            # The count of sequences is not known beforehand: when the sample is full, thin it and sample less often.
            if len(self.pairs) > _PAIRS:
                self.pairs = self.pairs[::2]
                self._every *= 2
        self._seen += 1


def _check_outside(out: Path, source: Source) -> None:
    """Raises ValueError where the export would be inside its source, and be found there the next time."""
    target = Path(os.path.realpath(out))
    for folder in named_paths(source):
        if folder.is_dir() and target.is_relative_to(folder.resolve()):
            raise ValueError(f"--out {out} is inside its source, {folder}, and would be found there the next time.")


def _check_links(folders: NamedFolders, table: TokenTable, episodes: Mapping[str, Episode]) -> None:
    """Raises ValueError where a link would fetch an episode of the table from outside the folder that was named."""
    outside = {
        name: files
        for name, episode in episodes.items()
        for camera in episode.cameras
        if camera in table.cameras and (files := list(folders.outside(episode.files(camera))))
    }
    # Other episodes of the source are not exported.
    if outside and (names := outside.keys() & episodes_with_rows(table)):
        raise folders.refusal(file for name in sorted(names) for file in outside[name])


def _check_sequence(sequence: TokenSequence, episode: Episode, table: TokenTable) -> SequenceState:
    """The state of an episode. Raises ValueError unless it has the table's frames at the same times."""
    if sequence.camera not in episode.cameras:
        raise ValueError(
            f"episode {sequence.episode!r} has no camera {sequence.camera!r} in the source; it has "
            f"{', '.join(map(repr, episode.cameras))}. Name the source that {table.path} was made from."
        )
    try:
        timestamps = episode.timestamps(sequence.camera)
        state = SequenceState.of(episode, sequence.camera)
    except EpisodeReadError as error:
        raise ValueError(f"episode {sequence.episode!r} cannot be read: {error}") from error
    finally:
        episode.close()
    last = int(max(sequence.frames.max(), sequence.futures.max()))
    if last >= len(timestamps):
        raise ValueError(
            f"episode {sequence.episode!r} has {len(timestamps)} frames in the source, {table.path} labels frame "
            f"{last}: the table was made from another video. Encode again, or name the right source."
        )
    pairs = sequence.futures >= 0
    labels = np.concatenate([sequence.frames, sequence.futures[pairs]])
    times = np.concatenate([sequence.timestamps, sequence.future_timestamps[pairs]])
    # Not `>`: a time that is missing is wrong too.
    wrong = np.flatnonzero(~(np.abs(timestamps[labels] - times) <= _SAME_TIME))
    if len(wrong):
        frame = labels[wrong[0]]
        raise ValueError(
            f"episode {sequence.episode!r}: frame {frame} is at {timestamps[frame]:.3f} s in the source and at "
            f"{times[wrong[0]]:.3f} s in {table.path}: another video, or another frame rate. "
            "Encode again, or name the right source."
        )
    return state


def _check_pixels(pairs: list[Pair], episodes: Mapping[str, Episode], frames: Mapping[str, Any] | None) -> None:
    """Decode a few pairs and compare the change of their pixels with the table's.

    Episodes, lengths and times can agree by chance, for example for clips of one recorder.

    Args:
        frames: how the processor prepares a frame, from the table's metadata; None (an older table) checks nothing.

    Raises:
        ValueError: the pixels of a pair change by more, or less, than the table records.
    """
    if frames is None or not frames["antialias"]:  # Pillow cannot resize without antialiasing
        return
    for pair in pairs:
        episode = episodes[pair.episode]
        try:
            both = episode.frames(pair.camera, [pair.frame, pair.future])
        except EpisodeReadError as error:
            raise ValueError(f"episode {pair.episode!r} cannot be read: {error}") from error
        finally:
            episode.close()
        before, after = (_resized(pixels, frames).astype(np.int16) for pixels in both)
        motion = float(np.abs(after - before).mean() / 255)
        if abs(motion - pair.motion) > _ABSOLUTE + _RELATIVE * pair.motion:
            raise ValueError(
                f"episode {pair.episode!r}: from frame {pair.frame} to {pair.future} pixels change by {motion:.3f} on "
                f"average in the source, by {pair.motion:.3f} in the table: another video. Encode again, or name the "
                "right source."
            )


def _resized(pixels: np.ndarray, frames: Mapping[str, Any]) -> np.ndarray:
    """A frame as the processor crops and resizes it, to a grey level, without torch."""
    height, width = frames["size"]["height"], frames["size"]["width"]
    image = Image.fromarray(pixels)
    if frames["crop"] == "center":
        across = min(image.width, image.height * width // height)
        down = min(image.height, image.width * height // width)
        left, top = (image.width - across) // 2, (image.height - down) // 2
        image = image.crop((left, top, left + max(1, across), top + max(1, down)))
    return np.asarray(image.resize((width, height), _FILTERS[frames["resample"]]))
