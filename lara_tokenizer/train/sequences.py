"""`FrameSequence`: one camera of one episode, the unit that training pairs are sampled from."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lara_tokenizer.errors import LaraTokenizerError

if TYPE_CHECKING:
    from lara_tokenizer.data import Episode

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FrameSequence:
    """The frames of one camera of one episode, by their timestamps."""

    index: int
    """Position among the sequences of its frame source."""
    dataset: str
    episode: str
    camera: str
    timestamps: np.ndarray
    """float64 (n,), seconds from the first frame."""


def list_sequences(episodes: Sequence[Episode]) -> list[FrameSequence]:
    """List every camera of every episode, in order, without decoding a frame.

    A camera whose frames cannot be listed is logged and left out. Raises ValueError if two episodes of one dataset
    share an id, or no camera can be read.
    """
    check_ids(episodes)
    sequences: list[FrameSequence] = []
    for episode in episodes:
        for camera in episode.cameras:
            try:
                timestamps = episode.timestamps(camera)
            except (LaraTokenizerError, OSError) as error:
                logger.warning("left out: %s", error)
                continue
            sequences.append(FrameSequence(len(sequences), episode.dataset, episode.id, camera, timestamps))
        episode.close()
    if not sequences:
        raise nothing_readable(episodes)
    return sequences


def check_ids(episodes: Sequence[Episode]) -> None:
    """Raise ValueError if two episodes of one dataset share an id."""
    seen: set[tuple[str, str]] = set()
    for episode in episodes:
        key = (episode.dataset, episode.id)
        if key in seen:
            of = f" in dataset {episode.dataset!r}" if episode.dataset else ""
            raise ValueError(
                f"two episodes are called {episode.id!r}{of}: load all sources in one call of load_episodes, or give "
                "each its own `dataset`."
            )
        seen.add(key)


def nothing_readable(episodes: Sequence[Episode]) -> ValueError:
    """The error for sources of which every episode was left out."""
    return ValueError(f"none of the {len(episodes)} episodes could be read; the log above has the reason for each.")
