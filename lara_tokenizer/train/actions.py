"""The actions beside a pair: what was done from frame t until frame t + C, on its dataset's own scale.

Shape suffixes: B pairs, C frames of the longest gap, A numbers of the widest action.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lara_tokenizer.data.statistics import ActionStatistics, read_actions, statistics_of
from lara_tokenizer.train.mixture import Draws
from lara_tokenizer.train.streams import Stream, check_ids

if TYPE_CHECKING:
    from lara_tokenizer.data import Episode


@dataclass(frozen=True, slots=True)
class EpisodeActions:
    """`rows` float32 (n, A) by dataset and episode id, as recorded, and the `statistics` of each dataset.

    All are held in memory: beside frames, actions are small.
    """

    rows: Mapping[str, Mapping[str, np.ndarray]]
    statistics: Mapping[str, ActionStatistics]

    @classmethod
    def read(
        cls, episodes: Iterable[Episode], statistics: Mapping[str, ActionStatistics] | None = None
    ) -> EpisodeActions:
        """Of those episodes that have actions; their statistics are measured unless given (held-out data).

        Raises ValueError where none has any, for several widths within one dataset, and for a dataset that
        `statistics` does not know.
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
    """Windows of the standardised actions of some streams, by `Stream.number`.

    Raises ValueError where an episode has not as many actions as frames, and where no stream has actions.
    """

    def __init__(self, actions: EpisodeActions, streams: Sequence[Stream], longest_gap: int) -> None:
        self.longest_gap = longest_gap
        width = max(statistics.mean.size for statistics in actions.statistics.values())
        self._start = np.full(1 + max(stream.number for stream in streams), -1, np.int64)
        self._width = np.zeros(len(self._start), np.int64)
        placed: dict[tuple[str, str], int] = {}
        parts: list[np.ndarray] = []
        filled = 0
        for stream in streams:
            rows = actions.rows.get(stream.dataset, {}).get(stream.episode)
            if rows is None:
                continue
            if len(rows) != len(stream.timestamps):
                raise ValueError(
                    f"episode {stream.episode!r} has {len(rows)} actions and {len(stream.timestamps)} frames of camera "
                    f"{stream.camera!r}: there must be an action a frame."
                )
            if (stream.dataset, stream.episode) not in placed:
                placed[stream.dataset, stream.episode] = filled
                part = np.zeros((len(rows), width), np.float32)
                part[:, : rows.shape[1]] = actions.statistics[stream.dataset].standardise(rows)
                parts.append(part)
                filled += len(rows)
            self._start[stream.number] = placed[stream.dataset, stream.episode]
            self._width[stream.number] = rows.shape[1]
        if not parts:
            raise ValueError("none of the episodes that are drawn from has actions: train without them.")
        # A tensor: torch shares it with loader processes, where an array would be copied into each.
        self._rows = torch.from_numpy(np.concatenate(parts))

    def of(self, draws: Draws) -> tuple[Tensor, Tensor]:
        """actions float32 (B, C, A) and mask bool (B, C, A)."""
        rows = self._rows.numpy()
        start_B, steps_C = self._start[draws.stream], np.arange(self.longest_gap)
        there_BC = (steps_C < (draws.future - draws.now)[:, None]) & (start_B >= 0)[:, None]
        mask_BCA = there_BC[:, :, None] & (np.arange(rows.shape[1]) < self._width[draws.stream][:, None, None])
        at_BC = np.where(there_BC, (start_B + draws.now)[:, None] + steps_C, 0)
        return torch.from_numpy(np.where(mask_BCA, rows[at_BC], np.float32(0))), torch.from_numpy(mask_BCA)
