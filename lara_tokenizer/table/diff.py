"""`diff_tokens`: differences between two token tables, e.g. before and after joint training (`lara-tok tokens diff`).

Shape suffixes: P pairs, N latent tokens.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lara_tokenizer.table.metadata import differences, read_metadata
from lara_tokenizer.table.parquet import table_schema, token_files
from lara_tokenizer.table.reader import check_codes, matched_sequences, matrix
from lara_tokenizer.table.schema import KEY

_COLUMNS = (*KEY, "future_frame_index", "valid", "codes", "latents")
_SIZES = ("num_latents", "codebook_size", "codebook_dim")
_IDENTITY = ("weights_sha256", "config_sha256", "processor_sha256")
_ROW_COUNTS = ("both", "only_a", "only_b", "validity_changed", "other_future", "pairs")
# Settings that may change codes, besides the model and the video. "versions" is left out: it differs between any two
# machines.
_SETTINGS = ("strides", "every", "columns", "keep_tail", "min_motion", "batch_size", "dtype", "device", "load")
_REPORTED_MOVES = 10
# Moves are sorted and counted once this many are pending; a pending move takes 8 bytes.
_PENDING_MOVES = 1_000_000


@dataclass(frozen=True, slots=True)
class TokensDiff:
    """Differences between table a and table b. Rows are matched by episode, camera, stride and frame.

    Attributes:
        a, b: path, model (id), revision and weights_sha256 of each table.
        same_model: weights, config and processor are the same.
        made_differently: one line per setting in which the tables differ, with both values.
        rows: "both", "only_a" and "only_b".
        validity_changed: matched rows that are valid in one table only.
        other_future: matched rows, valid in both, whose pair has another future frame in b (e.g. after a corrected
            frame rate); they are not compared.
        codes: "pairs" compared, "pairs_changed" with any code changed, "codes_changed" of all single codes, shares of
            both, and "position_shares" of each of the N codes. None for a continuous bottleneck.
        latents: "pairs", "pairs_changed", mean "cosine" of z before and after, "relative_l2" = |b - a| / |a| over all;
            None if one of the tables has none.
        by_stride, by_episode: the same counts by stride, and by episode. Episodes with the largest share of changed
            codes come first, then those with rows in one table only.
        moves: the most frequent code changes: "position", "before", "after", "count".
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
        """Same rows with the same validity, codes and, if both have them, latents."""
        changed = [part["pairs_changed"] for part in (self.codes, self.latents) if part is not None]
        return not any((self.rows["only_a"], self.rows["only_b"], self.validity_changed, self.other_future, *changed))

    def to_dict(self) -> dict[str, Any]:
        """The fields and `is_equal` as JSON-native values."""
        return {**asdict(self), "is_equal": self.is_equal}


def diff_tokens(a: str | os.PathLike[str], b: str | os.PathLike[str]) -> TokensDiff:
    """Compare two tables row by row, in memory that does not grow with their length.

    Args:
        a, b: tables, files or folders, of models with the same number and size of codes and latents.

    Raises:
        ValueError: not token tables, not sorted, or of models whose codes cannot be compared.

    >>> diff_tokens("before.parquet", "after.parquet").codes["codes_changed_share"]  # doctest: +SKIP
    0.183
    """
    paths = Path(a), Path(b)
    metadata = read_metadata(paths[0]), read_metadata(paths[1])
    _check_comparable(paths, metadata)
    shared = set.intersection(*(set(table_schema(token_files(path)[0]).names) for path in paths))
    sums = _Sums(metadata[0]["model"], has_codes="codes" in shared, has_latents="latents" in shared)
    for (episode, _, stride), rows in matched_sequences(paths, [name for name in _COLUMNS if name in shared]):
        for index, table in rows.items():
            if (codes := matrix(table.filter(table["valid"]), "codes")) is not None:
                check_codes(codes, metadata[index]["model"]["codebook_size"], episode, paths[index])
        sums.add(episode, stride, rows.get(0), rows.get(1))
    identities = [{name: each["model"][name] for name in _IDENTITY} for each in metadata]
    settings = [{name: each.get(name) for name in _SETTINGS} for each in metadata]
    return TokensDiff(
        a=_table_identity(paths[0], metadata[0]["model"]),
        b=_table_identity(paths[1], metadata[1]["model"]),
        same_model=identities[0] == identities[1],
        made_differently=differences(settings[0], settings[1]),
        **sums.report(),
    )


class CodeMoves:
    """Counts of (position, code before, code after) of the codes that changed.

    >>> moves = CodeMoves(codebook_size=16)
    >>> moves.add(np.array([[3, 1], [3, 2]]), np.array([[5, 1], [5, 2]]))
    >>> moves.most_common(1)
    [{'position': 0, 'before': 3, 'after': 5, 'count': 2}]
    """

    def __init__(self, codebook_size: int) -> None:
        self._size = codebook_size
        self._moves = np.empty(0, np.int64)
        self._counts = np.empty(0, np.int64)
        self._pending: list[np.ndarray] = []
        self._num_pending = 0

    def add(self, before: np.ndarray, after: np.ndarray) -> None:
        """Codes (P, N) of the same pairs."""
        pairs, positions = np.nonzero(before != after)
        # A move as one integer: position, before and after are its digits in base K.
        moves = (positions * self._size + before[pairs, positions]) * self._size + after[pairs, positions]
        self._pending.append(moves)
        self._num_pending += len(moves)
        if self._num_pending > _PENDING_MOVES:
            self._count()

    def most_common(self, count: int) -> list[dict[str, int]]:
        """The most frequent moves, most frequent first; ties by position and codes."""
        self._count()
        first = np.lexsort((self._moves, -self._counts))[:count]
        return [
            {
                "position": move // self._size**2,
                "before": move // self._size % self._size,
                "after": move % self._size,
                "count": occurrences,
            }
            for move, occurrences in zip(self._moves[first].tolist(), self._counts[first].tolist(), strict=True)
        ]

    def _count(self) -> None:
        moves = np.concatenate([self._moves, *self._pending])
        counts = np.concatenate([self._counts, np.ones(self._num_pending, np.int64)])
        self._moves, inverse = np.unique(moves, return_inverse=True)
        self._counts = np.bincount(inverse.reshape(-1), counts, len(self._moves)).astype(np.int64)
        self._pending = []
        self._num_pending = 0


class _Sums:
    """Counts in total, by stride and by episode. A `Counter` here has the keys of `_ROW_COUNTS` and those of pairs."""

    def __init__(self, model: dict[str, Any], *, has_codes: bool, has_latents: bool) -> None:
        self._num_latents = model["num_latents"]
        self._has_codes = has_codes
        self._has_latents = has_latents
        self._total: Counter[str] = Counter()
        self._by_stride: dict[str, Counter[str]] = defaultdict(Counter)
        self._by_episode: dict[str, Counter[str]] = defaultdict(Counter)
        self._changed_by_position = np.zeros(self._num_latents, np.int64)
        self._moves = CodeMoves(model["codebook_size"] or 1)
        self._cosine = 0.0
        self._squared_change = 0.0
        self._squared_length = 0.0

    def add(self, episode: str, stride: str, rows_a: pa.Table | None, rows_b: pa.Table | None) -> None:
        """Compare a sequence; None if a table does not have it."""
        counts: Counter[str] = Counter()
        if rows_a is None or rows_b is None:
            counts["only_a"] = 0 if rows_a is None else rows_a.num_rows
            counts["only_b"] = 0 if rows_b is None else rows_b.num_rows
        else:
            self._compare_rows(rows_a, rows_b, counts)
        for sums in (self._total, self._by_stride[stride], self._by_episode[episode]):
            sums.update(counts)

    def _compare_rows(self, rows_a: pa.Table, rows_b: pa.Table, counts: Counter[str]) -> None:
        # Frames are unique within a sequence, `matched_sequences` has checked it.
        _, indices_a, indices_b = np.intersect1d(
            rows_a["frame_index"].to_numpy(), rows_b["frame_index"].to_numpy(), assume_unique=True, return_indices=True
        )
        counts["both"] = both = len(indices_a)
        counts["only_a"] = rows_a.num_rows - both
        counts["only_b"] = rows_b.num_rows - both
        rows_a, rows_b = rows_a.take(indices_a), rows_b.take(indices_b)
        valid_a, valid_b = rows_a["valid"].to_numpy(), rows_b["valid"].to_numpy()
        counts["validity_changed"] = int((valid_a != valid_b).sum())
        same_future = pc.equal(rows_a["future_frame_index"], rows_b["future_frame_index"]).to_numpy()
        counts["other_future"] = int((valid_a & valid_b & ~same_future).sum())
        comparable = pa.array(valid_a & valid_b & same_future)
        self._compare_pairs(rows_a.filter(comparable), rows_b.filter(comparable), counts)

    def _compare_pairs(self, rows_a: pa.Table, rows_b: pa.Table, counts: Counter[str]) -> None:
        counts["pairs"] = rows_a.num_rows
        before, after = matrix(rows_a, "codes"), matrix(rows_b, "codes")
        if before is not None and after is not None:
            changed_PN = before != after
            counts["pairs_changed"] = int(changed_PN.any(1).sum())
            counts["codes_changed"] = int(changed_PN.sum())
            self._changed_by_position += changed_PN.sum(0)
            self._moves.add(before, after)
        z_a, z_b = matrix(rows_a, "latents"), matrix(rows_b, "latents")
        if z_a is not None and z_b is not None:
            counts["latents_changed"] = int((z_a != z_b).any(1).sum())
            # float32, summed in float64: in float16 a squared length overflows, and a sum over many rows is inexact.
            z_a, z_b = z_a.astype(np.float32), z_b.astype(np.float32)
            lengths = np.linalg.norm(z_a, axis=1) * np.linalg.norm(z_b, axis=1)
            self._cosine += float(((z_a * z_b).sum(1) / np.maximum(lengths, 1e-12)).sum(dtype=np.float64))
            self._squared_change += float(np.square(z_b - z_a).sum(dtype=np.float64))
            self._squared_length += float(np.square(z_a).sum(dtype=np.float64))

    def report(self) -> dict[str, Any]:
        """The fields of a `TokensDiff` that are counted."""
        total = self._total
        by_episode = {name: self._summary(counts) for name, counts in sorted(self._by_episode.items())}
        return {
            "rows": {name: total[name] for name in ("both", "only_a", "only_b")},
            "validity_changed": total["validity_changed"],
            "other_future": total["other_future"],
            "codes": self._codes() if self._has_codes else None,
            "latents": self._latents() if self._has_latents else None,
            "by_stride": {stride: self._summary(counts) for stride, counts in sorted(self._by_stride.items())},
            "by_episode": dict(sorted(by_episode.items(), key=lambda entry: _change(entry[1]), reverse=True)),
            "moves": self._moves.most_common(_REPORTED_MOVES),
        }

    def _summary(self, counts: Counter[str]) -> dict[str, Any]:
        summary: dict[str, Any] = {name: counts[name] for name in _ROW_COUNTS}
        if not self._has_codes:
            return {**summary, "pairs_changed": counts["latents_changed"]}
        summary |= {name: counts[name] for name in ("pairs_changed", "codes_changed")}
        return {**summary, "codes_changed_share": _share(counts["codes_changed"], counts["pairs"] * self._num_latents)}

    def _codes(self) -> dict[str, Any]:
        pairs, pairs_changed, changed = (self._total[name] for name in ("pairs", "pairs_changed", "codes_changed"))
        return {
            "pairs": pairs,
            "pairs_changed": pairs_changed,
            "pairs_changed_share": _share(pairs_changed, pairs),
            "codes_changed": changed,
            "codes_changed_share": _share(changed, pairs * self._num_latents),
            "position_shares": [_share(count, pairs) for count in self._changed_by_position.tolist()],
        }

    def _latents(self) -> dict[str, Any]:
        pairs = self._total["pairs"]
        return {
            "pairs": pairs,
            "pairs_changed": self._total["latents_changed"],
            "cosine": self._cosine / pairs if pairs else None,
            "relative_l2": (self._squared_change / self._squared_length) ** 0.5 if self._squared_length else None,
        }


def _check_comparable(paths: tuple[Path, Path], metadata: tuple[dict[str, Any], dict[str, Any]]) -> None:
    sizes = [tuple(each["model"][name] for name in _SIZES) for each in metadata]
    if sizes[0] != sizes[1]:
        contents = [
            f"{path} holds {'no codes' if size is None else f'codes of {size}'}, {count} per pair, of dimension {width}"
            for path, (count, size, width) in zip(paths, sizes, strict=True)
        ]
        raise ValueError(f"{'; '.join(contents)}: models that differ in these sizes cannot be compared")


def _table_identity(path: Path, model: dict[str, Any]) -> dict[str, Any]:
    return {
        "path": str(path),
        "model": model["id"],
        "revision": model["revision"],
        "weights_sha256": model["weights_sha256"],
    }


def _change(summary: dict[str, Any]) -> tuple[float, int]:
    """Sort key of episodes: share of changed codes, or pairs; then rows that are in one table only."""
    share = summary.get("codes_changed_share", _share(summary["pairs_changed"], summary["pairs"]))
    return share, summary["only_a"] + summary["only_b"] + summary["validity_changed"]


def _share(part: float, whole: float) -> float:
    """0 to 1; 0 if `whole` is 0."""
    return part / whole if whole else 0.0
