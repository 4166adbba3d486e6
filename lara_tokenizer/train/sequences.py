"""The streams that training draws from: one camera of one episode each, listed without decoding a frame."""

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
class Stream:
    """One camera of one episode of a dataset; `number` is its place among the streams of a source of frames."""

    number: int
    dataset: str
    episode: str
    camera: str
    timestamps: np.ndarray  # float64 (n,), seconds from the first frame


def list_streams(episodes: Sequence[Episode]) -> list[Stream]:
    """Every camera of every episode, in their order. An episode whose frames cannot be listed is logged and left out.

    Raises ValueError where two episodes of one dataset have one id, and where no episode can be read.
    """
    check_ids(episodes)
    streams: list[Stream] = []
    for episode in episodes:
        for camera in episode.cameras:
            try:
                timestamps = episode.timestamps(camera)
            except (LaraTokenizerError, OSError) as error:
                logger.warning("left out: %s", error)
                continue
            streams.append(Stream(len(streams), episode.dataset, episode.id, camera, timestamps))
        episode.close()
    if not streams:
        raise nothing_readable(episodes)
    return streams


def check_ids(episodes: Sequence[Episode]) -> None:
    """Raises ValueError where two episodes of one dataset have one id."""
    seen: set[tuple[str, str]] = set()
    for episode in episodes:
        key = (episode.dataset, episode.id)
        if key in seen:
            raise ValueError(
                f"two episodes are called {episode.id!r}{_of(episode.dataset)}: load all sources in one call of "
                "load_episodes, or give each its own `dataset`."
            )
        seen.add(key)


def nothing_readable(episodes: Sequence[Episode]) -> ValueError:
    """The error where every episode was left out."""
    return ValueError(f"none of the {len(episodes)} episodes could be read; the log above says why for each.")


def _of(dataset: str) -> str:
    return f" in dataset {dataset!r}" if dataset else ""
