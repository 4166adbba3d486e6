"""Writing a token table: its path, its row groups and shards, and the final rename."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lara_tokenizer._files import is_empty_folder, replace, replace_folder, sweep, sync
from lara_tokenizer.data.shard import Shard
from lara_tokenizer.errors import JobMismatchError
from lara_tokenizer.table.metadata import (
    CARD,
    FRAMES,
    MOVING_PAIRS,
    differences,
    episodes_digest,
    read_metadata,
    with_metadata,
)
from lara_tokenizer.table.reader import combine

ROW_GROUP = 65_536
ROWS_PER_SHARD = 16 * ROW_GROUP

# Small integers and names repeat, floats do not: a dictionary would only add to their size.
_DICTIONARY_COLUMNS = ["episode", "episode_index", "camera", "stride", "codes.list.element", "valid", "text"]


@dataclass(frozen=True, slots=True)
class OutputPath:
    """Path of a table to write: one parquet file or a folder of shards, with `<out>.job` and `<out>.failed.jsonl`.

    >>> OutputPath.parse("runs/tokens.parquet").job_folder.name
    'tokens.parquet.job'
    """

    path: Path
    is_folder: bool

    @classmethod
    def parse(cls, out: str | os.PathLike[str]) -> OutputPath:
        """`tokens.parquet` is a file, `tokens` or `tokens/` a folder. Raises ValueError for another file extension."""
        text = os.fspath(out)
        # "." and ".." have no name that a sibling such as <out>.job could be derived from.
        path = Path(text) if Path(text).name not in ("", "..") else Path(text).resolve()
        is_folder = text.endswith(("/", os.sep)) or path.suffix == ""
        if not is_folder and path.suffix != ".parquet":
            raise ValueError(f"out {text!r}: name a file ending in .parquet, or a folder for shards ('tokens/')")
        return cls(path, is_folder)

    def of_shard(self, shard: Shard) -> OutputPath:
        """The path of one shard's table, beside the path of the whole one.

        >>> OutputPath.parse("tokens.parquet").of_shard(Shard(3, 8)).path.name
        'tokens-00003-of-00008.parquet'
        """
        name = f"{self.path.stem}-{shard.index:05}-of-{shard.count:05}{self.path.suffix}"
        return OutputPath(self.path.with_name(name), self.is_folder)

    @property
    def job_folder(self) -> Path:
        """State of an unfinished job."""
        return self.path.with_name(self.path.name + ".job")

    @property
    def failed_file(self) -> Path:
        """List of the episodes that failed, with reasons."""
        return self.path.with_name(self.path.name + ".failed.jsonl")

    def check_parent(self) -> None:
        """Raise OSError in one line if the folder that will hold the table can be seen not to take one."""
        if self.path.exists():
            return
        folder = self.path.parent
        nearest = next(each for each in (folder, *folder.absolute().parents) if each.exists())
        if not nearest.is_dir():
            raise NotADirectoryError(f"cannot create the folder {folder}: {nearest} is a file. Name another --out.")
        if not os.access(nearest, os.W_OK):
            raise PermissionError(f"cannot write to {nearest}: no permission. Name another --out.")

    def make_parent(self) -> None:
        """Make the folder that will hold the table. Raises OSError in one line if it cannot be made or written."""
        folder = self.path.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(f"cannot create the folder {folder}: {error.strerror}. Name another --out.") from error
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"cannot write to {folder}: no permission. Name another --out.")

    def check_free(self) -> None:
        """Raise JobMismatchError if something else than a table of this kind has its name, or that of its list."""
        for path, is_folder in ((self.path, self.is_folder), (self.failed_file, False)):
            if path.exists() and path.is_dir() != is_folder:
                kinds = ("a folder", "a file") if path.is_dir() else ("a file", "a folder")
                raise JobMismatchError(
                    f"{path} exists and is {kinds[0]}, {kinds[1]} would be written there. Name another --out, or move "
                    "it away."
                )
        if self.path.exists() and not is_empty_folder(self.path):
            self._read_metadata()

    def sweep(self) -> None:
        """Remove what killed runs left beside the table."""
        sweep(self.path.parent, self.path.name)
        sweep(self.path.parent, self.job_folder.name)

    def is_complete(self, fingerprint: Mapping[str, Any], episodes: Iterable[str]) -> bool:
        """True if this job has written its table already, with all episodes; their files may have changed since.

        Raises JobMismatchError if something is there that this job must not replace.
        """
        if not self.path.exists() or is_empty_folder(self.path):
            return False
        made_by = self._read_metadata()
        # What is left is the fingerprint of the job that wrote the table.
        made_from = made_by.pop("episodes")
        for no_option in (FRAMES, MOVING_PAIRS, CARD):
            made_by.pop(no_option, None)
        if changed := differences(made_by, fingerprint):
            raise JobMismatchError(
                f"{self.path} was made by another job: {'; '.join(changed)}. Name another --out, or delete it."
            )
        # An empty folder is what a killed removal, or a start that failed, left.
        if (self.job_folder.exists() and not is_empty_folder(self.job_folder)) or made_from["failed"]:
            return False
        now = episodes_digest(episodes)
        if now["ids_sha256"] != made_from["ids_sha256"]:
            raise JobMismatchError(
                f"{self.path} was made from {made_from['count']} episodes, the source now has {now['count']} and not "
                "the same ones. Name another --out, or delete it."
            )
        return True

    def _read_metadata(self) -> dict[str, Any]:
        try:
            return read_metadata(self.path)
        except (ValueError, OSError) as error:
            reason = str(error).removeprefix(f"{self.path}: ").removesuffix(".")
            raise JobMismatchError(
                f"{self.path} exists and was not written by this job: {reason}. Name another --out, or move it away."
            ) from None


def write_tokens(
    tables: Iterable[pa.Table],
    schema: pa.Schema,
    metadata: dict[str, Any],
    out: OutputPath,
    scratch: Path,
    num_rows: int,
    is_current: Callable[[], bool] = lambda: True,
) -> bool:
    """Write a token table; what is at `out` is replaced at the very end: a file atomically, a folder by two renames.

    Equal rows and metadata give equal bytes, however the rows are cut into `tables`.

    Args:
        tables: consecutive chunks of `schema`, in the table's order.
        metadata: see `read_metadata`.
        out: the file or folder.
        scratch: a folder on the same file system for unfinished files.
        num_rows: total number of rows, from which follows the number of shards.
        is_current: called when all is written, just before the table gets its name; False leaves it without.

    Returns:
        True if the table has its name.
    """
    schema = with_metadata(schema, metadata)
    groups = row_groups(tables)
    if not out.is_folder:
        unfinished = scratch / f"{out.path.name}.tmp"
        _write_file(groups, schema, unfinished)
        if not is_current():
            return False
        replace(unfinished, out.path)
        return True
    unfinished = scratch / "table"
    shutil.rmtree(unfinished, ignore_errors=True)
    (unfinished / "data").mkdir(parents=True)
    # At least one, as a table without rows still has columns and metadata.
    shards = max(1, -(-num_rows // ROWS_PER_SHARD))
    for shard in range(shards):
        # The naming of the Hub's dataset viewer, so that a folder can be uploaded as it is.
        file = unfinished / "data" / f"train-{shard:05d}-of-{shards:05d}.parquet"
        _write_file(islice(groups, ROWS_PER_SHARD // ROW_GROUP), schema, file)
    provenance = json.dumps({**metadata, "rows": num_rows}, indent=2, sort_keys=True) + "\n"
    (unfinished / "provenance.json").write_text(provenance)
    if not is_current():
        return False
    replace_folder(unfinished, out.path, scratch / "previous")
    return True


def row_groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Regroup tables of any length into tables of exactly `ROW_GROUP` rows, and a last one with the rest."""
    pending: list[pa.Table] = []
    missing = ROW_GROUP
    for table in tables:
        # Tables are cut before they are joined: the dictionary of a group then contains its own episodes only.
        while table.num_rows >= missing:
            yield combine([*pending, table.slice(0, missing)])
            table = table.slice(missing)
            pending, missing = [], ROW_GROUP
        if table.num_rows:
            pending.append(table)
            missing -= table.num_rows
    if pending:
        yield combine(pending)


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
    # Shards are renamed with their folder, so each is synced on its own.
    sync(file)
