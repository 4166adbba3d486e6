"""A table of tokens, opened for export: the rows that are wanted, an episode and camera at a time.

Shape suffixes: R rows of a track, N latent tokens, D codebook dimension.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lara_tokenizer.table.metadata import read_metadata, token_files

_ALWAYS = (
    "episode",
    "episode_index",
    "camera",
    "stride",
    "frame_index",
    "future_frame_index",
    "timestamp",
    "future_timestamp",
)
_JUDGED_BY = ("code_margin", "motion", "valid")


def read_tokens(tokens: str | Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The whole table, or some of its columns. Raises ValueError for a table that is not ours.

    >>> read_tokens("tokens.parquet", ["codes"]).num_rows  # doctest: +SKIP
    1204
    """
    read_metadata(tokens)
    return pa.concat_tables([pq.read_table(file, columns=columns) for file in token_files(tokens)]).unify_dictionaries()


def iter_tables(tokens: str | Path, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The table in pieces of one row group."""
    for path in token_files(tokens):
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                yield file.read_row_group(group, columns=columns)


def iter_runs(
    pieces: Iterable[pa.Table], names: Sequence[str], source: str | Path
) -> Iterator[tuple[tuple[str, ...], pa.Table]]:
    """Rows of a table that agree in `names`, all of them together, with what they agree in; in the table's order.

    Args:
        pieces: of a table that is sorted by `names`, as `iter_tables` gives them; a run may go over several.
        names: columns of text: the first of the table's key.
        source: the table, for the error.

    Raises ValueError for rows that are not in the table's order.
    """
    waiting: list[pa.Table] = []
    before: tuple[str, ...] = ()
    for piece in pieces:
        for key, rows in _runs(piece, names):
            if waiting and key < before:
                raise ValueError(f"{source} is not sorted by {', '.join(names)}: it was edited.")
            if waiting and key != before:
                yield before, _one_table(waiting)
                waiting = []
            waiting.append(rows)
            before = key
    if waiting:
        yield before, _one_table(waiting)


def check_frames(run: pa.Table, episode: str, source: str | Path) -> None:
    """Raises ValueError where the frames of a run of one episode, camera and stride do not increase."""
    if not (np.diff(run["frame_index"].to_numpy()) > 0).all():
        raise ValueError(f"{source}: rows of episode {episode!r} are out of order, or there twice: it was edited.")


def matrix(table: pa.Table, name: str) -> np.ndarray | None:
    """A column of lists of one length as (rows, length); None where the table has no such column."""
    if name not in table.column_names:
        return None
    values = table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return values.reshape(-1, table.schema.field(name).type.list_size)


class SelectOptions(TypedDict, total=False):
    """The keywords of `TokenTable.open`, for functions that pass them on."""

    stride: str | None
    cameras: str | Sequence[str]
    min_margin: float
    min_motion: float


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """The rows of one episode, camera and stride, in the order of frames; R may be less than the episode has frames.

    Fields:
        frames, futures: int32 (R,), numbers within the episode; futures -1 where the row is invalid.
        timestamps, future_timestamps: float64 (R,), seconds of `frames` and `futures`; of the latter NaN where invalid.
        codes: int16 (R, N), -1 where invalid; None for a continuous bottleneck, or where they were not asked for.
        latents: float16 (R, N * D), z before quantization; None where the table has none, or they were not asked for.
        margins, motions: float32 (R,), `code_margin` and `motion`; NaN where there is none.
        selected: bool (R,), the pairs to train on: valid, and above the thresholds that were given.
        texts: R instructions, None where there is none; None where the table has no such column, or was not asked.
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
    """What of a table is exported.

    Fields:
        path, metadata: the table, and what it says of itself.
        stride: the one stride, as the table spells it.
        cameras: in the table's order.
        min_margin, min_motion: pairs below are not wanted.
        columns: names of the table's columns.
        left_out: why and how many rows of this stride and these cameras are not wanted; filled by `sequences`.
    """

    path: Path
    metadata: dict[str, Any]
    stride: str
    cameras: tuple[str, ...]
    min_margin: float
    min_motion: float
    columns: tuple[str, ...]
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
        """Look at a table and settle what of it is exported.

        Args:
            tokens: the table, file or folder.
            stride: of those in the table; none given takes the only one.
            cameras: of those in the table, or "all"; none given takes the only one.
            min_margin: leave out pairs whose `code_margin` is smaller.
            min_motion: leave out pairs whose pixels change by less on average, 0 to 1 (the column `motion`).

        Raises:
            ValueError: not a table of tokens; a stride or camera that it does not have, or must be chosen.

        >>> TokenTable.open("tokens.parquet").stride  # doctest: +SKIP
        '0.6s'
        """
        path = Path(tokens)
        metadata = read_metadata(path)
        columns = tuple(pq.read_schema(token_files(path)[0]).names)
        if not 0 <= min_motion < 1:
            raise ValueError(f"min_motion {min_motion}: takes a mean change of the pixels, 0 (keep all) to 1")
        if not min_margin >= 0:  # nan too
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
        return self.metadata["model"]["num_latents"]

    @property
    def codebook_dim(self) -> int:
        return self.metadata["model"]["codebook_dim"]

    @property
    def codebook_size(self) -> int | None:
        """K; None for a continuous bottleneck."""
        return self.metadata["model"]["codebook_size"]

    def require(self, column: str, used_for: str) -> None:
        """Raises ValueError where the table has no `column`, with what to do."""
        if column in self.columns:
            return
        if column == "codes":
            cure = "Take a format for continuous latents (lerobot, groot, webdataset), or a model with a codebook"
        else:
            cure = f"Encode again with --with {column}"
        raise ValueError(f"{self.path} has no column {column!r}, needed for {used_for}. {cure}.")

    def sequences(self, *columns: str) -> Iterator[TokenSequence]:
        """The rows of this stride and these cameras, in the table's order: by episode, camera and frame.

        Args:
            columns: what to read beside what is always read: "codes", "latents", "text". One that the table
                does not have is None in the track.

        Raises:
            ValueError: for codes outside 0 .. K - 1 in a valid row, and rows that are not in the table's order.
        """
        self.left_out.clear()
        read = [name for name in self.columns if name in (*_ALWAYS, *_JUDGED_BY, *columns)]
        pieces = map(self._of_selection, iter_tables(self.path, read))
        for key, rows in iter_runs(pieces, ("episode", "camera"), self.path):
            yield self._sequence(key, rows)

    def _of_selection(self, table: pa.Table) -> pa.Table:
        of_stride = pc.equal(table["stride"].cast(pa.string()), self.stride)
        of_camera = pc.is_in(table["camera"].cast(pa.string()), value_set=pa.array(self.cameras, pa.string()))
        return table.filter(pc.and_(of_stride, of_camera))

    def _sequence(self, key: tuple[str, ...], table: pa.Table) -> TokenSequence:
        codes = matrix(table, "codes")
        valid = table["valid"].to_numpy()
        if codes is not None:
            self._check_range(codes[valid], key)
        check_frames(table, key[0], self.path)
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
            selected=self._selected(table, valid),
            texts=table["text"].to_pylist() if "text" in table.column_names else None,
        )

    def _selected(self, table: pa.Table, valid: np.ndarray) -> np.ndarray:
        reasons = {"invalid: the future frame lies past the end": ~valid}
        if self.min_margin:
            margin = table["code_margin"].to_numpy()
            reasons[f"code_margin below {self.min_margin:g}"] = ~(margin >= self.min_margin)
        if self.min_motion:
            motion = table["motion"].to_numpy()
            reasons[f"motion below {self.min_motion:g}"] = ~(motion >= self.min_motion)
        wanted = np.ones(len(valid), bool)
        for reason, applies in reasons.items():
            self.left_out[reason] += int((wanted & applies).sum())
            wanted &= ~applies
        return wanted

    def _check_range(self, codes: np.ndarray, key: tuple[str, ...]) -> None:
        size = self.codebook_size
        assert size is not None
        if codes.size and (codes.min() < 0 or codes.max() >= size):
            raise ValueError(
                f"{self.path}: valid rows of episode {key[0]!r} hold codes from {codes.min()} to {codes.max()}, the "
                f"model's codebook has 0 to {size - 1}: the table was edited. Encode again."
            )


def _choose_stride(path: Path, there: Sequence[str], asked: str | None) -> str:
    if asked is None and len(there) == 1:
        return there[0]
    if asked is None:
        raise ValueError(f"{path} holds strides {', '.join(there)}: one export has one. Choose with --stride.")
    if asked not in there:
        raise ValueError(f"stride {asked!r}: {path} holds {', '.join(there)}. Choose one, or encode with --stride.")
    return asked


def _choose_cameras(path: Path, asked: str | Sequence[str]) -> tuple[str, ...]:
    names: set[str] = set()
    for table in iter_tables(path, ["camera"]):
        names |= set(table["camera"].unique().to_pylist())
    there = sorted(names)
    if not there:
        raise ValueError(f"{path} has no rows: there is nothing to export.")
    wanted = [asked] if isinstance(asked, str) else list(asked)
    if wanted == ["all"] or (not wanted and len(there) < 2):
        return tuple(there)
    if not wanted:
        raise ValueError(f"{path} holds cameras {', '.join(there)}. Choose with --camera, or take all of them: all.")
    if unknown := [name for name in wanted if name not in there]:
        raise ValueError(f"camera {unknown[0]!r}: {path} holds {', '.join(map(repr, there))}.")
    return tuple(name for name in there if name in wanted)


def _runs(table: pa.Table, names: Sequence[str]) -> Iterator[tuple[tuple[str, ...], pa.Table]]:
    """Neighbouring rows that agree, with what they agree in."""
    if not table.num_rows:
        return
    table = table.unify_dictionaries().combine_chunks()
    columns = [_dictionary(table, name) for name in names]
    changes = np.zeros(table.num_rows - 1, bool)
    for column in columns:
        changes |= np.diff(column.indices.to_numpy()) != 0
    edges = [0, *(np.flatnonzero(changes) + 1).tolist(), table.num_rows]
    for start, stop in pairwise(edges):
        yield tuple(column[start].as_py() for column in columns), table.slice(start, stop - start)


def _dictionary(table: pa.Table, name: str) -> pa.DictionaryArray:
    column = table[name].combine_chunks()
    return column if isinstance(column, pa.DictionaryArray) else column.dictionary_encode()


def _one_table(pieces: Sequence[pa.Table]) -> pa.Table:
    return pa.concat_tables(pieces).unify_dictionaries().combine_chunks()
