"""Reading a token table: whole, by row group, or as the sequences of one stride (`TokenTable`).

Shape suffixes: R rows of a sequence, N latent tokens, D codebook dimension.
"""

from __future__ import annotations

import heapq
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lara_tokenizer.table.metadata import read_metadata
from lara_tokenizer.table.parquet import iter_tables, table_schema, token_files
from lara_tokenizer.table.schema import SEQUENCE_KEY, to_numpy

# Columns that a `TokenSequence` is made of, besides those that the caller requests.
_BASE_COLUMNS = (
    "episode",
    "episode_index",
    "camera",
    "stride",
    "frame_index",
    "future_frame_index",
    "timestamp",
    "future_timestamp",
    "code_margin",
    "motion",
    "valid",
)


def read_tokens(tokens: str | Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read the whole table, or some of its columns. Raises ValueError if it is not a token table.

    >>> read_tokens("tokens.parquet", ["codes"]).num_rows  # doctest: +SKIP
    1204
    """
    read_metadata(tokens)
    schema = table_schema(token_files(tokens)[0])
    if unknown := [name for name in columns or () if name not in schema.names]:
        raise ValueError(f"{tokens} has no column {unknown[0]!r}. There are: {', '.join(schema.names)}.")
    # Without any row group the columns are there, too.
    empty = schema.empty_table().select(list(schema.names if columns is None else columns))
    return pa.concat_tables([empty, *iter_tables(tokens, columns)]).unify_dictionaries()


def iter_runs(
    tables: Iterable[pa.Table], names: Sequence[str], source: str | Path
) -> Iterator[tuple[tuple[str, ...], pa.Table]]:
    """Group rows by `names`: each run of equal rows as (values, rows), in the table's order.

    Args:
        tables: consecutive chunks of a table that is sorted by `names`, e.g. of `iter_tables`; a run may span several.
        names: text columns, the first of the table's key.
        source: the table, for the error.

    Raises ValueError for rows that are not in the table's order.
    """
    pending: list[pa.Table] = []
    before: tuple[str, ...] = ()
    for table in tables:
        for key, rows in _runs_of_table(table, names):
            if pending and key < before:
                raise ValueError(
                    f"{source} is not sorted by {', '.join(names)}: the file was modified after it was written."
                )
            # The last run of a table may continue in the next one, so it is only yielded when another key follows.
            if pending and key != before:
                yield before, combine(pending)
                pending = []
            pending.append(rows)
            before = key
    if pending:
        yield before, combine(pending)


def matched_sequences(
    paths: Sequence[Path], columns: Sequence[str]
) -> Iterator[tuple[tuple[str, ...], dict[int, pa.Table]]]:
    """Merge-join sorted tables by `SEQUENCE_KEY`: each sequence of any table as (key, {index of the table: its rows}).

    Memory does not grow with the length of the tables. `columns` contain the table's key.

    Raises ValueError for rows that are not in the table's order.
    """
    runs = heapq.merge(*(_indexed_runs(index, path, columns) for index, path in enumerate(paths)), key=itemgetter(0))
    for key, same in groupby(runs, key=itemgetter(0)):
        yield key, {index: rows for _, index, rows in same}


def _indexed_runs(index: int, path: Path, columns: Sequence[str]) -> Iterator[tuple[tuple[str, ...], int, pa.Table]]:
    for key, rows in iter_runs(iter_tables(path, columns), SEQUENCE_KEY, path):
        check_frames(rows, key[0], path)
        yield key, index, rows


def combine(tables: Sequence[pa.Table]) -> pa.Table:
    """Concatenate tables into a single chunk, with one dictionary per column."""
    return pa.concat_tables(tables).unify_dictionaries().combine_chunks()


def check_frames(run: pa.Table, episode: str, source: str | Path) -> None:
    """Raise ValueError if the frames of one episode, camera and stride do not increase."""
    if not (np.diff(run["frame_index"].to_numpy()) > 0).all():
        raise ValueError(
            f"{source}: rows of episode {episode!r} are unsorted or duplicated; the file was modified after it was "
            "written."
        )


def check_pairs(run: pa.Table, episode: str, source: str | Path) -> None:
    """Raise ValueError unless the later frames of valid pairs come after the earlier ones, and in the same order."""
    valid = run["valid"].to_numpy()
    frames, futures = (run[name].to_numpy()[valid] for name in ("frame_index", "future_frame_index"))
    if (futures <= frames).any() or (np.diff(futures) < 0).any():
        raise ValueError(
            f"{source}: pairs of episode {episode!r} run backward; the file was modified after it was written."
        )


def check_codes(codes: np.ndarray, codebook_size: int | None, episode: str, source: str | Path) -> None:
    """Raise ValueError for codes of valid rows that the model's codebook does not have."""
    if codes.size and (codebook_size is None or codes.min() < 0 or codes.max() >= codebook_size):
        of_model = f"0 to {codebook_size - 1}" if codebook_size else "none"
        raise ValueError(
            f"{source}: valid rows of episode {episode!r} hold codes from {codes.min()} to {codes.max()}, the "
            f"model's codebook has {of_model}: the table was edited. Encode again."
        )


def matrix(table: pa.Table, name: str) -> np.ndarray | None:
    """A column of fixed-size lists as an array (rows, length); None if the table has no such column."""
    if name not in table.column_names:
        return None
    values = to_numpy(table[name].combine_chunks().flatten())
    return values.reshape(-1, table.schema.field(name).type.list_size)


class SelectOptions(TypedDict, total=False):
    """The keywords of `TokenTable.open`, for functions that pass them on."""

    stride: str | None
    cameras: str | Sequence[str]
    min_margin: float
    min_motion: float


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """The rows of one episode, camera and stride, in the order of frames; R may be less than the number of frames.

    Attributes:
        frames, futures: int32 (R,), frame indices within the episode; `futures` is -1 where the row is invalid.
        timestamps, future_timestamps: float64 (R,), seconds; `future_timestamps` is NaN where the row is invalid.
        codes: int16 (R, N), -1 where invalid; None for a continuous bottleneck, or if not requested.
        latents: float16 (R, N * D), z before quantization; None if the table has none, or if not requested.
        margins, motions: float32 (R,), `code_margin` and `motion`; NaN where missing.
        selected: bool (R,), mask of the pairs to train on: valid, and above the given thresholds.
        texts: R instructions, each may be None; None if the table has no such column, or if not requested.
    """

    episode: str
    episode_index: int | None
    camera: str
    frames: np.ndarray
    futures: np.ndarray
    timestamps: np.ndarray
    future_timestamps: np.ndarray
    codes: np.ndarray | None
    latents: np.ndarray | None
    margins: np.ndarray
    motions: np.ndarray
    selected: np.ndarray
    texts: list[str | None] | None


@dataclass(slots=True)
class TokenTable:
    """A token table opened for reading one stride of some cameras, with thresholds for the pairs to train on.

    Attributes:
        path, metadata: the table and its metadata.
        stride: the stride, spelled as in the table.
        cameras: in the table's order.
        min_margin, min_motion: pairs below are not selected.
        columns: names of the table's columns.
        episodes: ids of those that `sequences` reads; None for all.
        left_out: for each reason, the number of rows that are not selected; filled by `sequences`.
    """

    path: Path
    metadata: dict[str, Any]
    stride: str
    cameras: tuple[str, ...]
    min_margin: float
    min_motion: float
    columns: tuple[str, ...]
    episodes: frozenset[str] | None = None
    left_out: Counter[str] = field(default_factory=Counter)

    @classmethod
    def open(
        cls,
        tokens: str | os.PathLike[str],
        *,
        stride: str | None = None,
        cameras: str | Sequence[str] = (),
        min_margin: float = 0.0,
        min_motion: float = 0.0,
    ) -> TokenTable:
        """Open a table and check the selection.

        Args:
            tokens: the table, file or folder.
            stride: one of the table's strides; may be omitted if there is only one.
            cameras: some of the table's cameras, by name or its last part, or "all"; may be omitted where there
                is only one.
            min_margin: leave out pairs whose `code_margin` is smaller.
            min_motion: leave out pairs whose pixels change by less on average, 0 to 1 (the column `motion`).

        Raises:
            ValueError: not a token table; a stride or camera that it does not have, or that must be chosen.

        >>> TokenTable.open("tokens.parquet").stride  # doctest: +SKIP
        '0.6s'
        """
        path = Path(tokens)
        metadata = read_metadata(path)
        columns = tuple(table_schema(token_files(path)[0]).names)
        if not 0 <= min_motion < 1:
            raise ValueError(f"min_motion {min_motion}: takes a mean change of the pixels, 0 (keep all) to 1")
        if not min_margin >= 0:  # written so that nan is refused too
            raise ValueError(f"min_margin {min_margin}: takes a squared distance, 0 (keep all) or more")
        if min_margin and "codes" not in columns:
            raise ValueError(f"min_margin {min_margin}: {path} was made by a continuous bottleneck, it has no margins")
        return cls(
            path=path,
            metadata=metadata,
            stride=_choose_stride(path, metadata["strides"], stride),
            cameras=_choose_cameras(path, cameras),
            min_margin=float(min_margin),
            min_motion=float(min_motion),
            columns=columns,
        )

    @property
    def num_latents(self) -> int:
        """N."""
        return self.metadata["model"]["num_latents"]

    @property
    def codebook_dim(self) -> int:
        """D."""
        return self.metadata["model"]["codebook_dim"]

    @property
    def codebook_size(self) -> int | None:
        """K; None for a continuous bottleneck."""
        return self.metadata["model"]["codebook_size"]

    def require(self, column: str, used_for: str) -> None:
        """Raise ValueError, with what to do, if the table has no `column`."""
        if column in self.columns:
            return
        if column == "codes":
            hint = "Take a format for continuous latents (lerobot, groot, webdataset), or a model with a codebook"
        else:
            hint = f"Encode again with --with {column}"
        raise ValueError(f"{self.path} has no column {column!r}, needed for {used_for}. {hint}.")

    def sequences(self, *columns: str) -> Iterator[TokenSequence]:
        """Iterate over the episodes and cameras of the selection, in the table's order.

        Args:
            columns: "codes", "latents" or "text", to be read too; those that the table does not have are None.

        Raises:
            ValueError: codes outside 0 .. K - 1 or a future frame that is none in a valid row, or rows that are not in
                the table's order.
        """
        # Each pass counts anew.
        self.left_out.clear()
        read = [name for name in self.columns if name in (*_BASE_COLUMNS, *columns)]
        tables = map(self._select_rows, iter_tables(self.path, read))
        for key, rows in iter_runs(tables, ("episode", "camera"), self.path):
            yield self._sequence(key, rows)

    def _select_rows(self, table: pa.Table) -> pa.Table:
        of_stride = pc.equal(table["stride"].cast(pa.string()), self.stride)
        of_camera = pc.is_in(table["camera"].cast(pa.string()), value_set=pa.array(self.cameras, pa.string()))
        rows = table.filter(pc.and_(of_stride, of_camera))
        if self.episodes is None:
            return rows
        names = pa.array(sorted(self.episodes), pa.string())
        return rows.filter(pc.is_in(rows["episode"].cast(pa.string()), value_set=names))

    def _sequence(self, key: tuple[str, ...], table: pa.Table) -> TokenSequence:
        codes = matrix(table, "codes")
        valid = table["valid"].to_numpy()
        if codes is not None:
            check_codes(codes[valid], self.codebook_size, key[0], self.path)
        check_frames(table, key[0], self.path)
        check_pairs(table, key[0], self.path)
        return TokenSequence(
            episode=key[0],
            episode_index=table["episode_index"][0].as_py(),
            camera=key[1],
            frames=table["frame_index"].to_numpy(),
            futures=table["future_frame_index"].to_numpy(),
            timestamps=table["timestamp"].to_numpy(),
            future_timestamps=table["future_timestamp"].to_numpy(),
            codes=codes,
            latents=matrix(table, "latents"),
            margins=table["code_margin"].to_numpy(),
            motions=table["motion"].to_numpy(),
            selected=self._selection_mask(table, valid),
            texts=table["text"].to_pylist() if "text" in table.column_names else None,
        )

    def _selection_mask(self, table: pa.Table, valid: np.ndarray) -> np.ndarray:
        reasons = {"invalid: the future frame lies past the end": ~valid}
        # `~(x >= limit)`, not `x < limit`: a missing value (NaN) is below every limit.
        if self.min_margin:
            reasons[f"code_margin below {self.min_margin:g}"] = ~(table["code_margin"].to_numpy() >= self.min_margin)
        if self.min_motion:
            reasons[f"motion below {self.min_motion:g}"] = ~(table["motion"].to_numpy() >= self.min_motion)
        selected = np.ones(len(valid), bool)
        for reason, applies in reasons.items():
            self.left_out[reason] += int((selected & applies).sum())
            selected &= ~applies
        return selected


def _runs_of_table(table: pa.Table, names: Sequence[str]) -> Iterator[tuple[tuple[str, ...], pa.Table]]:
    if not table.num_rows:
        return
    # Chunks have dictionaries of their own: only when unified do equal indices mean equal names.
    table = table.unify_dictionaries().combine_chunks()
    columns = [_as_dictionary(table, name) for name in names]
    changes = np.zeros(table.num_rows - 1, bool)
    for column in columns:
        changes |= np.diff(column.indices.to_numpy()) != 0
    for start, stop in pairwise([0, *(np.flatnonzero(changes) + 1).tolist(), table.num_rows]):
        yield tuple(column[start].as_py() for column in columns), table.slice(start, stop - start)


def _as_dictionary(table: pa.Table, name: str) -> pa.DictionaryArray:
    column = table[name].combine_chunks()
    return column if isinstance(column, pa.DictionaryArray) else column.dictionary_encode()


def _choose_stride(path: Path, available: Sequence[str], requested: str | None) -> str:
    if requested is None and len(available) == 1:
        return available[0]
    if requested is None:
        raise ValueError(f"{path} holds strides {', '.join(available)}: one export has one. Choose with --stride.")
    if requested not in available:
        raise ValueError(
            f"stride {requested!r}: {path} holds {', '.join(available)}. Choose one, or encode with --stride."
        )
    return requested


def _choose_cameras(path: Path, requested: str | Sequence[str]) -> tuple[str, ...]:
    # A dictionary column alone: this reads a few bytes per row group.
    names: set[str] = set()
    for table in iter_tables(path, ["camera"]):
        names |= set(table["camera"].unique().to_pylist())
    available = sorted(names)
    if not available:
        raise ValueError(f"{path} has no rows: there is nothing to export.")
    chosen = [requested] if isinstance(requested, str) else list(requested)
    if chosen == ["all"] or (not chosen and len(available) < 2):
        return tuple(available)
    if not chosen:
        raise ValueError(
            f"{path} holds cameras {', '.join(available)}. Choose with --camera, or take all of them: all."
        )
    # By its name, or by the name's last part as in `load_episodes`.
    found = {name: [each for each in available if name in (each, each.rpartition(".")[2])] for name in chosen}
    if unknown := [name for name, matches in found.items() if len(matches) != 1 and name not in available]:
        raise ValueError(f"camera {unknown[0]!r}: {path} holds {', '.join(map(repr, available))}.")
    whole = {name if name in available else matches[0] for name, matches in found.items()}
    return tuple(name for name in available if name in whole)
