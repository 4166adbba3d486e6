"""The course every export takes: open a table, compare it with its source, fill a folder, describe it in a manifest."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from lara_tokenizer._files import file_sha256, summarize_names
from lara_tokenizer._parse import read_json
from lara_tokenizer.export.folder import ExportFolder, Progress, check_new, counter, export_folder
from lara_tokenizer.export.source_match import MatchedSource, match_source
from lara_tokenizer.export.source_state import SequenceState, by_name
from lara_tokenizer.table.metadata import FRAMES, differences
from lara_tokenizer.table.parquet import token_files
from lara_tokenizer.table.reader import TokenTable
from lara_tokenizer.table.source import Source
from lara_tokenizer.version import __version__

__all__ = ["ExportFolder", "ExportJob", "ExportSummary", "Progress", "counter", "read_manifest", "write_manifest"]

MANIFEST = "export_manifest.json"
FORMAT_VERSION = 1
_COMPLETE = "This export was complete already: nothing was written."
_MULTIPLES = {".tar": 10_240}  # bytes of its records
_ENDS = {".jsonl": b"\n", ".tar": bytes(1024), ".jpg": b"\xff\xd9"}
# Stored in manifests: a change of this text would change the bytes of exports.
_UNCHECKED = (
    "The table is of an earlier release and does not say what frames its model saw: the pixels of its source were not "
    "compared. lara-tok verify compares codes."
)


@dataclass(slots=True)
class ExportSummary:
    """The result of an export.

    Attributes:
        format: "lapa", "moto", "lerobot", "groot", "univla" or "webdataset".
        out: the folder.
        pairs: count of exported pairs.
        rows: count of rows of the table, in the chosen stride and cameras.
        left_out: count of rows that were not exported as labels, by reason.
        episodes: count of episodes with at least one pair.
        settings: options for the format's own reader or trainer, by their names.
        notes: sentences that the user should read.
    """

    format: str
    out: str
    pairs: int
    rows: int
    left_out: dict[str, int]
    episodes: int
    settings: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The attributes as JSON-native values."""
        return asdict(self)


class ExportJob:
    """One export: the table, the options that decide its bytes, and the output folder.

    Args:
        format_name: as in `ExportSummary.format`.
        table: the rows to export.
        out: the output folder.
        options: of the format, as plain JSON.
        manifest: file name of the manifest.

    Attributes:
        record: everything that decides the bytes, as plain JSON; no path, host or time.
    """

    def __init__(
        self,
        format_name: str,
        table: TokenTable,
        out: str | os.PathLike[str],
        options: Mapping[str, Any],
        manifest: str = MANIFEST,
    ) -> None:
        self.table = table
        self.out = Path(out)
        self.record: dict[str, Any] = {
            "format": format_name,
            "format_version": FORMAT_VERSION,
            "lara_tokenizer": __version__,
            "tokens_sha256": {file.name: file_sha256(file) for file in token_files(table.path)},
            "tokens": table.metadata,
            "selection": {
                "stride": table.stride,
                "cameras": list(table.cameras),
                "min_margin": table.min_margin,
                "min_motion": table.min_motion,
            },
            "options": dict(options),
        }
        self._manifest = manifest
        self._states: list[SequenceState] = []  # of the source

    def finished(
        self,
        source: Source,
        from_list: str | os.PathLike[str] | None = None,
        names: Callable[[MatchedSource], Iterable[str]] = lambda matched: (),
    ) -> ExportSummary | None:
        """The summary of this very export if `out` contains it, complete; None if `out` is new.

        Args:
            source: the table's.
            from_list: the list of clips, if the table was made from one.
            names: of the files that the export consists of, besides those whose hash is in its manifest.

        Raises ValueError where `out` is something else, or was changed, or the source is no longer the table's.
        """
        file = self.out / self._manifest
        if file.is_file():
            manifest = read_manifest(file)
            if not self.differences(manifest):
                return self.summary_again(manifest, source, from_list, names)
        check_new(self.out)
        return None

    def summary_again(
        self,
        manifest: Mapping[str, Any],
        source: Source,
        from_list: str | os.PathLike[str] | None = None,
        names: Callable[[MatchedSource], Iterable[str]] = lambda matched: (),
    ) -> ExportSummary:
        """The summary of a finished export, from its manifest; arguments and errors as `finished`."""
        matched = self.match(source, from_list)
        written = manifest.get("files", {})
        changed = [name for name in sorted(written) if _sha256(self.out / name) != written[name]]
        changed += [name for name in names(matched) if not is_whole(self.out / name)]
        if changed:
            raise ValueError(
                f"{self.out} was changed since it was exported: {summarize_names(changed)}. Delete it, or name another "
                "--out."
            )
        recorded = {each.name: manifest[each.name] for each in fields(ExportSummary) if each.name != "out"}
        return ExportSummary(out=str(self.out), **{**recorded, "notes": [*recorded["notes"], _COMPLETE]})

    def differences(self, manifest: Mapping[str, Any]) -> list[str]:
        """One line per entry of a manifest that this job would write differently."""
        recorded = {name: manifest.get(name) for name in self.record}
        return differences(recorded, json.loads(json.dumps(self.record)))

    def match(self, source: Source, from_list: str | os.PathLike[str] | None = None) -> MatchedSource:
        """The table with its source; see `match_source`."""
        matched = match_source(self.table, source, from_list, self.out)
        self._states = matched.states
        return matched

    def summarize(
        self, matched: MatchedSource, settings: dict[str, Any] | None = None, notes: Iterable[str] = ()
    ) -> ExportSummary:
        """The summary of an export of all selected pairs of `matched`."""
        unchecked = [] if FRAMES in self.table.metadata else [_UNCHECKED]
        return ExportSummary(
            format=self.record["format"],
            out=str(self.out),
            pairs=matched.num_pairs,
            rows=matched.rows,
            left_out=dict(sorted(matched.left_out.items())),
            episodes=len({episode for episode, _ in matched.selected}),
            settings=settings or {},
            notes=[*notes, *unchecked],
        )

    @contextmanager
    def folder(
        self,
        summary: ExportSummary,
        *,
        unchanged: Mapping[str, Any] | None = None,
        hashed: Iterable[str] = (),
    ) -> Iterator[ExportFolder]:
        """A folder to write in that becomes `out` at the end of the block, with a manifest; see `export_folder`.

        Raises JobMismatchError where an unfinished export was made of the source before it changed, and
        EpisodeReadError where it changed within the block.

        Args:
            summary: for the manifest, without `out`: equal exports give equal bytes.
            unchanged: further conditions for continuing an unfinished export, as plain JSON; not in the manifest.
            hashed: names of files below the folder whose sha256 goes into the manifest, under "files".
        """
        with export_folder(self.out, self.record | dict(unchanged or {}), by_name(self._states)) as folder:
            yield folder
            for state in self._states:
                state.check()
            files = {name: file_sha256(folder.path / name) for name in sorted(hashed)}
            content = self.record | ({"files": files} if files else {}) | summary.to_dict()
            del content["out"]
            write_manifest(folder.path / self._manifest, content)


def write_manifest(file: Path, content: Mapping[str, Any]) -> None:
    """Write a manifest: equal contents give equal bytes."""
    file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_manifest(file: Path) -> dict[str, Any]:
    """A manifest. Raises ValueError for another file."""
    manifest = read_json(file)
    lists = {"notes": list, "files": dict, "left_out": dict, "settings": dict}
    if (
        not isinstance(manifest, dict)
        or not {each.name for each in fields(ExportSummary)} - {"out"} <= manifest.keys()
        or not all(isinstance(manifest.get(name, kind()), kind) for name, kind in lists.items())
    ):
        raise ValueError(f"{file}: not the manifest of an export")
    return manifest


def is_whole(file: Path) -> bool:
    """Whether there is a file that is not empty, and ends as a file of its suffix does; its content is not read."""
    end = _ENDS.get(file.suffix, b"")
    try:
        with file.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - len(end)))
            return size > 0 and size % _MULTIPLES.get(file.suffix, 1) == 0 and (not end or stream.read() == end)
    except OSError:
        return False


def _sha256(file: Path) -> str | None:
    return file_sha256(file) if file.is_file() else None
