"""The HTML report ("health card") of an evaluation: one page that needs no server, no script and no network.

`examples.py` chooses the pairs that are shown, `images.py` and `charts.py` draw, `sections.py`, `attention.py` and
`tables.py` collect what each section shows, and `report.py` renders it all with `page.html.j2` and `report.css`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lara_tokenizer._lazy import lazy

if TYPE_CHECKING:
    from lara_tokenizer.evaluate.report.report import write_report

__all__ = ["write_report"]

__getattr__, __dir__ = lazy(__name__, {"write_report": "report"})
