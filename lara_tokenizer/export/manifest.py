"""What an export says of itself: provenance, filters, counts, and the settings that its reader must be given."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lara_tokenizer.encode.checkpoint import file_sha256
from lara_tokenizer.encode.schema import token_files
from lara_tokenizer.export.matching import Matched
from lara_tokenizer.export.tracks import Tokens
from lara_tokenizer.version import __version__

MANIFEST = "export_manifest.json"
FORMAT_VERSION = 1


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


def export_job(format_name: str, tokens: Tokens, **options: Any) -> dict[str, Any]:
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


def summary_of(
    format_name: str,
    out: str | Path,
    matched: Matched,
    settings: dict[str, Any] | None = None,
    notes: list[str] | None = None,
) -> ExportSummary:
    """The summary of an export of all pairs of `matched`."""
    return ExportSummary(
        format=format_name,
        out=str(out),
        pairs=matched.total_wanted,
        rows=matched.rows,
        left_out=dict(sorted(matched.left_out.items())),
        episodes=len({episode for episode, _ in matched.wanted}),
        settings=settings or {},
        notes=notes or [],
    )


def write_manifest(folder: Path, job: dict[str, Any], summary: ExportSummary, name: str = MANIFEST) -> None:
    """Write the job and the summary, but for where it lies, as `folder/name`: equal exports give equal bytes."""
    told = {key: value for key, value in summary.to_dict().items() if key != "out"}
    text = json.dumps({**job, **told}, indent=2, sort_keys=True) + "\n"
    (folder / name).write_text(text, encoding="utf-8")
