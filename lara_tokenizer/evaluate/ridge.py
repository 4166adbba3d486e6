"""Ridge regression in closed form: scaling and PCA of features, the choice of a penalty, two blocks of features.

Shape suffixes: P pairs, F features, A target dimensions, L penalties.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from einops import rearrange

LAMBDAS = np.logspace(-4, 3, 15)
STD_FLOOR = 1e-6  # a dimension with a smaller standard deviation counts as constant
NOISE = 1e-7  # share of the largest variance below which a variance is rounding error
LEAST_SCALE = 0.01  # share of the largest standard deviation by which a dimension is divided at least
PER_DIMENSION, PER_BLOCK = "per dimension", "per block"  # scalings of features


def standardize(values: np.ndarray, train: np.ndarray) -> np.ndarray:
    """(x - mean) / std with the statistics of the training rows; a constant column becomes 0."""
    mean, std = values[train].mean(0), values[train].std(0)
    return (values - mean) / np.where(std > STD_FLOOR, std, 1)


def scalings(values_PF: np.ndarray, train: np.ndarray) -> dict[str, np.ndarray]:
    """Features under each scaling, around their mean over the training rows and within the range that those span.

    Per dimension all dimensions count alike, whatever their units; but the last components of a PCA, which are noise,
    are blown up to the size of the first. Per block all dimensions are divided by one number, their root mean square,
    so that a ridge trusts large dimensions first; but a block of unlike units is ruled by the largest.
    Neither is right for all features: validation pairs choose, see `Block.fit`.

    A single pair in which flow is estimated wrongly can lie dozens of standard deviations outside of what was seen in
    training. A line extrapolated to there says nothing, so values more than a standard deviation outside are moved to
    there. The fit does not change by it. A constant column is left out.
    """
    values = np.asarray(values_PF, np.float64)
    mean, std = values[train].mean(0), values[train].std(0)
    # Relative, so that the unit of the features does not matter; float32 rounds a constant to about 1e-7 of itself.
    varies = std > STD_FLOOR * np.maximum(np.abs(mean), std.max(initial=0))
    std, seen = std[varies], values[train][:, varies]
    if not len(std):
        return {PER_BLOCK: np.empty((len(values), 0))}
    centred = values[:, varies].clip(seen.min(0) - std, seen.max(0) + std) - mean[varies]
    return {
        PER_DIMENSION: centred / np.maximum(std, LEAST_SCALE * std.max()),
        PER_BLOCK: centred / np.sqrt((std**2).mean()),
    }


@dataclass(frozen=True, slots=True)
class Wide:
    """Features of many dimensions, of which a probe gets a PCA that is fitted on the training pairs of each fold."""

    values_PF: np.ndarray
    components: int

    @classmethod
    def of(cls, values_P: np.ndarray, components: int) -> Wide:
        """Features of any shape (P, ...), with equal inner products in as few dimensions as there are pairs.

        A PCA finds the same components in those, and five folds find them in a fraction of the time.
        """
        import torch

        values = torch.from_numpy(rearrange(np.asarray(values_P, np.float32), "p ... -> p (...)"))
        pairs, width = values.shape
        if 2 * pairs > width:
            return cls(values.numpy(), components)
        # X' = Q R with orthonormal Q: X X' = R'R.
        return cls(torch.linalg.qr((values - values.mean(0)).T, mode="r").R.T.contiguous().numpy(), components)

    def reduced(self, train: np.ndarray) -> np.ndarray:
        """(P, <= components), the components of the training rows."""
        return principal_components(self.values_PF, train, self.components)


def principal_components(values_PF: np.ndarray, train: np.ndarray, components: int) -> np.ndarray:
    """Randomized PCA (fixed seed), fitted on the training rows and applied to all: (P, <= components)."""
    import torch

    values = torch.from_numpy(np.asarray(values_PF, np.float32))
    fitted = values[torch.from_numpy(train)]
    mean = fitted.mean(0)
    fitted -= mean  # indexing copied it
    components = min(components, *fitted.shape)
    generator = torch.Generator().manual_seed(0)
    # Halko et al. 2011: a random projection, two power iterations, then an exact decomposition of B = U S V'.
    basis = fitted @ torch.randn(fitted.shape[1], components + min(16, components), generator=generator)
    for _ in range(2):
        basis = fitted @ (fitted.T @ torch.linalg.qr(basis).Q)
    left = torch.linalg.qr(basis).Q.T @ fitted
    # B B' = U S^2 U' is small, so V' = U'B / S is cheap; directions below the noise of float32 become 0.
    squares, vectors = torch.linalg.eigh((left @ left.T).double())
    squares, vectors = squares.flip(0)[:components], vectors.flip(1)[:, :components]
    scale = torch.where(squares > NOISE * squares[0], squares.clamp(min=0).rsqrt(), 0)
    directions = (vectors * scale).T.float() @ left
    return (values @ directions.T - directions @ mean).numpy()


class Ridge:
    """Ridge regression, argmin_W mean |X W - Y|^2 + penalty |W|^2, for many penalties and targets by one decomposition.

    With X'X / P = V diag(s) V' it is W = V diag(1 / (s + penalty)) V'X'Y / P; where there are more features than
    pairs, with XX' / P = U diag(s) U' the same W is X'U diag(1 / (s + penalty)) U'Y / P.
    """

    def __init__(self, features_PF: np.ndarray) -> None:
        count, width = features_PF.shape
        if width <= count:
            self.values, self.left = np.linalg.eigh(features_PF.T @ features_PF / count)
            self.right = (features_PF @ self.left).T / count
        else:
            self.values, vectors = np.linalg.eigh(features_PF @ features_PF.T / count)
            self.left = features_PF.T @ vectors
            self.right = vectors.T / count

    def rotated(self, targets_PA: np.ndarray, penalties: np.ndarray) -> np.ndarray:
        """(L, ., A), the weights before `left` is applied to them."""
        shrunk = self.values.clip(0) + np.asarray(penalties, np.float64)[:, None]
        return (self.right @ targets_PA) / np.maximum(shrunk, np.finfo(np.float64).tiny)[..., None]

    def weights(self, targets_PA: np.ndarray, penalty: float) -> np.ndarray:
        """W (F, A) for one penalty."""
        return self.left @ self.rotated(targets_PA, np.array([penalty]))[0]

    def spectrum(self) -> tuple[np.ndarray, np.ndarray]:
        """The values s above rounding error, and U' (., P), one row for each."""
        large = self.values > NOISE * self.values.max(initial=0)
        rows = self.right[large]
        return self.values[large], rows / np.linalg.norm(rows, axis=1, keepdims=True)


@dataclass(frozen=True, slots=True)
class Sides:
    """The training, validation and test rows of a matrix in one fold."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    def times(self, weights: np.ndarray) -> Sides:
        """Each side times the weights."""
        return Sides(self.train @ weights, self.validation @ weights, self.test @ weights)


@dataclass(frozen=True, slots=True)
class Fitted:
    """A ridge whose scaling and penalty the validation pairs chose."""

    x: Sides
    solver: Ridge
    scaling: str
    penalty: float
    predictions: Sides

    def without(self, sides: Sides) -> Sides:
        """Other features, or targets, as those of a ridge beside this one.

        With W_x profiled out of mean |y - x W_x - f W|^2 + penalty |W_x|^2, what is left to minimize over W is
        mean |M^.5 (y - f W)|^2, where M = 1 - x (x'x + P penalty)^-1 x' = 1 - U diag(s / (s + penalty)) U'. So the
        training rows are multiplied by M^.5, and the others lose their prediction from x.
        """
        values, vectors = self.solver.spectrum()
        shrink = 1 - np.sqrt(self.penalty / (values + self.penalty))
        weights = self.solver.weights(sides.train, self.penalty)
        return Sides(
            sides.train - vectors.T @ (shrink[:, None] * (vectors @ sides.train)),
            sides.validation - self.x.validation @ weights,
            sides.test - self.x.test @ weights,
        )


class Block:
    """Features in one fold, decomposed once under each scaling, for fits to several targets."""

    def __init__(self, scaled: dict[str, Sides]) -> None:
        self.scaled = scaled
        self.solvers = {scaling: Ridge(sides.train) for scaling, sides in scaled.items()}

    def beside(self, other: Fitted) -> Block:
        """The same features beside those of another ridge; both have a scaling and a penalty of their own."""
        return Block({scaling: other.without(sides) for scaling, sides in self.scaled.items()})

    def fit(self, y: Sides) -> Fitted:
        """Fit on the training rows; scaling and penalty have the least squared error in the validation rows."""
        errors = {scaling: self._errors(scaling, y) for scaling in self.scaled}
        scaling = min(errors, key=lambda each: errors[each].min())
        penalty = float(LAMBDAS[errors[scaling].argmin()])
        x, solver = self.scaled[scaling], self.solvers[scaling]
        return Fitted(x, solver, scaling, penalty, x.times(solver.weights(y.train, penalty)))

    def _errors(self, scaling: str, y: Sides) -> np.ndarray:
        """Squared errors (L,) in the validation rows."""
        solver = self.solvers[scaling]
        predicted = self.scaled[scaling].validation @ solver.left @ solver.rotated(y.train, LAMBDAS)
        return ((y.validation - predicted) ** 2).sum((1, 2))
