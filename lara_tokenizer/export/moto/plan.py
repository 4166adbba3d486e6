"""The plan of an export to Moto-GPT, checked before anything is written, and the metadata that follows from it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from lara_tokenizer.data import Episode
from lara_tokenizer.errors import EpisodeReadError
from lara_tokenizer.export.source_match import MatchedSource, instructions
from lara_tokenizer.table.reader import TokenSequence

# Moto's own names of dataset classes ("data_type").
STYLES = ("oxe", "rt1", "calvin")
ACTION_WIDTH = 7  # position 3, rotation 3, gripper 1
SPLIT = "train"
_RESIZED = (224, 224)  # to which Moto resizes all frames of a mixture


@dataclass(frozen=True, slots=True)
class MotoPlan:
    """Everything that an export writes, known beforehand.

    Attributes:
        matched: the table and its source.
        style: one of STYLES.
        name: of the dataset.
        video: whether the frames are written.
        instruction: for frames without one.
        camera: the only one.
        skip_frame: gap in frames between the two frames of every pair.
        has_actions: whether actions are written.
        size: (H, W) of the first episode's frames.
    """

    matched: MatchedSource
    style: str
    name: str
    video: bool
    instruction: str | None
    camera: str
    skip_frame: int
    has_actions: bool
    size: tuple[int, int]

    @classmethod
    def of(
        cls, matched: MatchedSource, *, style: str, name: str, video: bool, instruction: str | None, actions: bool
    ) -> MotoPlan:
        """Settle the plan from options that `check_options` accepted.

        Raises:
            ValueError: pairs with several gaps, an episode without instruction, actions of another width, or frames of
                several sizes where Moto's class takes one.
            EpisodeReadError: an episode cannot be read.
        """
        return cls(
            matched=matched,
            style=style,
            name=name,
            video=video,
            instruction=instruction,
            camera=matched.table.cameras[0],
            skip_frame=_check_pairs(matched, style, instruction),
            has_actions=actions and _check_actions(matched, style),
            size=_check_sizes(matched, every=video and style != "oxe"),
        )

    @property
    def num_frames(self) -> dict[str, int]:
        """Count of frames of each episode, in the order of Moto's episode index."""
        return {episode: frames for (episode, _), frames in self.matched.num_frames.items()}

    @property
    def first_steps(self) -> list[int]:
        """The step of each episode's first frame in the LMDB, which numbers the frames of all episodes through."""
        return [0, *accumulate(self.num_frames.values())][:-1]

    @property
    def lmdb_dir(self) -> str:
        """The folder, below the export's, that contains a folder with an LMDB for each split."""
        return f"lmdb/{self.name}"

    @property
    def video_dir(self) -> str:
        """The folder of videos, below the export's. Moto looks for a dataset that it does not know under "image"."""
        return f"video/{self.name}/image"

    def lmdb_meta(self) -> dict[str, Any]:
        """The value of `latent_motion_meta` in the LMDB: where the codes come from."""
        table = self.matched.table
        return {
            "skip_frame": self.skip_frame,
            "stride": table.stride,
            "per_latent_motion_len": table.num_latents,
            "latent_motion_codebook_size": table.codebook_size,
            "camera": self.camera,
            "weights_sha256": table.metadata["model"]["weights_sha256"],
            "tokens": table.metadata,
        }

    def data_config(self) -> dict[str, Any]:
        """The configuration for Moto's `load_dataset`."""
        folders = {"lmdb_dir": self.lmdb_dir}
        if self.style != "calvin":
            folders["video_dir"] = self.video_dir
        if self.style != "oxe":
            return {"data_type": self.style, **folders, "rgb_shape": list(self.size), "skip_frame": self.skip_frame}
        # A mixture of one: Moto resizes frames of style oxe only there.
        member = {"data_type": "oxe", "data_name": self.name, "weight": 1, **folders}
        return {
            "data_type": "mix",
            "rgb_shape": list(_RESIZED),
            "skip_frame": self.skip_frame,
            "weighted": False,
            "sub_data_configs": [member],
        }

    def video_metadata(self) -> dict[str, Any]:
        """The index of the videos that are long enough for a pair.

        Moto reads the first two entries of each, name and count of frames; the third, its first step, is for
        `moto_wrapper`.
        """
        videos = [
            [video_name(index), frames, first]
            for index, (frames, first) in enumerate(zip(self.num_frames.values(), self.first_steps, strict=True))
            if frames > self.skip_frame
        ]
        return {SPLIT: {"total_frames": sum(frames for _, frames, _ in videos), "videos": videos}}

    def episode_lines(self) -> Iterator[str]:
        """The source's episode for each of Moto's, one JSON object per line."""
        rows = zip(self.num_frames.items(), self.first_steps, strict=True)
        for index, ((episode, frames), first) in enumerate(rows):
            yield json.dumps({"episode": index, "id": episode, "frames": frames, "first_step": first}) + "\n"

    def settings(self) -> dict[str, Any]:
        """Settings of Moto's trainer and model, by their names."""
        table = self.matched.table
        return {
            "data_config": "data_config.yaml",
            "skip_frame": self.skip_frame,
            "per_latent_motion_len": table.num_latents,
            "latent_motion_codebook_size": table.codebook_size,
        }

    def notes(self) -> list[str]:
        """Sentences for the manifest; a change of their text changes the bytes of exports."""
        notes = [
            "Moto's trainer tokenizes frames after a random shift; these codes are of the frames as they are.",
            "Train on them with lara_tokenizer.export.moto_wrapper: Moto's own code reads this dataset, not the codes.",
            "There is no val split: Moto takes the first 95 % of the steps to train and the rest to evaluate.",
        ]
        if not self.video:
            notes.append(
                f"No videos were written: data_config.yaml looks in {self.video_dir} for those of an earlier export of "
                "the same episodes (compare episodes.jsonl)."
            )
        if self.has_actions:
            notes.append("Actions are as recorded; Moto expects the gripper in -1 to 1 (rt1: clipped to it).")
        else:
            notes.append("There are no actions: set act_pred to false.")
        return notes


def video_name(index: int) -> str:
    """The file name of an episode's video, as Moto spells it.

    >>> video_name(12)
    'train_eps_00000012.mp4'
    """
    return f"{SPLIT}_eps_{index:08d}.mp4"


def check_options(style: str, name: str, actions: bool, video: bool) -> None:
    """Raises ValueError for options that are invalid, or exclude each other."""
    if style not in STYLES:
        raise ValueError(f"style {style!r}: takes {', '.join(STYLES)}")
    if not name or name in (".", "..") or set(name) & set("/\\\0"):
        raise ValueError(f"name {name!r}: takes the name of a folder, such as 'kitchen'")
    if style == "calvin" and not video:
        raise ValueError("style calvin keeps its images in the LMDB: leaving out the video is for oxe and rt1")
    if style == "rt1" and not actions:
        raise ValueError("style rt1 is Moto's dataset with actions: without them, take oxe")


def read_actions(episode: Episode, num_frames: int) -> np.ndarray:
    """The actions of an episode, float32 (F, 7).

    Raises ValueError for another width, EpisodeReadError for another count of rows.
    """
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


def frame_texts(episode: Episode, sequence: TokenSequence, frames: int, default: str | None) -> list[str]:
    """The instruction of each frame; a frame without a row has that of the row before."""
    texts = instructions(episode, sequence, default)
    if len(set(texts)) == 1:
        return texts[:1] * frames
    rows = np.maximum(np.searchsorted(sequence.frames, np.arange(frames), side="right") - 1, 0)
    return [texts[row] for row in rows.tolist()]


def _check_pairs(matched: MatchedSource, style: str, instruction: str | None) -> int:
    """The gap of all pairs in frames. Raises ValueError for several gaps, and for missing instructions."""
    gaps: set[int] = set()
    for episode, sequence in matched.sequences("text"):
        gaps |= set(np.unique((sequence.futures - sequence.frames)[sequence.selected]).tolist())
        texts = sorted(set(instructions(episode, sequence, instruction)))
        if style == "calvin" and len(texts) > 1:
            raise ValueError(
                f"episode {episode.id!r} has instructions {', '.join(map(repr, texts))}: style calvin has one for "
                "each episode. Take --style oxe or rt1."
            )
    if len(gaps) > 1:
        raise ValueError(
            f"pairs of stride {matched.table.stride} are {', '.join(map(str, sorted(gaps)))} frames apart: Moto "
            f"counts in frames, and has one gap. Encode with a stride in frames, e.g. --stride {min(gaps)}f."
        )
    return gaps.pop()


def _check_actions(matched: MatchedSource, style: str) -> bool:
    """Check whether the source has actions. Raises ValueError unless all episodes have Moto's, or none has any."""
    without = [episode.id for episode in matched.episodes.values() if "actions" not in episode.available_signals]
    if len(without) == len(matched.episodes):
        if style == "rt1":
            raise ValueError("style rt1 is Moto's dataset with actions, and the source has none. Take --style oxe.")
        return False
    if without:
        raise ValueError(f"episode {without[0]!r} has no actions, others have. Export all without: --no-actions.")
    # Reading all of them once more takes 0.2 to 1.5 ms per episode, and finds a wrong one before hours of video.
    for episode in matched.episodes.values():
        read_actions(episode, matched.num_frames[episode.id, matched.table.cameras[0]])
    return True


def _check_sizes(matched: MatchedSource, every: bool) -> tuple[int, int]:
    """(H, W) of the first episode's frames. Raises ValueError where `every` is true and others differ."""
    sizes: dict[tuple[int, int], str] = {}
    for episode in matched.episodes.values():
        try:
            height, width, _ = episode.frames(matched.table.cameras[0], [0])[0].shape
        finally:
            episode.close()
        sizes.setdefault((height, width), episode.id)
        if not every:
            break
    if len(sizes) > 1:
        named = ", ".join(f"{width} x {height} ({episode})" for (height, width), episode in sizes.items())
        raise ValueError(f"frames are {named}: Moto's class takes one size. Export them apart, or with --style oxe.")
    return next(iter(sizes))
