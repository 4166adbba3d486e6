"""Export a token table to the formats of other frameworks. No torch: labels are copied, not computed.

>>> from lara_tokenizer.export import export_lapa
>>> export_lapa("tokens.parquet", "videos/", "for-lapa", min_motion=0.01).pairs  # doctest: +SKIP
1204

The path of a row: `table/reader.py` reads the rows of an episode and camera, `source_match.py` checks them against the
video, `job.py` is the course that all exports share, and `folder.py` its resumable output. Then one file writes the
format: `lapa.py` and `univla.py` (through `jsonl.py`), `lerobot/export.py`, `lerobot/groot.py`, `moto/export.py` or
`webdataset/export.py`.

The names below load on first use.
"""

from __future__ import annotations

from lara_tokenizer._lazy import lazy

_HOME = {
    "ExportSummary": "job",
    "act_text": "action_tokens",
    "act_tokens": "action_tokens",
    "add_act_tokens": "action_tokens",
    "export_groot": "lerobot.groot",
    "export_lapa": "lapa",
    "export_lerobot": "lerobot.export",
    "export_moto": "moto.export",
    "export_univla": "univla",
    "export_webdataset": "webdataset.export",
    "parse_act_text": "action_tokens",
    "undo_lerobot": "lerobot.export",
}

__all__ = [
    "ExportSummary",
    "act_text",
    "act_tokens",
    "add_act_tokens",
    "export_groot",
    "export_lapa",
    "export_lerobot",
    "export_moto",
    "export_univla",
    "export_webdataset",
    "parse_act_text",
    "undo_lerobot",
]

__getattr__, __dir__ = lazy(__name__, _HOME)
