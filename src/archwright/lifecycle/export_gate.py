"""The export gate: is what the engine serves the model that was trained?

Compared are log-probabilities of next tokens, at places of held-out items, over the tokens the trained model finds
likeliest there. Four readings of each place: trained model and base by the reference (float32), and what the real
engine serves with the adapter and without. From them, in nats per token:

    served    |with adapter - trained|    what the gate is about
    rounding  |without - base|            the engine's own arithmetic, no adapter on either side
    control   |without - trained|         what would be seen if the adapter were not applied at all

The limit is LIMIT_FACTOR times the rounding (at least LIMIT_FLOOR, so that an exact engine is not asked to be exact).
Passed: the 95 % interval of `served - limit` lies below 0, and that of `control - limit` above 0. The second half is
the negative control: where it does not hold, the adapter changes too little for this gate to tell whether it is
applied, and a gate that cannot fail is not passed. Both intervals come from the same resamplings of items, in which
the limit is computed anew.

Measured on a 4-bit base of 135 M with an adapter of 40 steps: rounding 0.092, so the limit is 0.138; served 0.065,
control 2.4; wrong exports: q and k not reordered 0.186, the last layer missing 0.167, half the scale 0.43. A tenth of
the scale missing (0.114) is below what the engine's rounding lets anybody see.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from archwright.contract.lineage import Gate
from archwright.lifecycle.confidence_interval import bootstrap_interval

GATE_NAME = "export"
LIMIT_FACTOR = 1.5
LIMIT_FLOOR = 0.02
# Beyond this the reference is no reference: it differs from the engine with no adapter anywhere.
ROUNDING_CEILING = 0.3
MIN_POSITIONS = 32
MIN_ITEMS = 8

TokenLogProbabilities = Mapping[int, float]
"""Token -> its log-probability."""


class PositionReadings(NamedTuple):
    """One place of an item. The reference's readings hold its likeliest tokens, the engine's the top of its list."""

    item: int
    trained: TokenLogProbabilities
    base: TokenLogProbabilities
    served: TokenLogProbabilities
    without: TokenLogProbabilities


class ItemDistances(NamedTuple):
    """Mean distances over the places of one item, and how many places these are."""

    served: float
    rounding: float
    control: float
    places: int


def decide_export_gate(places: Sequence[PositionReadings]) -> Gate:
    """The verdict over all places, with its figures."""
    items = _group_by_item(places)
    if len(places) < MIN_POSITIONS or len(items) < MIN_ITEMS:
        few = f"only {len(places)} places of {len(items)} held-out items could be compared"
        return Gate(name=GATE_NAME, passed=False, detail=f"{few}; {MIN_POSITIONS} of {MIN_ITEMS} are needed")
    served, control, rounding = (
        _mean_distance(items, "served"),
        _mean_distance(items, "control"),
        _mean_distance(items, "rounding"),
    )
    limit = compute_limit(items)
    above = bootstrap_interval(items, lambda drawn: _mean_distance(drawn, "served") - compute_limit(drawn))
    clear = bootstrap_interval(items, lambda drawn: _mean_distance(drawn, "control") - compute_limit(drawn))
    matches, told_apart = above.high <= 0.0, clear.low > 0.0
    if rounding > ROUNDING_CEILING:
        verdict = "the engine differs from the reference without any adapter: the reference is of another model"
    elif not matches:
        verdict = "what is served is not what was trained"
    elif not told_apart:
        verdict = "the control without the adapter passes too: this adapter changes too little to tell if it is applied"
    else:
        verdict = "what is served is what was trained"
    figures = (
        f"served differs by {served:.4f} nats a token, limit {limit:.4f} (the engine's own rounding is "
        f"{rounding:.4f}), control without the adapter {control:.4f}; 95 % intervals against the limit: served "
        f"[{above.low:+.4f}, {above.high:+.4f}], control [{clear.low:+.4f}, {clear.high:+.4f}]; {len(places)} places "
        f"of {len(items)} held-out items"
    )
    passed = matches and told_apart and rounding <= ROUNDING_CEILING
    return Gate(
        name=GATE_NAME, passed=passed, detail=f"{verdict}: {figures}", value=served, limit=limit, control=control
    )


def compute_limit(items: Sequence[ItemDistances]) -> float:
    return max(LIMIT_FLOOR, LIMIT_FACTOR * _mean_distance(items, "rounding"))


def _mean_distance(items: Sequence[ItemDistances], name: str) -> float:
    total = sum(item.places for item in items)
    return sum(float(getattr(item, name)) * item.places for item in items) / total


def _group_by_item(places: Sequence[PositionReadings]) -> list[ItemDistances]:
    found: dict[int, list[tuple[float, float, float]]] = {}
    for place in places:
        found.setdefault(place.item, []).append(
            (
                log_probability_distance(place.trained, place.served),
                log_probability_distance(place.base, place.without),
                log_probability_distance(place.trained, place.without),
            )
        )
    return [ItemDistances(*_mean_columns(rows), len(rows)) for rows in found.values()]


def _mean_columns(rows: Sequence[tuple[float, float, float]]) -> tuple[float, float, float]:
    served, rounding, control = (sum(column) / len(rows) for column in zip(*rows, strict=True))
    return served, rounding, control


def log_probability_distance(wanted: TokenLogProbabilities, listed: TokenLogProbabilities) -> float:
    """Mean |difference| over the wanted tokens. A token the engine did not list is at most as likely as the last that
    it did: what is known of its distance is counted."""
    last = min(listed.values(), default=0.0)
    return sum(
        abs(value - listed[token]) if token in listed else max(0.0, value - last) for token, value in wanted.items()
    ) / len(wanted)
