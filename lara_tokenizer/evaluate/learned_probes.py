"""Probes trained by gradient descent: a linear one under an absolute loss, and a small MLP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from lara_tokenizer.evaluate.figures import rounded
from lara_tokenizer.evaluate.probes import Split, cross_fit_splits, pooled_r2
from lara_tokenizer.evaluate.ridge import STD_FLOOR, standardize

Fitted = Callable[[Tensor], Tensor]

L1_STEPS, L1_LEARNING_RATE = 400, 0.02
# LARYBench's probe with a hidden width of 256 instead of 4096, 30 epochs instead of 50, and a learning rate ten times
# as high, so that it takes half a minute on a CPU.
WIDTH, EPOCHS, BATCH = 256, 30, 256
LEARNING_RATE, WEIGHT_DECAY, WARM_UP = 1e-3, 1e-4, 0.1


class _ResidualBlock(nn.Module):
    """x + MLP(LayerNorm(x))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def fit_l1(x: Tensor, y: Tensor, validation_x: Tensor, validation_y: Tensor) -> Fitted:
    """Fit argmin_W mean |X W + b - Y| by Adam on all pairs at once, from zero, with a cosine learning rate."""
    layer = nn.Linear(x.shape[1], y.shape[1])
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.Adam(layer.parameters(), L1_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, L1_STEPS)
    for _ in range(L1_STEPS):
        optimizer.zero_grad()
        nn.functional.l1_loss(layer(x), y).backward()
        optimizer.step()
        schedule.step()
    return layer


def fit_mlp(x: Tensor, y: Tensor, validation_x: Tensor, validation_y: Tensor) -> Fitted:
    """Fit LayerNorm, linear, two residual blocks, linear under a Huber loss; keep the best epoch on validation."""
    model = nn.Sequential(
        nn.LayerNorm(x.shape[1]),
        nn.Linear(x.shape[1], WIDTH),
        _ResidualBlock(WIDTH),
        _ResidualBlock(WIDTH),
        nn.Linear(WIDTH, y.shape[1]),
    )
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    steps = max(1, round(WARM_UP * EPOCHS * -(-len(x) // BATCH)))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / steps))
    best, best_state = np.inf, model.state_dict()
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            nn.functional.huber_loss(model(x[rows]), y[rows]).backward()
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            error = float(nn.functional.huber_loss(model(validation_x), validation_y))
        if error < best:
            best, best_state = error, {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(best_state)
    return model


def learned_probe(
    fit: Callable[[Tensor, Tensor, Tensor, Tensor], Fitted],
    features_P: np.ndarray,
    targets_PA: np.ndarray,
    episode_P: np.ndarray,
    *,
    task_E: Sequence[Any] | None = None,
    seed: int = 0,
) -> dict[str, float | None]:
    """R2 and mean absolute error of a probe, cross-fitted by episode as in `probes.probe_actions`.

    Returns `r2`; `mae`, in standard deviations of the training pairs; and `mae_of_mean`, that of predicting their mean.
    """
    features = rearrange(np.asarray(features_P), "p ... -> p (...)")
    targets = np.asarray(targets_PA, np.float64)
    targets = targets[:, targets.std(0) > STD_FLOOR]
    errors, mean_errors, absolute, mean_absolute = (np.zeros(targets.shape[1]) for _ in range(4))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for split in cross_fit_splits(episode_P, task_E, seed):
            predicted, y = _predict(fit, features, targets, split)
            scale = targets[split.train].std(0)
            scale = np.where(scale > STD_FLOOR, scale, 1)
            # R2 is pooled in the units of the targets, so that folds with different scales add up.
            errors += (((y - predicted) * scale) ** 2).sum(0)
            mean_errors += ((y * scale) ** 2).sum(0)
            absolute += np.abs(y - predicted).sum(0)
            mean_absolute += np.abs(y).sum(0)
    return {
        "r2": rounded(pooled_r2(errors[None], mean_errors[None])[0]),
        "mae": rounded(absolute.mean() / len(targets)),
        "mae_of_mean": rounded(mean_absolute.mean() / len(targets)),
    }


def _predict(
    fit: Callable[[Tensor, Tensor, Tensor, Tensor], Fitted], features: np.ndarray, targets: np.ndarray, split: Split
) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and targets of the test pairs, standardized by the training pairs."""
    train, validation, test = split.train, split.validation, split.test
    x = torch.from_numpy(standardize(features.astype(np.float64), train)).float()
    y = torch.from_numpy(standardize(targets, train)).float()
    sides = [torch.from_numpy(mask) for mask in (train, validation, test)]
    # Callers may have turned gradients off.
    with torch.enable_grad():
        predict = fit(x[sides[0]], y[sides[0]], x[sides[1]], y[sides[1]])
    with torch.no_grad():
        return predict(x[sides[2]]).double().numpy(), y[sides[2]].double().numpy()
