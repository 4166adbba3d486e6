"""What an export to Moto writes, settled and checked before it does."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from lara_tokenizer.data import Episode
from lara_tokenizer.errors import EpisodeReadError
from lara_tokenizer.export.instructions import instructions
from lara_tokenizer.export.matching import Matched
from lara_tokenizer.export.moto_values import ACTION_WIDTH

# Moto's own words for a dataset ("data_type"); each has its reader.
STYLES = ("oxe", "rt1", "calvin")


@dataclass(frozen=True, slots=True)
class Plan:
    """What an export writes, known before it does.

    Fields:
        matched: the table and its source.
        style, name, video: as asked.
        instruction: for frames that have none.
        camera: the only one.
        skip_frame: d, frames from each frame of a pair to the other.
        has_actions: whether they are written.
        size: (H, W) of the first episode's frames.
    """

    matched: Matched
    style: str
    name: str
    video: bool
    instruction: str | None
    camera: str
    skip_frame: int
    has_actions: bool
    size: tuple[int, int]

    @property
    def num_frames(self) -> dict[str, int]:
        """Of each episode, in the order of their numbers."""
        return {episode: frames for (episode, _), frames in self.matched.num_frames.items()}

    @property
    def first_steps(self) -> list[int]:
        """The number of each episode's first frame in the LMDB."""
        return [0, *accumulate(self.num_frames.values())][:-1]


def check_options(style: str, name: str, actions: bool, video: bool) -> None:
    """Raises ValueError for options that cannot be, or not together."""
    if style not in STYLES:
        raise ValueError(f"style {style!r}: takes {', '.join(STYLES)}")
    if not name or name in (".", "..") or set(name) & set("/\\\0"):
        raise ValueError(f"name {name!r}: takes the name of a folder, such as 'kitchen'")
    if style == "calvin" and not video:
        raise ValueError("style calvin keeps its pictures in the LMDB: leaving out the video is for oxe and rt1")
    if style == "rt1" and not actions:
        raise ValueError("style rt1 is Moto's dataset with actions: without them, take oxe")


def check_tracks(matched: Matched, style: str, instruction: str | None) -> int:
    """The gap of all pairs in frames; every episode has an instruction."""
    gaps: set[int] = set()
    for episode, track in matched.sequences("text"):
        gaps |= set(np.unique((track.futures - track.frames)[track.selected]).tolist())
        texts = sorted(set(instructions(episode, track, instruction)))
        if style == "calvin" and len(texts) > 1:
            raise ValueError(
                f"episode {episode.id!r} has instructions {', '.join(map(repr, texts))}: style calvin has one for "
                "each episode. Take --style oxe or rt1."
            )
    if len(gaps) > 1:
        raise ValueError(
            f"pairs of stride {matched.tokens.stride} are {', '.join(map(str, sorted(gaps)))} frames apart: Moto "
            f"counts in frames, and has one gap. Encode with a stride in frames, e.g. --stride {min(gaps)}f."
        )
    return gaps.pop()


def check_actions(matched: Matched, style: str) -> bool:
    """Whether the source has actions; every episode's are as wide as Moto's, one for each frame.

    They are read once more for that: 0.2 to 1.5 ms an episode.
    """
    without = [episode.id for episode in matched.episodes.values() if "actions" not in episode.offers]
    if len(without) == len(matched.episodes):
        if style == "rt1":
            raise ValueError("style rt1 is Moto's dataset with actions, and the source has none. Take --style oxe.")
        return False
    if without:
        raise ValueError(f"episode {without[0]!r} has no actions, others have. Export all without: --no-actions.")
    for episode in matched.episodes.values():
        actions_of(episode, matched.num_frames[episode.id, matched.tokens.cameras[0]])
    return True


def actions_of(episode: Episode, num_frames: int) -> np.ndarray:
    """float32 (F, 7). Raises ValueError for another width, EpisodeReadError for another number of rows."""
    try:
        signals = episode.signals()
    finally:
        episode.close()
    signals.check_length(num_frames, episode.id)
    if signals.actions is None:
        raise EpisodeReadError(episode.id, "it has no actions")
    if signals.actions.shape[1] != ACTION_WIDTH:
        raise ValueError(
            f"episode {episode.id!r} has actions of {signals.actions.shape[1]} numbers; Moto's have {ACTION_WIDTH}: "
            "position 3, rotation 3, gripper 1. Export without: --no-actions."
        )
    return signals.actions.astype(np.float32, copy=False)


def check_sizes(matched: Matched, every: bool) -> tuple[int, int]:
    """(H, W) of the first episode's frames; where `every`, those of all episodes."""
    sizes: dict[tuple[int, int], str] = {}
    for episode in matched.episodes.values():
        try:
            height, width, _ = episode.frames(matched.tokens.cameras[0], [0])[0].shape
        finally:
            episode.close()
        sizes.setdefault((height, width), episode.id)
        if not every:
            break
    if len(sizes) > 1:
        told = ", ".join(f"{width} x {height} ({episode})" for (height, width), episode in sizes.items())
        raise ValueError(f"frames are {told}: Moto's class takes one size. Export them apart, or with --style oxe.")
    return next(iter(sizes))
