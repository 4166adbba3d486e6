"""`latent_labels.*`: the columns by which LeRobot datasets carry latent actions.

The names are those of felixmin/deploy_lerobot_latent_actions, whose policy type latent_smolvla reads them.

Shape suffixes: R rows, M of them with a label, N latent tokens, D codebook dimension, K codes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from lara_tokenizer.export.codebook import read_codebook
from lara_tokenizer.export.lerobot_rows import Features, RowLabels
from lara_tokenizer.export.lerobot_statistics import Statistics, column_statistics, counted_statistics
from lara_tokenizer.table.reader import TokenTable

PREFIX = "latent_labels."
IDS, VECTORS, LATENTS, VALID = (
    PREFIX + name for name in ("codebook_id_latents", "codebook_vector_latents", "continuous_vector_latents", "valid")
)
NO_CODE = -1


@dataclass(frozen=True, slots=True)
class LabelColumns:
    """What a table gives: codes and their vectors where it has a codebook, z where it has latents, and a mask.

    Fields:
        num_latents, codebook_dim: N and D.
        codebook: float32 (K, D), or None for a continuous bottleneck.
        has_latents: whether the table has z.
    """

    num_latents: int
    codebook_dim: int
    codebook: np.ndarray | None
    has_latents: bool

    @classmethod
    def of(cls, tokens: TokenTable, model: str | os.PathLike[str] | None) -> LabelColumns:
        """Raises ValueError, as `read_codebook`."""
        codebook = read_codebook(tokens, model) if "codes" in tokens.columns else None
        return cls(tokens.num_latents, tokens.codebook_dim, codebook, "latents" in tokens.columns)

    @property
    def features(self) -> Features:
        """Entries of info.json."""
        vectors = {"dtype": "float32", "shape": [self.num_latents, self.codebook_dim], "names": None}
        found: dict[str, dict] = {}
        if self.codebook is not None:
            found[IDS] = {"dtype": "int64", "shape": [self.num_latents], "names": None}
            found[VECTORS] = dict(vectors)
        if self.has_latents:
            found[LATENTS] = dict(vectors)
        return found | {VALID: {"dtype": "int64", "shape": [1], "names": None}}

    def values(self, labels: RowLabels) -> dict[str, np.ndarray]:
        """int64 (R, N) with -1, float32 (R, N, D) with 0 and int64 (R,) with 0 where there is no label.

        Raises ValueError for latents that are no numbers where a pair is valid.
        """
        wanted, rows = labels.wanted, len(labels.wanted)
        shape = (rows, self.num_latents, self.codebook_dim)
        found: dict[str, np.ndarray] = {}
        if self.codebook is not None:
            assert labels.codes is not None
            found[IDS] = np.full(shape[:2], NO_CODE, np.int64)
            found[IDS][wanted] = labels.codes
            found[VECTORS] = np.zeros(shape, np.float32)
            found[VECTORS][wanted] = self.codebook[labels.codes]
        if self.has_latents:
            found[LATENTS] = np.zeros(shape, np.float32)
            found[LATENTS][wanted] = finite(labels).reshape(-1, *shape[1:])
        return found | {VALID: wanted.astype(np.int64)}

    def statistics(self, values: dict[str, np.ndarray]) -> dict[str, Statistics]:
        """Of an episode's columns. Those of code vectors follow from how often each code is there."""
        found = {name: column_statistics(column) for name, column in values.items() if name != VECTORS}
        if self.codebook is not None:
            codes, rows = values[IDS].reshape(-1), len(values[IDS])
            vectors = np.vstack([self.codebook, np.zeros_like(self.codebook[:1])])  # no code, -1, is the last
            counts = np.bincount(codes % len(vectors), minlength=len(vectors))
            found[VECTORS] = counted_statistics(vectors, counts, rows)
        return {name: found[name] for name in values}


def finite(labels: RowLabels) -> np.ndarray:
    """The latents, float32 (M, N * D). Raises ValueError where one is NaN or infinite."""
    assert labels.latents is not None
    latents = labels.latents.astype(np.float32)
    if not np.isfinite(latents).all():
        raise ValueError("the table has latents that are NaN or infinite in valid rows: encode again")
    return latents
