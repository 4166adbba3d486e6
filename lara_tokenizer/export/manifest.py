"""What an export says of itself: provenance, filters, counts, and the settings that its reader must be given."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from lara_tokenizer.checkpoint import file_sha256
from lara_tokenizer.export.folder import check_new
from lara_tokenizer.export.matching import Matched
from lara_tokenizer.table.metadata import FRAMES, differences, token_files
from lara_tokenizer.table.reader import TokenTable
from lara_tokenizer.version import __version__

MANIFEST = "export_manifest.json"
FORMAT_VERSION = 1
_COMPLETE = "This export was complete already: nothing was written."
_UNCHECKED = (
    "The table is of an earlier release and does not say what frames its model saw: the pixels of its source were not "
    "compared. lara-tok verify compares codes."
)


@dataclass(slots=True)
class ExportSummary:
    """What an export did.

    Fields:
        format: "lapa", "moto", "lerobot", "groot", "univla" or "webdataset".
        out: where it lies.
        pairs: exported.
        rows: of the table, in the stride and cameras that were chosen.
        left_out: why and how many of these rows were not exported as labels.
        episodes: with at least one pair.
        settings: what to give to the format's own reader or trainer, by their names.
        notes: sentences that a user must know.
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
        """The fields as JSON-native values."""
        return asdict(self)


def export_job(format_name: str, tokens: TokenTable, **options: Any) -> dict[str, Any]:
    """All that decides the bytes of an export, as plain JSON; no path, host or time.

    Args:
        format_name: as in `ExportSummary.format`.
        options: of that format.
    """
    return {
        "format": format_name,
        "format_version": FORMAT_VERSION,
        "lara_tokenizer": __version__,
        "tokens_sha256": {file.name: file_sha256(file) for file in token_files(tokens.path)},
        "tokens": tokens.metadata,
        "selection": {
            "stride": tokens.stride,
            "cameras": list(tokens.cameras),
            "min_margin": tokens.min_margin,
            "min_motion": tokens.min_motion,
        },
        "options": options,
    }


def finished_export(out: str | Path, job: dict[str, Any], name: str = MANIFEST) -> ExportSummary | None:
    """The summary of this very export where it is at `out` already, whole; None where `out` is new.

    Args:
        name: of the manifest.

    Raises:
        ValueError: something else is there.
    """
    manifest = Path(out) / name
    said = json.loads(manifest.read_text(encoding="utf-8")) if manifest.is_file() else {}
    if said and not differences({key: said.get(key) for key in job}, json.loads(json.dumps(job))):
        return summary_again(out, said)
    check_new(Path(out))
    return None


def summary_again(out: str | Path, manifest: dict[str, Any]) -> ExportSummary:
    """The summary in the manifest of a finished export."""
    told = {each.name: manifest[each.name] for each in fields(ExportSummary) if each.name != "out"}
    return ExportSummary(out=str(out), **{**told, "notes": [*told["notes"], _COMPLETE]})


def summary_of(
    format_name: str,
    out: str | Path,
    matched: Matched,
    settings: dict[str, Any] | None = None,
    notes: list[str] | None = None,
) -> ExportSummary:
    """The summary of an export of all pairs of `matched`."""
    unchecked = [] if FRAMES in matched.tokens.metadata else [_UNCHECKED]
    return ExportSummary(
        format=format_name,
        out=str(out),
        pairs=matched.total_wanted,
        rows=matched.rows,
        left_out=dict(sorted(matched.left_out.items())),
        episodes=len({episode for episode, _ in matched.wanted}),
        settings=settings or {},
        notes=[*(notes or []), *unchecked],
    )


def write_manifest(folder: Path, job: dict[str, Any], summary: ExportSummary, name: str = MANIFEST) -> None:
    """Write the job and the summary, but for where it lies, as `folder/name`: equal exports give equal bytes."""
    told = {key: value for key, value in summary.to_dict().items() if key != "out"}
    text = json.dumps({**job, **told}, indent=2, sort_keys=True) + "\n"
    (folder / name).write_text(text, encoding="utf-8")
