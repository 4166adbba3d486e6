"""Actions of a frame pair: those executed from frame t up to frame t + C, standardized per dataset.

Shape suffixes: B pairs, C frames of the longest gap, A width of the widest action.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lara_tokenizer.data.statistics import ActionStatistics, read_actions, statistics_of
from lara_tokenizer.train.mixture import SampleIndices
from lara_tokenizer.train.sequences import FrameSequence, check_ids

if TYPE_CHECKING:
    from lara_tokenizer.data import Episode


@dataclass(frozen=True, slots=True)
class EpisodeActions:
    """Recorded actions of many episodes, held in memory, with the statistics of each dataset."""

    rows: Mapping[str, Mapping[str, np.ndarray]]
    """float32 (n, A) by dataset and episode id, as recorded."""
    statistics: Mapping[str, ActionStatistics]

    @classmethod
    def read(
        cls, episodes: Iterable[Episode], statistics: Mapping[str, ActionStatistics] | None = None
    ) -> EpisodeActions:
        """Read the actions of those episodes that have any.

        Args:
            episodes: their ids must be unique within a dataset.
            statistics: of the training data, for held-out episodes; None measures them on these episodes.

        Raises:
            ValueError: no episode has actions, a dataset has actions of several widths, or `statistics` lacks it.
        """
        episodes = list(episodes)
        check_ids(episodes)
        rows = read_actions(episodes)
        if not rows:
            raise ValueError(f"none of the {len(episodes)} episodes has actions: train without them.")
        if statistics is None:
            statistics = {name: statistics_of(name, rows[name]) for name in rows}
        if unknown := sorted(rows.keys() - statistics.keys()):
            raise ValueError(f"no statistics of dataset {unknown[0]!r}. There are: {', '.join(map(repr, statistics))}.")
        return cls(rows, statistics)


class PairActions:
    """Standardized actions of frame pairs, looked up by `FrameSequence.index`.

    Raises ValueError if an episode does not have one action per frame, or no sequence has actions.
    """

    def __init__(self, actions: EpisodeActions, sequences: Sequence[FrameSequence], longest_gap: int) -> None:
        self.longest_gap = longest_gap
        width = max(statistics.mean.size for statistics in actions.statistics.values())
        self._start = np.full(1 + max(sequence.index for sequence in sequences), -1, np.int64)
        self._width = np.zeros(len(self._start), np.int64)
        starts: dict[tuple[str, str], int] = {}
        parts: list[np.ndarray] = []
        filled = 0
        for sequence in sequences:
            rows = actions.rows.get(sequence.dataset, {}).get(sequence.episode)
            if rows is None:
                continue
            if len(rows) != len(sequence.timestamps):
                raise ValueError(
                    f"episode {sequence.episode!r} has {len(rows)} actions and {len(sequence.timestamps)} frames of "
                    f"camera {sequence.camera!r}: there must be one action per frame."
                )
            # The cameras of an episode share its rows.
            if (sequence.dataset, sequence.episode) not in starts:
                starts[sequence.dataset, sequence.episode] = filled
                part = np.zeros((len(rows), width), np.float32)
                part[:, : rows.shape[1]] = actions.statistics[sequence.dataset].standardise(rows)
                parts.append(part)
                filled += len(rows)
            self._start[sequence.index] = starts[sequence.dataset, sequence.episode]
            self._width[sequence.index] = rows.shape[1]
        if not parts:
            raise ValueError("none of the episodes that are drawn from has actions: train without them.")
        # A tensor: torch shares its memory with loader processes, where an array would be copied into each.
        self._rows = torch.from_numpy(np.concatenate(parts))

    def read(self, indices: SampleIndices) -> tuple[Tensor, Tensor]:
        """Actions float32 (B, C, A), 0 where there are none, and their mask bool (B, C, A)."""
        rows = self._rows.numpy()
        start_B = self._start[indices.sequence]
        steps_C = np.arange(self.longest_gap)
        in_gap_BC = (steps_C < (indices.future - indices.now)[:, None]) & (start_B >= 0)[:, None]
        mask_BCA = in_gap_BC[:, :, None] & (np.arange(rows.shape[1]) < self._width[indices.sequence][:, None, None])
        row_BC = np.where(in_gap_BC, (start_B + indices.now)[:, None] + steps_C, 0)
        return torch.from_numpy(np.where(mask_BCA, rows[row_BC], np.float32(0))), torch.from_numpy(mask_BCA)
