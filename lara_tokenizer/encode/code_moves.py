"""Which codes became which, counted over two versions of the same pairs."""

from __future__ import annotations

import numpy as np

# Moves are sorted and counted when so many wait: a move takes 8 bytes until then.
_WAITING = 1_000_000


class CodeMoves:
    """Counts (position, code before, code after) where they differ. Memory: the different moves, and those that wait.

    >>> moves = CodeMoves(codebook_size=16)
    >>> moves.add(np.array([[3, 1], [3, 2]]), np.array([[5, 1], [5, 2]]))
    >>> moves.commonest(1)
    [{'position': 0, 'before': 3, 'after': 5, 'count': 2}]
    """

    def __init__(self, codebook_size: int) -> None:
        self._size = codebook_size
        self._moves, self._counts = np.empty(0, np.int64), np.empty(0, np.int64)
        self._waiting: list[np.ndarray] = []
        self._num_waiting = 0

    def add(self, before: np.ndarray, after: np.ndarray) -> None:
        """Codes (P, N) of the same pairs."""
        pairs, positions = np.nonzero(before != after)
        # A move as one number: position, before and after are its digits in base K.
        moves = (positions * self._size + before[pairs, positions]) * self._size + after[pairs, positions]
        self._waiting.append(moves)
        self._num_waiting += len(moves)
        if self._num_waiting > _WAITING:
            self._count()

    def commonest(self, number: int) -> list[dict[str, int]]:
        """The most frequent moves, the most frequent first; of equals the one of the lower position and codes."""
        self._count()
        first = np.lexsort((self._moves, -self._counts))[:number]
        return [
            {
                "position": move // self._size**2,
                "before": move // self._size % self._size,
                "after": move % self._size,
                "count": count,
            }
            for move, count in zip(self._moves[first].tolist(), self._counts[first].tolist(), strict=True)
        ]

    def _count(self) -> None:
        moves = np.concatenate([self._moves, *self._waiting])
        counts = np.concatenate([self._counts, np.ones(self._num_waiting, np.int64)])
        self._moves, places = np.unique(moves, return_inverse=True)
        self._counts = np.bincount(places.reshape(-1), counts, len(self._moves)).astype(np.int64)
        self._waiting, self._num_waiting = [], 0
