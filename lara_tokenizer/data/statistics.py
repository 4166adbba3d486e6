"""Per-dataset action statistics, which bring the units and ranges of different robots to one scale."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from lara_tokenizer.data.episode import Episode
from lara_tokenizer.errors import LaraTokenizerError

logger = logging.getLogger(__name__)

# A dimension with a smaller standard deviation counts as constant. Its std is set to 1: dividing by almost zero would
# blow rounding noise up to the size of real motion.
SMALLEST_STD = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class ActionStatistics:
    """Mean, standard deviation, range and quantiles of actions of width A, each float64 (A,).

    >>> statistics = ActionStatistics.of(np.array([[0.0, 5.0], [2.0, 5.0]]))
    >>> statistics.standardise(np.array([[2.0, 5.0]])).tolist()
    [[1.0, 0.0]]
    """

    mean: np.ndarray
    std: np.ndarray  # divides by `count`; 1 for a dimension that never changes (below 1e-6)
    min: np.ndarray
    max: np.ndarray
    q01: np.ndarray  # 1 % quantile
    q99: np.ndarray  # 99 % quantile
    count: int  # number of actions

    @classmethod
    def of(cls, actions: np.ndarray) -> ActionStatistics:
        """Statistics of actions (n, A), in float64. Raises ValueError for n = 0, NaN and infinity."""
        actions = np.asarray(actions, np.float64)
        if actions.ndim != 2 or not len(actions):
            raise ValueError(f"actions of shape {actions.shape}: takes (n, A), with n at least 1.")
        if not np.isfinite(actions).all():
            raise ValueError(f"{np.count_nonzero(~np.isfinite(actions))} numbers of the actions are NaN or infinite.")
        std = actions.std(0)
        q01, q99 = np.quantile(actions, [0.01, 0.99], axis=0)
        return cls(
            mean=actions.mean(0),
            std=np.where(std < SMALLEST_STD, 1.0, std),
            min=actions.min(0),
            max=actions.max(0),
            q01=q01,
            q99=q99,
            count=len(actions),
        )

    def standardise(self, actions: np.ndarray) -> np.ndarray:
        """(x - mean) / std, float64 (..., A)."""
        return (np.asarray(actions, np.float64) - self.mean) / self.std

    def restore(self, standardised: np.ndarray) -> np.ndarray:
        """The inverse of `standardise`, float64 (..., A)."""
        return np.asarray(standardised, np.float64) * self.std + self.mean

    def to_dict(self) -> dict[str, Any]:
        """JSON-serializable values, from which `from_dict` restores the same statistics."""
        return {"count": self.count} | {
            entry.name: getattr(self, entry.name).tolist() for entry in fields(self) if entry.name != "count"
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ActionStatistics:
        """The inverse of `to_dict`."""
        arrays = {name: np.asarray(value, np.float64) for name, value in values.items() if name != "count"}
        return cls(**arrays, count=int(values["count"]))


def action_statistics(episodes: Iterable[Episode]) -> dict[str, ActionStatistics]:
    """Statistics by dataset name, over all actions of its episodes; datasets without actions are omitted.

    Raises ValueError where actions of one dataset differ in width or are not finite.

    >>> action_statistics(load_episodes("lerobot:lerobot/pusht"))["pusht"].mean.shape  # doctest: +SKIP
    (2,)
    """
    return {dataset: statistics_of(dataset, rows) for dataset, rows in read_actions(episodes).items()}


def read_actions(episodes: Iterable[Episode]) -> dict[str, dict[str, np.ndarray]]:
    """Actions, float32 (n, A), by dataset name and episode id, for the episodes that have any.

    An episode whose actions cannot be read is logged and omitted. Raises ValueError where actions of one dataset differ
    in width.
    """
    actions_of: dict[str, dict[str, np.ndarray]] = {}
    for episode in episodes:
        try:
            actions = episode.signals().actions
        except (LaraTokenizerError, OSError) as error:
            logger.warning("actions left out: %s", error)
            continue
        finally:
            episode.close()
        if actions is None or not len(actions):
            continue
        rows = actions_of.setdefault(episode.dataset, {})
        first = next(iter(rows), None)
        if first is not None and rows[first].shape[1] != actions.shape[1]:
            raise ValueError(
                f"dataset {episode.dataset!r}: {episode.id!r} has actions of {actions.shape[1]} numbers, {first!r} of "
                f"{rows[first].shape[1]}. A dataset has one width; give these episodes different `dataset` names."
            )
        rows[episode.id] = np.asarray(actions, np.float32)
    return actions_of


def statistics_of(dataset: str, rows: Mapping[str, np.ndarray]) -> ActionStatistics:
    """Statistics of a dataset from actions (n, A) by episode id. Raises ValueError, naming the dataset."""
    try:
        return ActionStatistics.of(np.concatenate(list(rows.values())))
    except ValueError as error:
        raise ValueError(f"dataset {dataset!r}: {error}") from None
