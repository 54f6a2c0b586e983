"""The quality of models, for a choice that no floor of the needs decides.

Quality = mean share over BENCHMARKS. A model's own score is the lowest reported one. A missing score comes from a fit:
logit(share) = ability of the model + ease of the benchmark. Each ability is drawn towards a line over
log10(parameters) with the weight of one score. Thus two models are compared on the benchmarks that both know.
With one of six scores of a model left out, the fit misses it by 0.07 on average (18 of 170 scores, 2026-11-28).

A rank r (1 is best) is the share 1/r. A rating is the share of people who prefer the answer to that of a model of
rating MIDDLE_RATING. A language other than English adds its benchmarks; its weight is split by the number of measured
models. So a model without a score on an axis is neither better nor worse by it.

Limits: most scores are reported by the maker, by differing methods. They say little about a subject or a tone, and
nothing about the loss by a quantisation. A difference below 0.03 means little. A model without any score
counts as weaker than nine of ten scored models of its size.
"""

import functools
import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from typing import NamedTuple, TypeVar

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.quality_rules import LANGUAGE, read_language_benchmarks, read_quality_weights
from archwright.catalog.tables.records import ModelSpec
from archwright.contract.decision import ScoreEvidence
from archwright.contract.needs import Workload

BENCHMARKS = ("mmlu", "mmlu_pro", "gpqa", "ifeval", "livecodebench", "humaneval")
# Beyond these shares a logit says more about rounding than about the model.
LEAST_SHARE, MOST_SHARE = 0.005, 0.995
# The means converge to SMALL_STEP in fewer sweeps.
SWEEPS, SMALL_STEP = 60, 1e-6
# 10th percentile of a normal distribution, in standard deviations.
Z10 = 1.2816
# Two models whose quality differs by less count as equal.
EQUAL_QUALITY = 0.01
# About the median of the open models on lmarena; 400 points are odds of 10 to 1.
MIDDLE_RATING, RATING_SCALE = 1300.0, 400.0
ENGLISH = "en"
# The kind of work in several model calls per request; any other kind of work is the kind of the workload.
AGENT = "agent"

Evidence = Mapping[str, ScoreEvidence]
K = TypeVar("K", bound=Hashable)


class ModelQuality(NamedTuple):
    """A share from 0 to 1, and how many of the benchmarks have a score, and a measured one."""

    share: float
    scores: int
    measured: int = 0

    @property
    def rank(self) -> tuple[int, int]:
        """Return a key that is larger for the better model, and of equal models for the one with more measurements."""
        return round(self.share / EQUAL_QUALITY), self.measured


class QualityRater:
    """Rates models for a kind of work in some languages: the weighted mean over benchmarks (quality_weights.csv)."""

    def __init__(self, catalog: Catalog, kind: str, languages: tuple[str, ...] = ()) -> None:
        known = {("", name): catalog.open_evidence(name) for name in catalog.models}
        known |= {(row.provider, row.id): catalog.hosted_evidence(row.provider, row.id) for row in catalog.hosted}
        self.weights = weigh_benchmarks(kind, languages, known.values())
        shares = {
            key: {one: to_share(found[one]) for one in self.weights if one in found} for key, found in known.items()
        }
        sizes = {("", model.id): float(model.parameters) for model in catalog.models.values()}
        rated = fit_quality(shares, sizes, self.weights)
        self._rated = {
            key: rated[key]._replace(measured=sum(not found[name].estimated for name in shares[key]))
            for key, found in known.items()
        }

    def rate(self, model: str, provider: str = "") -> ModelQuality:
        """Return the quality of a hosted model, or without `provider` of an open one; no scores: a share of 0."""
        found = self._rated.get((provider, model))
        return found if found is not None and found.scores else ModelQuality(0.0, 0)


def to_share(score: ScoreEvidence) -> float:
    """Return a share from 0 to 1, larger for the better model."""
    if score.unit == "rank":
        return 1.0 / max(score.value, 1.0)
    if score.unit == "rating":
        return float(1.0 / (1.0 + 10.0 ** ((MIDDLE_RATING - score.value) / RATING_SCALE)))
    return score.value


def weigh_benchmarks(kind: str, languages: tuple[str, ...], known: Iterable[Evidence]) -> dict[str, float]:
    """Return the weight of each benchmark; each language has an equal part, split by the measured models."""
    weights = {row.benchmark: row.weight for row in read_quality_weights() if row.kind == kind}
    whole = weights.pop(LANGUAGE, 0.0)
    of_language = {one: read_language_benchmarks()[one] for one in languages if one in read_language_benchmarks()}
    names = {name for found in of_language.values() for name in found} if whole else set()
    counts = Counter(name for found in known for name in names & found.keys() if not found[name].estimated)
    for found in of_language.values():
        scored = sum(counts[name] for name in found)
        for name in (name for name in found if counts[name]):
            weights[name] = weights.get(name, 0.0) + whole / len(of_language) * counts[name] / scored
    return weights


def list_foreign_languages(workload: Workload) -> tuple[str, ...]:
    """Return the languages of the workload except English, in which most benchmarks are written."""
    return tuple(sorted({*workload.languages} - {ENGLISH}))


def find_rater(catalog: Catalog, workload: Workload) -> QualityRater:
    return _build_rater(catalog, classify_work(workload), list_foreign_languages(workload))


@functools.lru_cache(maxsize=16)
def _build_rater(catalog: Catalog, kind: str, languages: tuple[str, ...]) -> QualityRater:
    return QualityRater(catalog, kind, languages)


def classify_work(workload: Workload) -> str:
    """Return the kind of work that floors and weights refer to."""
    steps = workload.traffic.agent_steps if workload.traffic is not None else None
    return AGENT if (steps or 1) > 1 else workload.kind


def rate_models(models: Iterable[ModelSpec]) -> dict[str, ModelQuality]:
    """Return the quality of each model by its id."""
    listed = tuple(models)
    known = {model.id: {on: model.quality[on] for on in BENCHMARKS if on in model.quality} for model in listed}
    sizes = {model.id: float(model.parameters) for model in listed}
    return fit_quality(known, sizes, dict.fromkeys(BENCHMARKS, 1.0))


def fit_quality(
    shares: Mapping[K, Mapping[str, float]], parameters: Mapping[K, float], weights: Mapping[str, float]
) -> dict[K, ModelQuality]:
    """Return the weighted mean share of each model, with fitted shares for missing scores.

    A model whose `parameters` are not known is not drawn to the line over sizes.
    """
    known = {name: _read_logits(found) for name, found in shares.items()}
    sizes = {name: math.log10(max(parameters[name], 1)) for name in known if name in parameters}
    scored = {name: logits for name, logits in known.items() if logits}
    lined = [name for name in scored if name in sizes]
    if not scored or not lined:
        return {name: ModelQuality(0.0, 0) for name in known}
    ease = dict.fromkeys(weights, 0.0)
    line = (0.0, 0.0)
    ability = dict.fromkeys(scored, 0.0)
    for _ in range(SWEEPS):
        for name, logits in scored.items():
            drawn = [line[0] + line[1] * sizes[name]] if name in sizes else []
            ability[name] = (sum(drawn) + sum(own - ease[on] for on, own in logits.items())) / (
                len(drawn) + len(logits)
            )
        before = dict(ease)
        for on in ease:
            rest = [logits[on] - ability[name] for name, logits in scored.items() if on in logits]
            ease[on] = sum(rest) / len(rest) if rest else 0.0
        line = _fit_line([(sizes[name], ability[name]) for name in lined])
        if all(abs(ease[on] - was) < SMALL_STEP for on, was in before.items()):
            break
    off = [ability[name] - line[0] - line[1] * sizes[name] for name in lined]
    spread = math.sqrt(sum(one * one for one in off) / len(off))
    whole = sum(weights.values())
    found = {}
    for name, logits in known.items():
        level = ability.get(name, line[0] + line[1] * sizes.get(name, 0.0) - Z10 * spread)
        total = sum(weight * _to_share(logits.get(on, level + ease[on])) for on, weight in weights.items())
        found[name] = ModelQuality(total / whole, len(logits))
    return found


def _read_logits(shares: Mapping[str, float]) -> dict[str, float]:
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
