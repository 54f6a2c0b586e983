"""The export gate: does the engine serve the model that was trained?

Compares log-probabilities of next tokens at places of held-out items, over the trained model's likeliest tokens. Each
place has four readings: trained model and base in float32, and the engine with and without the adapter. In nats per
token:

    served    |with adapter - trained|    the gated distance
    rounding  |without - base|            the engine's arithmetic, no adapter on either side
    control   |without - trained|         the distance if the adapter were not applied

The limit is LIMIT_FACTOR times the rounding, at least LIMIT_FLOOR. The gate passes if the 95 % interval of `served -
limit` lies below 0 and that of `control - limit` above 0. The second condition is the negative control: if it fails,
the adapter changes too little for the gate to detect. Both intervals come from the same resamplings of items, each
with its own limit.

Measured on a 4-bit base of 135 M with an adapter of 40 steps: rounding 0.092, limit 0.138, served 0.065, control 2.4;
wrong exports: q and k not reordered 0.186, last layer missing 0.167, half the scale 0.43. A scale that is 10 % too
small (0.114) is below the limit.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from archwright.contract.lineage import Gate
from archwright.lifecycle.confidence_interval import bootstrap_interval

GATE_NAME = "export"
LIMIT_FACTOR = 1.5
LIMIT_FLOOR = 0.02
# Above this rounding the reference is another model, since it differs from the engine without any adapter.
ROUNDING_CEILING = 0.3
MIN_POSITIONS = 32
MIN_ITEMS = 8

TokenLogProbabilities = Mapping[int, float]
"""Token -> its log-probability."""


class PositionReadings(NamedTuple):
    """The readings at one place of an item, each for the model's own likeliest tokens."""

    item: int
    trained: TokenLogProbabilities
    base: TokenLogProbabilities
    served: TokenLogProbabilities
    without: TokenLogProbabilities


class ItemDistances(NamedTuple):
    """Mean distances over the places of one item, and the number of places."""

    served: float
    rounding: float
    control: float
    places: int


def decide_export_gate(places: Sequence[PositionReadings]) -> Gate:
    items = _group_by_item(places)
    if len(places) < MIN_POSITIONS or len(items) < MIN_ITEMS:
        few = f"only {len(places)} positions of {len(items)} held-out items could be compared"
        detail = f"{few}; the gate needs {MIN_POSITIONS} of {MIN_ITEMS} items"
        return Gate(name=GATE_NAME, passed=False, shown=False, detail=detail)
    served, control, rounding = (_mean_distance(items, name) for name in ("served", "control", "rounding"))
    limit = compute_limit(items)
    above = bootstrap_interval(items, lambda drawn: _mean_distance(drawn, "served") - compute_limit(drawn))
    clear = bootstrap_interval(items, lambda drawn: _mean_distance(drawn, "control") - compute_limit(drawn))
    matches, told_apart = above.high <= 0.0, clear.low > 0.0
    if rounding > ROUNDING_CEILING:
        verdict = "the engine differs from the reference even without an adapter: the reference is another model"
    elif not matches:
        verdict = "the served model differs from the trained model"
    elif not told_apart:
        verdict = "the control without the adapter passes too: the adapter changes too little to tell if it is applied"
    else:
        verdict = "the served model is the trained model"
    figures = (
        f"difference {served:.4f} nats per token, limit {limit:.4f} (rounding of the engine: {rounding:.4f}). "
        f"Control without the adapter: {control:.4f}. 95 % intervals of the distance to the limit: "
        f"served [{above.low:+.4f}, {above.high:+.4f}], control [{clear.low:+.4f}, {clear.high:+.4f}]. "
        f"{len(places)} positions of {len(items)} held-out items"
    )
    passed, detail = matches and told_apart and rounding <= ROUNDING_CEILING, f"{verdict}: {figures}"
    return Gate(name=GATE_NAME, passed=passed, detail=detail, value=served, limit=limit, control=control)


def compute_limit(items: Sequence[ItemDistances]) -> float:
    return max(LIMIT_FLOOR, LIMIT_FACTOR * _mean_distance(items, "rounding"))


def _mean_distance(items: Sequence[ItemDistances], name: str) -> float:
    total = sum(item.places for item in items)
    return sum(float(getattr(item, name)) * item.places for item in items) / total


def _group_by_item(places: Sequence[PositionReadings]) -> list[ItemDistances]:
    found: dict[int, list[tuple[float, float, float]]] = {}
    for place in places:
        served = log_probability_distance(place.trained, place.served)
        rounding = log_probability_distance(place.base, place.without)
        control = log_probability_distance(place.trained, place.without)
        found.setdefault(place.item, []).append((served, rounding, control))
    items = []
    for rows in found.values():
        served, rounding, control = (sum(column) / len(rows) for column in zip(*rows, strict=True))
        items.append(ItemDistances(served, rounding, control, len(rows)))
    return items


def log_probability_distance(wanted: TokenLogProbabilities, listed: TokenLogProbabilities) -> float:
    """Mean absolute difference over the `wanted` tokens.

    A token that the engine did not list is at most as likely as its last listed token; this bound is its value.
    """
    last = min(listed.values(), default=0.0)
    return sum(
        abs(value - listed[token]) if token in listed else max(0.0, value - last) for token, value in wanted.items()
    ) / len(wanted)
