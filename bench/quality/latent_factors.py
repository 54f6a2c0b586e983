"""Latent-factor model of benchmark scores: score of model i on benchmark j = mean_j + loading_j x ability_i + error.

Shares are on the logit scale, ratings and ranks (sign changed: higher is better) on their own, all standardised by
benchmark. Abilities are normal (0, 1), errors normal with a variance per benchmark. The fit alternates between the
abilities' posterior and ridge regressions of the loadings (expectation maximisation).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
FACTORS = 3
SWEEPS = 40
# Shares beyond these say more about rounding than about the model.
LEAST_SHARE = 0.004
# Weight of the prior of the loadings (0.9 on the first factor, 0 on the others), in scores.
PRIOR_SCORES = 1.0
# Prior of an error variance: 0.05 with the weight of four scores.
PRIOR_VARIANCE, PRIOR_VARIANCE_SCORES = 0.05, 4


class Scale(NamedTuple):
    """Mean and standard deviation by benchmark; `units`: share, rating or rank."""

    means: Matrix
    deviations: Matrix
    units: list[str]

    @classmethod
    def fit(cls, scores: Matrix, units: list[str]) -> Scale:
        moved = np.column_stack([transform(scores[:, at], unit) for at, unit in enumerate(units)])
        return cls(np.nanmean(moved, 0), np.nanstd(moved, 0) + 1e-9, units)

    def standardise(self, scores: Matrix) -> Matrix:
        moved = np.column_stack([transform(scores[:, at], unit) for at, unit in enumerate(self.units)])
        return (moved - self.means) / self.deviations

    def restore(self, value: float, at: int) -> float:
        return restore(value * self.deviations[at] + self.means[at], self.units[at])


def transform(values: Matrix, unit: str) -> Matrix:
    if unit == "share":
        clipped = np.clip(values, LEAST_SHARE, 1 - LEAST_SHARE)
        return np.log(clipped / (1 - clipped))
    return -values if unit == "rank" else values.copy()


def restore(value: float, unit: str) -> float:
    if unit == "share":
        return float(1 / (1 + np.exp(-value)))
    return max(1.0, -value) if unit == "rank" else value


class FactorModel(NamedTuple):
    loadings: Matrix
    intercepts: Matrix
    variances: Matrix

    def predict(self, known: Matrix) -> tuple[Matrix, Matrix]:
        """Return mean and standard deviation of every score of one model, whose unknown scores are nan."""
        seen, factors = ~np.isnan(known), self.loadings.shape[1]
        weighted = self.loadings[seen] / self.variances[seen, None]
        spread = np.linalg.inv(np.eye(factors) + weighted.T @ self.loadings[seen])
        ability = spread @ (weighted.T @ (known[seen] - self.intercepts[seen]))
        variance = np.einsum("ja,ab,jb->j", self.loadings, spread, self.loadings) + self.variances
        return self.intercepts + self.loadings @ ability, np.sqrt(variance)


def fit_factors(scores: Matrix, seed: int = 0) -> FactorModel:
    """Fit standardised `scores` (models x benchmarks, nan if unknown)."""
    models, benchmarks = scores.shape
    known, filled = ~np.isnan(scores), np.nan_to_num(scores)
    loadings = np.random.default_rng(seed).normal(0, 0.1, (benchmarks, FACTORS))
    loadings[:, 0] = 0.9
    intercepts, variances = np.zeros(benchmarks), np.full(benchmarks, 0.3)
    abilities, spreads = np.zeros((models, FACTORS)), np.zeros((models, FACTORS, FACTORS))
    ridge = np.diag([PRIOR_SCORES] * FACTORS + [1e-3])
    prior = np.array([0.9 * PRIOR_SCORES] + [0.0] * FACTORS)
    for _ in range(SWEEPS):
        for one in range(models):
            seen = known[one]
            weighted = loadings[seen] / variances[seen, None]
            spreads[one] = np.linalg.inv(np.eye(FACTORS) + weighted.T @ loadings[seen])
            abilities[one] = spreads[one] @ (weighted.T @ (filled[one, seen] - intercepts[seen]))
        for on in range(benchmarks):
            seen = known[:, on]
            design = np.column_stack([abilities[seen], np.ones(seen.sum())])
            normal = design.T @ design
            normal[:FACTORS, :FACTORS] += spreads[seen].sum(0)
            weights = np.linalg.solve(normal + ridge, design.T @ filled[seen, on] + prior)
            loadings[on], intercepts[on] = weights[:FACTORS], weights[FACTORS]
            residual = filled[seen, on] - design @ weights
            hidden = np.einsum("a,nab,b->", loadings[on], spreads[seen], loadings[on])
            total = residual @ residual + hidden + PRIOR_VARIANCE * PRIOR_VARIANCE_SCORES
            variances[on] = total / (seen.sum() + PRIOR_VARIANCE_SCORES)
    return FactorModel(loadings, intercepts, variances)
