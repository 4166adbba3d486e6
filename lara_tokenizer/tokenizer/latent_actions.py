"""`LatentActions`, the result of a tokenizer: arrays with one row per pair of frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from lara_tokenizer.table.reader import matrix


@dataclass(frozen=True, slots=True, eq=False)
class LatentActions:
    """Latent actions of R pairs, in the order of their frames: the columns of a token table as arrays.

    Attributes:
        frame_index, future_frame_index: int64 (R,), counted from the first frame given.
        timestamp, future_timestamp: float64 (R,), seconds; NaN where the frames came without times.
        codes: int64 (R, N) in [0, K); None for a continuous bottleneck.
        latents: float16 (R, N, D): z, before quantization.
        code_margin: float32 (R,): confidence, see `docs/table.md`; None for a continuous bottleneck.
    """

    frame_index: np.ndarray
    future_frame_index: np.ndarray
    timestamp: np.ndarray
    future_timestamp: np.ndarray
    codes: np.ndarray | None
    latents: np.ndarray
    code_margin: np.ndarray | None

    def __len__(self) -> int:
        """The number of pairs."""
        return len(self.frame_index)

    def __repr__(self) -> str:
        count, dim = self.latents.shape[1:]
        codes = "no codes" if self.codes is None else f"{count} codes"
        return f"LatentActions({len(self)} pairs: {codes} and z ({count}, {dim}) each)"

    @classmethod
    def from_rows(cls, rows: pa.Table, num_latents: int, *, timed: bool) -> LatentActions:
        """The rows of a token table that has latents; all are valid."""
        timestamp, future_timestamp = (
            np.array(rows[name], np.float64) if timed else np.full(rows.num_rows, np.nan)
            for name in ("timestamp", "future_timestamp")
        )
        latents = matrix(rows, "latents")
        assert latents is not None
        codes = matrix(rows, "codes") if "codes" in rows.column_names else None
        return cls(
            np.array(rows["frame_index"], np.int64),
            np.array(rows["future_frame_index"], np.int64),
            timestamp,
            future_timestamp,
            codes=None if codes is None else codes.astype(np.int64),
            latents=np.array(latents).reshape(rows.num_rows, num_latents, -1),
            code_margin=None if codes is None else np.array(rows["code_margin"], np.float32),
        )
