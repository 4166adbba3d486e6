"""What differs between two tables of tokens, say before and after a refinement (`lara-tok tokens diff`). No torch.

Shape suffixes: P pairs, N latent tokens.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lara_tokenizer.table.metadata import differences, read_metadata, token_files
from lara_tokenizer.table.reader import check_frames, iter_runs, iter_tables, matrix
from lara_tokenizer.table.schema import KEY

_TRACK = KEY[:3]
_READ = (*KEY, "future_frame_index", "valid", "codes", "latents")
_SIZES = ("num_latents", "codebook_size", "codebook_dim")
_IDENTITY = ("weights_sha256", "config_sha256", "processor_sha256")
_OF_ROWS = ("both", "only_a", "only_b", "validity_changed", "other_future", "pairs")
# What may decide the codes beside the model and the video. "versions" differ between any two machines.
_SETTINGS = ("strides", "every", "columns", "keep_tail", "min_motion", "batch_size", "dtype", "device", "load")
_COMMONEST_MOVES = 10


@dataclass(frozen=True, slots=True)
class TokensDiff:
    """What differs. Rows belong together when episode, camera, stride and frame are the same.

    Fields:
        a, b: of each table: path, model (id), revision, weights_sha256.
        same_model: weights, config and processor are the same.
        made_differently: the settings that the tables were not made with alike, a line each, with both values.
        rows: "both", "only_a" and "only_b".
        validity_changed: rows of both that are valid in one of them.
        other_future: rows valid in both, whose pair has another later frame in b (as after a corrected rate); they are
            not compared.
        codes: "pairs" compared, "pairs_changed" with any code changed, "codes_changed" of all single codes, both as
            "share", "position_shares" of each of the N codes. None for a continuous bottleneck.
        latents: "pairs", "pairs_changed", mean "cosine" of z before and after, "relative_l2" = |b - a| / |a| over all;
            None where one of the tables has none.
        by_stride, by_episode: the same counts by stride, and by episode; episodes with the largest share of changed
            codes come first, then those with rows in one table only.
        moves: the codes that changed most often: "position", "before", "after", "count".
    """

    a: dict[str, Any]
    b: dict[str, Any]
    same_model: bool
    made_differently: list[str]
    rows: dict[str, int]
    validity_changed: int
    other_future: int
    codes: dict[str, Any] | None
    latents: dict[str, Any] | None
    by_stride: dict[str, dict[str, Any]]
    by_episode: dict[str, dict[str, Any]]
    moves: list[dict[str, int]]

    @property
    def is_equal(self) -> bool:
        """The same rows with the same validity, codes and, where both have them, latents."""
        moved = [part["pairs_changed"] for part in (self.codes, self.latents) if part is not None]
        return not any((self.rows["only_a"], self.rows["only_b"], self.validity_changed, self.other_future, *moved))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {**asdict(self), "is_equal": self.is_equal}


def diff_tokens(a: str | os.PathLike[str], b: str | os.PathLike[str]) -> TokensDiff:
    """Compare two tables row by row; memory does not grow with their length.

    Args:
        a, b: tables, files or folders; of models with the same number and size of codes and latents.

    Raises:
        ValueError: not tables of tokens, not sorted, or what they hold cannot be compared.

    >>> diff_tokens("before.parquet", "after.parquet").codes["codes_changed_share"]  # doctest: +SKIP
    0.183
    """
    paths = Path(a), Path(b)
    said = [read_metadata(path) for path in paths]
    _check_comparable(paths, said)
    columns = set.intersection(*(set(pq.read_schema(token_files(path)[0]).names) for path in paths))
    read = [name for name in _READ if name in columns]
    num_latents, codebook_size = said[0]["model"]["num_latents"], said[0]["model"]["codebook_size"]
    sums = _Sums("codes" in columns, "latents" in columns, num_latents, codebook_size)
    for (episode, _, stride), rows_a, rows_b in _joined(paths, read):
        for path, rows in zip(paths, (rows_a, rows_b), strict=True):
            if rows is not None:
                check_frames(rows, episode, path)
        sums.add(episode, stride, _compare(rows_a, rows_b))
    return sums.report([_told(path, metadata["model"]) for path, metadata in zip(paths, said, strict=True)], said)


@dataclass(slots=True)
class _Counts:
    """Sums over rows; of `codes_changed` a sum for each position (N,)."""

    both: int = 0
    only_a: int = 0
    only_b: int = 0
    validity_changed: int = 0
    other_future: int = 0
    pairs: int = 0
    pairs_changed: int = 0
    codes_changed: np.ndarray | int = 0
    latents_changed: int = 0
    cosine: float = 0.0
    squared_move: float = 0.0
    squared_length: float = 0.0

    def add(self, other: _Counts) -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def summary(self, has_codes: bool, num_latents: int) -> dict[str, Any]:
        """As plain JSON, for a stride or an episode."""
        counts = {name: getattr(self, name) for name in _OF_ROWS}
        if not has_codes:
            return {**counts, "pairs_changed": self.latents_changed}
        changed = int(np.sum(self.codes_changed))
        return {
            **counts,
            "pairs_changed": self.pairs_changed,
            "codes_changed": changed,
            "codes_changed_share": _share(changed, self.pairs * num_latents),
        }


@dataclass(slots=True)
class _Compared:
    """A track in both tables: its counts, and codes int16 (P, N) before and after of the pairs that were compared."""

    counts: _Counts
    before: np.ndarray | None = None
    after: np.ndarray | None = None


class _Sums:
    """All that is counted, in all, by stride and by episode."""

    def __init__(self, has_codes: bool, has_latents: bool, num_latents: int, codebook_size: int | None) -> None:
        self._has_codes, self._has_latents, self._num_latents = has_codes, has_latents, num_latents
        self._total = _Counts()
        self._by_stride: dict[str, _Counts] = {}
        self._by_episode: dict[str, _Counts] = {}
        self._moves = CodeMoves(codebook_size or 1)

    def add(self, episode: str, stride: str, compared: _Compared) -> None:
        self._total.add(compared.counts)
        self._by_stride.setdefault(stride, _Counts()).add(compared.counts)
        self._by_episode.setdefault(episode, _Counts()).add(compared.counts)
        if compared.before is not None and compared.after is not None:
            self._moves.add(compared.before, compared.after)

    def report(self, told: list[dict[str, Any]], said: list[dict[str, Any]]) -> TokensDiff:
        total = self._total
        by_episode = {name: self._summary(counts) for name, counts in sorted(self._by_episode.items())}
        models = [{name: said_by["model"][name] for name in _IDENTITY} for said_by in said]
        return TokensDiff(
            a=told[0],
            b=told[1],
            same_model=models[0] == models[1],
            made_differently=differences(_settings(said[0]), _settings(said[1])),
            rows={"both": total.both, "only_a": total.only_a, "only_b": total.only_b},
            validity_changed=total.validity_changed,
            other_future=total.other_future,
            codes=self._codes() if self._has_codes else None,
            latents=self._latents() if self._has_latents else None,
            by_stride={stride: self._summary(counts) for stride, counts in sorted(self._by_stride.items())},
            by_episode=dict(sorted(by_episode.items(), key=lambda entry: _how_much(entry[1]), reverse=True)),
            moves=self._moves.commonest(_COMMONEST_MOVES),
        )

    def _summary(self, counts: _Counts) -> dict[str, Any]:
        return counts.summary(self._has_codes, self._num_latents)

    def _codes(self) -> dict[str, Any]:
        total = self._total
        by_position = np.broadcast_to(total.codes_changed, self._num_latents)
        changed = int(by_position.sum())
        return {
            "pairs": total.pairs,
            "pairs_changed": total.pairs_changed,
            "pairs_changed_share": _share(total.pairs_changed, total.pairs),
            "codes_changed": changed,
            "codes_changed_share": _share(changed, total.pairs * self._num_latents),
            "position_shares": [_share(count, total.pairs) for count in by_position.tolist()],
        }

    def _latents(self) -> dict[str, Any]:
        total = self._total
        return {
            "pairs": total.pairs,
            "pairs_changed": total.latents_changed,
            "cosine": total.cosine / total.pairs if total.pairs else None,
            "relative_l2": (total.squared_move / total.squared_length) ** 0.5 if total.squared_length else None,
        }


def _check_comparable(paths: tuple[Path, Path], said: list[dict[str, Any]]) -> None:
    sizes = [tuple(metadata["model"][name] for name in _SIZES) for metadata in said]
    if sizes[0] != sizes[1]:
        told = [
            f"{path} holds {'no codes' if size is None else f'codes of {size}'}, {count} a pair, of dimension {width}"
            for path, (count, size, width) in zip(paths, sizes, strict=True)
        ]
        raise ValueError(f"{'; '.join(told)}: of models that differ in these sizes nothing can be compared")


def _joined(
    paths: tuple[Path, Path], read: list[str]
) -> Iterator[tuple[tuple[str, ...], pa.Table | None, pa.Table | None]]:
    """The tracks of both tables in their order; None where one of them does not have it."""
    runs_a, runs_b = (iter_runs(iter_tables(path, read), _TRACK, path) for path in paths)
    run_a, run_b = next(runs_a, None), next(runs_b, None)
    while run_a is not None or run_b is not None:
        if run_b is None or (run_a is not None and run_a[0] < run_b[0]):
            assert run_a is not None
            yield run_a[0], run_a[1], None
            run_a = next(runs_a, None)
        elif run_a is None or run_b[0] < run_a[0]:
            yield run_b[0], None, run_b[1]
            run_b = next(runs_b, None)
        else:
            yield run_a[0], run_a[1], run_b[1]
            run_a, run_b = next(runs_a, None), next(runs_b, None)


def _compare(rows_a: pa.Table | None, rows_b: pa.Table | None) -> _Compared:
    if rows_a is None or rows_b is None:
        return _Compared(_Counts(only_a=_length(rows_a), only_b=_length(rows_b)))
    _, places_a, places_b = np.intersect1d(
        rows_a["frame_index"].to_numpy(), rows_b["frame_index"].to_numpy(), assume_unique=True, return_indices=True
    )
    counts = _Counts(both=len(places_a), only_a=_length(rows_a) - len(places_a), only_b=_length(rows_b) - len(places_b))
    rows_a, rows_b = rows_a.take(places_a), rows_b.take(places_b)
    valid_a, valid_b = rows_a["valid"].to_numpy(), rows_b["valid"].to_numpy()
    counts.validity_changed = int((valid_a != valid_b).sum())
    same_future = pc.equal(rows_a["future_frame_index"], rows_b["future_frame_index"]).to_numpy()
    counts.other_future = int((valid_a & valid_b & ~same_future).sum())
    compared = pa.array(valid_a & valid_b & same_future)
    return _compare_pairs(rows_a.filter(compared), rows_b.filter(compared), counts)


def _compare_pairs(rows_a: pa.Table, rows_b: pa.Table, counts: _Counts) -> _Compared:
    """Fill `counts` with what differs between the same pairs."""
    counts.pairs = rows_a.num_rows
    before, after = matrix(rows_a, "codes"), matrix(rows_b, "codes")
    if before is not None and after is not None:
        changed_PN = before != after
        counts.pairs_changed = int(changed_PN.any(1).sum())
        counts.codes_changed = changed_PN.sum(0)
    z_a, z_b = matrix(rows_a, "latents"), matrix(rows_b, "latents")
    if z_a is not None and z_b is not None:
        counts.latents_changed = int((z_a != z_b).any(1).sum())
        z_a, z_b = z_a.astype(np.float32), z_b.astype(np.float32)
        lengths = np.linalg.norm(z_a, axis=1) * np.linalg.norm(z_b, axis=1)
        counts.cosine = float(((z_a * z_b).sum(1) / np.maximum(lengths, 1e-12)).sum(dtype=np.float64))
        counts.squared_move = float(np.square(z_b - z_a).sum(dtype=np.float64))
        counts.squared_length = float(np.square(z_a).sum(dtype=np.float64))
    return _Compared(counts, before, after)


def _told(path: Path, model: dict[str, Any]) -> dict[str, Any]:
    return {
        "path": str(path),
        "model": model["id"],
        "revision": model["revision"],
        "weights_sha256": model["weights_sha256"],
    }


def _settings(metadata: dict[str, Any]) -> dict[str, Any]:
    return {name: metadata.get(name) for name in _SETTINGS}


def _how_much(summary: dict[str, Any]) -> tuple[float, int]:
    """By what episodes are ordered: share of changed codes, or pairs; then rows that are in one table only."""
    share = summary.get("codes_changed_share", _share(summary["pairs_changed"], summary["pairs"]))
    return share, summary["only_a"] + summary["only_b"] + summary["validity_changed"]


def _length(rows: pa.Table | None) -> int:
    return 0 if rows is None else rows.num_rows


def _share(part: float, whole: float) -> float:
    """0 to 1; 0 of nothing."""
    return part / whole if whole else 0.0


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
