"""Labelled episodes of one red square, and a recipe small enough to train on them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from labelled_squares import TINY_POLICY, LabelledSquares

from lara_tokenizer.data import Episode


@pytest.fixture(scope="session")
def labelled_squares() -> Callable[..., list[Episode]]:
    """labelled_squares(count, cameras=("front",), dataset="", texts=("go",), width=3, bad=(), labelled=True)."""

    def make(
        count: int,
        cameras: tuple[str, ...] = ("front",),
        dataset: str = "",
        texts: tuple[str, ...] = ("go",),
        width: int = 3,
        bad: tuple[int, ...] = (),
        labelled: bool = True,
    ) -> list[Episode]:
        readers = [LabelledSquares(i, texts[i % len(texts)], width, i in bad, labelled) for i in range(count)]
        return [
            Episode(
                f"ep{i:03d}",
                reader,
                cameras,
                dataset=dataset,
                text=reader.text,
                available_signals=("actions",) * labelled,
            )
            for i, reader in enumerate(readers)
        ]

    return make


@pytest.fixture(scope="session")
def tiny_refinement(tiny_checkpoint) -> Callable[..., object]:
    """tiny_refinement(training={...}, **recipe keys) -> a recipe of 40 steps around the tiny tokenizer."""
    from lara_policy.refine import RefineRecipe

    def make(training: dict | None = None, policy: dict | None = None, **values):
        options = {
            "steps": 40,
            "batch_size": 8,
            "learning_rate": 1e-2,
            "lam_learning_rate": 1e-3,
            "log_steps": 10,
            "save_steps": 100,
            "heldout_samples": 24,
            "heldout_share": 0.2,
        }
        return RefineRecipe.parse(
            {
                "tokenizer": str(tiny_checkpoint),
                "policy": {**TINY_POLICY, **(policy or {})},
                "training": {**options, **(training or {})},
                **values,
            }
        )

    return make
