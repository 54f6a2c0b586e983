"""The quality of open models, for a choice that no floor of the needs decides.

Quality = mean share over BENCHMARKS. A model's own score is the lowest reported one. A missing score comes from a fit:
logit(share) = ability of the model + ease of the benchmark. Each ability is drawn towards a line over
log10(parameters) with the weight of one score. Thus two models are compared on the benchmarks that both know.
With one of six scores of a model left out, the fit misses it by 0.07 on average (18 of 170 scores, 2026-11-28).

Limits: most scores are reported by the maker, by differing methods. They say little about a language, a subject or a
tone, and nothing about the loss by a quantisation. A difference below 0.03 means little. A model without any score
counts as weaker than nine of ten scored models of its size.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

from archwright.catalog.tables.records import ModelSpec

BENCHMARKS = ("mmlu", "mmlu_pro", "gpqa", "ifeval", "livecodebench", "humaneval")
# Beyond these shares a logit says more about rounding than about the model.
LEAST_SHARE, MOST_SHARE = 0.005, 0.995
# The means converge to 1e-9 in fewer sweeps.
SWEEPS = 60
# 10th percentile of a normal distribution, in standard deviations.
Z10 = 1.2816


class ModelQuality(NamedTuple):
    """A share from 0 to 1, and how many of BENCHMARKS have a reported score."""

    share: float
    scores: int


def rate_models(models: Iterable[ModelSpec]) -> dict[str, ModelQuality]:
    """Return the quality of each model by its id."""
    known = {model.id: _read_logits(model) for model in models}
    sizes = {model.id: math.log10(max(model.parameters, 1)) for model in models}
    scored = {name: logits for name, logits in known.items() if logits}
    if not scored:
        return {name: ModelQuality(0.0, 0) for name in known}
    ease = dict.fromkeys(BENCHMARKS, 0.0)
    line = (0.0, 0.0)
    ability = dict.fromkeys(scored, 0.0)
    for _ in range(SWEEPS):
        for name, logits in scored.items():
            pulled = line[0] + line[1] * sizes[name]
            ability[name] = (pulled + sum(own - ease[on] for on, own in logits.items())) / (1 + len(logits))
        for on in BENCHMARKS:
            rest = [logits[on] - ability[name] for name, logits in scored.items() if on in logits]
            ease[on] = sum(rest) / len(rest) if rest else 0.0
        line = _fit_line([(sizes[name], ability[name]) for name in scored])
    off = [ability[name] - line[0] - line[1] * sizes[name] for name in scored]
    spread = math.sqrt(sum(one * one for one in off) / len(off))
    found = {}
    for name, logits in known.items():
        level = ability.get(name, line[0] + line[1] * sizes[name] - Z10 * spread)
        shares = [_to_share(logits.get(on, level + ease[on])) for on in BENCHMARKS]
        found[name] = ModelQuality(sum(shares) / len(shares), len(logits))
    return found


def _read_logits(model: ModelSpec) -> dict[str, float]:
    shares = {on: model.quality[on] for on in BENCHMARKS if on in model.quality}
    clipped = {on: min(max(share, LEAST_SHARE), MOST_SHARE) for on, share in shares.items()}
    return {on: math.log(share / (1 - share)) for on, share in clipped.items()}


def _to_share(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def _fit_line(points: list[tuple[float, float]]) -> tuple[float, float]:
    """Return intercept and slope of least squares; slope 0 if all sizes are equal."""
    mean_x, mean_y = (sum(values) / len(points) for values in zip(*points, strict=True))
    wide = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / wide if wide else 0.0
    return mean_y - slope * mean_x, slope
