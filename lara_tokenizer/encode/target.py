"""Where a table goes, and whether this job may write there."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lara_tokenizer.encode.fingerprint import differences, episodes_digest
from lara_tokenizer.encode.moving_pairs import NAME as MOVING_PAIRS
from lara_tokenizer.encode.schema import FRAMES, read_metadata
from lara_tokenizer.errors import JobMismatchError


@dataclass(frozen=True, slots=True)
class Target:
    """One parquet file, or a folder of shards; beside it `<out>.job` and `<out>.failed.jsonl`.

    >>> Target.parse("runs/tokens.parquet").job_folder.name
    'tokens.parquet.job'
    """

    path: Path
    is_folder: bool

    @classmethod
    def parse(cls, out: str | os.PathLike[str]) -> Target:
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
