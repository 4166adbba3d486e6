"""The last step: rows in order, in fixed row groups, into files that appear whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lara_tokenizer.errors import JobMismatchError
from lara_tokenizer.table.metadata import FRAMES, differences, episodes_digest, read_metadata, with_metadata
from lara_tokenizer.table.statistics import MOVING_PAIRS

ROW_GROUP = 65_536
ROWS_PER_SHARD = 16 * ROW_GROUP

# Readers other than Arrow meet these encodings everywhere; small whole numbers and names repeat, floats do not.
_DICTIONARY_COLUMNS = ["episode", "episode_index", "camera", "stride", "codes.list.element", "valid", "text"]


@dataclass(frozen=True, slots=True)
class OutputPath:
    """One parquet file, or a folder of shards; beside it `<out>.job` and `<out>.failed.jsonl`.

    >>> OutputPath.parse("runs/tokens.parquet").job_folder.name
    'tokens.parquet.job'
    """

    path: Path
    is_folder: bool

    @classmethod
    def parse(cls, out: str | os.PathLike[str]) -> OutputPath:
        """`tokens.parquet` is a file, `tokens` or `tokens/` a folder. Raises ValueError for another ending."""
        text = os.fspath(out)
        path = Path(text) if Path(text).name not in ("", "..") else Path(text).resolve()
        is_folder = text.endswith(("/", os.sep)) or path.suffix == ""
        if not is_folder and path.suffix != ".parquet":
            raise ValueError(f"out {text!r}: name a file ending in .parquet, or a folder for shards ('tokens/')")
        return cls(path, is_folder)

    @property
    def job_folder(self) -> Path:
        """The state of a job that is not finished."""
        return self.path.with_name(self.path.name + ".job")

    @property
    def failed_file(self) -> Path:
        """The episodes that failed, with reasons."""
        return self.path.with_name(self.path.name + ".failed.jsonl")

    def make_parent(self) -> None:
        """Make the folder that will hold the target. Raises OSError in one line where that cannot be."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if not os.access(self.path.parent, os.W_OK):
                raise PermissionError(None, "Permission denied")
        except OSError as error:
            raise OSError(f"cannot write to {self.path.parent}: {error.strerror}. Name another --out.") from error

    def is_complete(self, fingerprint: Mapping[str, Any], episodes: Iterable[str]) -> bool:
        """Whether there is nothing left to do.

        Raises JobMismatchError where something is there that this job must not replace.
        """
        if not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir())):
            return False
        try:
            made_by = read_metadata(self.path)
        except (ValueError, OSError) as error:
            raise JobMismatchError(
                f"{self.path} exists and is not a table of tokens ({error}). Name another --out, or move it away."
            ) from None
        made_from = made_by.pop("episodes")
        for no_option in (FRAMES, MOVING_PAIRS):
            made_by.pop(no_option, None)
        if changed := differences(made_by, fingerprint):
            raise JobMismatchError(
                f"{self.path} was made by another job: {'; '.join(changed)}. Name another --out, or delete it."
            )
        if self.job_folder.exists() or made_from["failed"]:
            return False
        now = episodes_digest(episodes)
        if now["ids_sha256"] != made_from["ids_sha256"]:
            raise JobMismatchError(
                f"{self.path} was made from {made_from['count']} episodes, the source now has {now['count']} and not "
                "the same ones. Name another --out, or delete it."
            )
        return True


def write_tokens(
    pieces: Iterable[pa.Table],
    schema: pa.Schema,
    metadata: dict[str, Any],
    target: OutputPath,
    scratch: Path,
    num_rows: int,
) -> None:
    """Write a table of tokens; the target changes at the very end, in one step.

    Args:
        pieces: tables of `schema`, in the table's order.
        metadata: what `read_metadata` will give back.
        target: the file or folder; what is there is replaced.
        scratch: a folder on the same disk for what is unfinished.
        num_rows: of all pieces together; it decides the number of shards.

    Equal pieces and metadata give equal bytes.
    """
    schema = with_metadata(schema, metadata)
    groups = row_groups(pieces, schema)
    if not target.is_folder:
        unfinished = scratch / f"{target.path.name}.tmp"
        _write_file(groups, schema, unfinished)
        os.replace(unfinished, target.path)
        _sync(target.path.parent)
        return
    unfinished = scratch / "table"
    shutil.rmtree(unfinished, ignore_errors=True)
    (unfinished / "data").mkdir(parents=True)
    shards = max(1, -(-num_rows // ROWS_PER_SHARD))
    for shard in range(shards):
        file = unfinished / "data" / f"train-{shard:05d}-of-{shards:05d}.parquet"
        _write_file(islice(groups, ROWS_PER_SHARD // ROW_GROUP), schema, file)
    provenance = json.dumps({**metadata, "rows": num_rows}, indent=2, sort_keys=True) + "\n"
    (unfinished / "provenance.json").write_text(provenance)
    _replace_folder(unfinished, target.path, scratch / "previous")


def row_groups(pieces: Iterable[pa.Table], schema: pa.Schema) -> Iterator[pa.Table]:
    """Pieces of any length to tables of exactly `ROW_GROUP` rows, and a last one with the rest."""
    waiting: list[pa.Table] = []
    missing = ROW_GROUP
    for piece in pieces:
        # Pieces are cut before they are joined: the dictionary of a group then names its own episodes only.
        while piece.num_rows >= missing:
            yield _joined([*waiting, piece.slice(0, missing)])
            piece = piece.slice(missing)
            waiting, missing = [], ROW_GROUP
        if piece.num_rows:
            waiting.append(piece)
            missing -= piece.num_rows
    if waiting:
        yield _joined(waiting)


def write_text_atomically(file: Path, text: str) -> None:
    """Write a small file, whole or not at all."""
    unfinished = file.with_name(file.name + ".tmp")
    unfinished.write_text(text)
    os.replace(unfinished, file)


def _joined(pieces: list[pa.Table]) -> pa.Table:
    return pa.concat_tables(pieces).unify_dictionaries().combine_chunks()


def _write_file(groups: Iterable[pa.Table], schema: pa.Schema, file: Path) -> None:
    with (
        file.open("wb") as stream,
        pq.ParquetWriter(
            stream,
            schema,
            compression="zstd",
            use_dictionary=[name for name in _DICTIONARY_COLUMNS if name.split(".")[0] in schema.names],
            write_page_index=True,
        ) as writer,
    ):
        for group in groups:
            writer.write_table(group.replace_schema_metadata(schema.metadata), row_group_size=ROW_GROUP)
    _sync(file)


def _replace_folder(new: Path, target: Path, previous: Path) -> None:
    shutil.rmtree(previous, ignore_errors=True)
    if target.exists():
        os.replace(target, previous)
    os.replace(new, target)
    _sync(target.parent)
    shutil.rmtree(previous, ignore_errors=True)


def _sync(path: Path) -> None:
    """Ask the disk to keep a file, or the names in a folder, before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
