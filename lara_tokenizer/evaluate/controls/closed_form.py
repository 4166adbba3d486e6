"""The closed-form tokenizer: dense flow, a PCA, and residual k-means; what a trained tokenizer has to beat.

It sees grey frames alone and has no network: flow of DIS in 8 x 8 cells (128 numbers), its first 32 principal
components, and eight stages of residual k-means with 128 codes each, 56 bits. `benchmarks/fit_closed_form.py` fits it.

Shape suffixes: P pairs, F numbers of flow, D components, T stages, K codes of a stage.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

COMPONENTS, STAGES, CODES = 32, 8, 128
ROUNDS = 50  # of Lloyd's algorithm
FILE = files("lara_tokenizer.evaluate.controls").joinpath("closed_form.safetensors")


@dataclass(frozen=True, slots=True)
class ClosedFormTokenizer:
    """A fitted tokenizer of flow, as from `motion.optical_flow`.

    >>> tokenizer = ClosedFormTokenizer.load()
    >>> tokenizer.codes(tokenizer.latents(np.zeros((1, 128), np.float32)), stages=8).shape
    (1, 8)
    """

    mean: np.ndarray  # float32 (F,)
    directions: np.ndarray  # float32 (F, D), orthonormal columns
    codebooks: np.ndarray  # float32 (T, K, D)

    @classmethod
    def load(cls, path: Path | None = None) -> ClosedFormTokenizer:
        """Load the one that ships with this package, or that of a file."""
        from safetensors.numpy import load

        return cls(**load((FILE if path is None else path).read_bytes()))

    @classmethod
    def fit(cls, flow_PF: np.ndarray, seed: int = 0) -> ClosedFormTokenizer:
        """Fit components and codebooks; each stage quantizes what those before it left over."""
        mean = flow_PF.mean(0)
        _, vectors = np.linalg.eigh(np.cov((flow_PF - mean).T.astype(np.float64)))
        directions = vectors[:, : -COMPONENTS - 1 : -1]
        # The sign of a component is arbitrary: its largest number is made positive.
        directions = directions * np.sign(directions[np.abs(directions).argmax(0), np.arange(COMPONENTS)])
        residual = (flow_PF - mean) @ directions
        codebooks = []
        for stage in range(STAGES):
            codebooks.append(k_means(residual, CODES, np.random.default_rng([seed, stage])))
            residual = residual - codebooks[-1][nearest(residual, codebooks[-1])]
        return cls(*(np.ascontiguousarray(each, np.float32) for each in (mean, directions, np.stack(codebooks))))

    def save(self, path: Path, metadata: dict[str, Any]) -> None:
        """Write the file, with a note of its sources as JSON in its metadata."""
        from safetensors.numpy import save

        tensors = {"mean": self.mean, "directions": self.directions, "codebooks": self.codebooks}
        path.write_bytes(save(tensors, {"closed_form": json.dumps(metadata)}))

    def stages_within(self, bits: float) -> int:
        """Stages whose codes fit into so many bits, at most all.

        >>> ClosedFormTokenizer.load().stages_within(30)
        4
        """
        return min(len(self.codebooks), int(bits / self.bits_per_stage + 1e-9))

    @property
    def bits_per_stage(self) -> float:
        """Bits of a code."""
        return float(np.log2(self.codebooks.shape[1]))

    def latents(self, flow_PF: np.ndarray) -> np.ndarray:
        """Flow -> its components, float32 (P, D)."""
        # In float64, or rounding would depend on a pair's neighbours in the batch.
        return ((flow_PF - self.mean).astype(np.float64) @ self.directions).astype(np.float32)

    def codes(self, latents_PD: np.ndarray, stages: int) -> np.ndarray:
        """Components -> the nearest code of each stage, coarse to fine: int64 (P, stages)."""
        codes, residual = [], np.array(latents_PD, np.float32)
        for codebook in self.codebooks[:stages]:
            codes.append(nearest(residual, codebook))
            residual -= codebook[codes[-1]]
        return np.stack(codes, 1)

    def quantized(self, codes_PT: np.ndarray) -> np.ndarray:
        """Codes -> the components that they stand for, float32 (P, D)."""
        return np.sum([codebook[codes] for codebook, codes in zip(self.codebooks, codes_PT.T, strict=False)], 0)


def nearest(values_PD: np.ndarray, codebook_KD: np.ndarray) -> np.ndarray:
    """The index of the nearest row of the codebook: int64 (P,)."""
    # |v - c|^2 less |v|^2, which is the same for all codes.
    codes = codebook_KD.astype(np.float64)
    return ((codes**2).sum(1) - 2 * values_PD @ codes.T).argmin(1)


def k_means(values_PD: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` centres (K, D) by Lloyd's algorithm from k-means++; a centre without points moves to the farthest one.

    Raises ValueError for fewer points than centres.
    """
    if len(values_PD) < count:
        raise ValueError(f"{len(values_PD)} pairs cannot have {count} codes; give more video.")
    centres = _spread_out(values_PD, count, rng)
    for _ in range(ROUNDS):
        owner = nearest(values_PD, centres)
        counts = np.bincount(owner, minlength=count)
        sums = np.zeros_like(centres)
        np.add.at(sums, owner, values_PD)
        centres = sums / np.maximum(counts, 1)[:, None]
        distances = ((values_PD - centres[owner]) ** 2).sum(1)
        farthest = np.argsort(-distances, kind="stable")
        empty = np.flatnonzero(counts == 0)
        centres[empty] = values_PD[farthest[: len(empty)]]
    return centres


def _spread_out(values_PD: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """k-means++: each next centre is a point drawn by its squared distance to those before it."""
    chosen = [values_PD[rng.integers(len(values_PD))]]
    distances = ((values_PD - chosen[0]) ** 2).sum(1)
    while len(chosen) < count:
        total = distances.sum()
        shares = distances / total if total > 0 else np.full(len(distances), 1 / len(distances))
        chosen.append(values_PD[rng.choice(len(values_PD), p=shares)])
        distances = np.minimum(distances, ((values_PD - chosen[-1]) ** 2).sum(1))
    return np.stack(chosen)
