"""A model for robots without torch: `export_onnx` writes it with what prepares its frames.

`onnx_file.py` writes and checks the file, `graph.py` is what it computes, and `frames.py`, which is copied beside it,
prepares frames with numpy alone.

The names below load on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lara_tokenizer._lazy import lazy

if TYPE_CHECKING:
    from lara_tokenizer.deploy.checks import check_export
    from lara_tokenizer.deploy.onnx_file import OnnxSummary, export_onnx

__all__ = ["OnnxSummary", "check_export", "export_onnx"]

_HOME = {"OnnxSummary": "onnx_file", "check_export": "checks", "export_onnx": "onnx_file"}

__getattr__, __dir__ = lazy(__name__, _HOME)
