"""The gate "not worse than production": a version against the one in production, over the same items.

The gate has three answers. With the 95 % interval of the difference and the margin of the spec:

passed       the whole interval lies above -margin: the version is not worse by more than the margin
failed       it is not, and an exact paired test says that the version is worse
not shown    neither: the items are too few to decide. The detail says about how many would do

The paired test is a randomisation test: if both models were equally good, each item's difference would have either
sign with equal probability. All signs are tried for few items, and drawn for many; the drawn test is exact too, since
the observed signs count as one of the draws (Phipson and Smyth, Statistical Applications in Genetics 9, 2010).
"""

import itertools
import math
from typing import Any, NamedTuple

from archwright.contract.lineage import Gate, ModelVersion, Score
from archwright.lake.lazy_modules import np
from archwright.lifecycle.confidence_interval import TAIL_SHARE, ConfidenceInterval
from archwright.training.training_spec import TrainSpec

NOT_WORSE_GATE = "not worse than production"
# Largest loss of quality that still counts as not worse, by the metric of the task; the spec's `margin` goes first.
DEFAULT_MARGINS = {"balanced_accuracy": 0.02, "nll_per_token": 0.05}

MAX_ENUMERATED = 12
DRAWS, DRAWS_AT_ONCE = 9_999, 500
SEED = 1


class PairedComparison(NamedTuple):
    """`change` is the new version's mean minus production's, positive if the new version is better.

    `differences` is an array with each item's part of the mean, for the paired test. `metric` is a key of
    DEFAULT_MARGINS. `remark` is added to the gate's detail.
    """

    metric: str
    change: ConfidenceInterval
    differences: Any
    remark: str = ""


def choose_margin(spec: TrainSpec, metric: str) -> float:
    if spec.margin is None:
        return DEFAULT_MARGINS[metric]
    return spec.margin


def decide_not_worse_gate(
    comparison: PairedComparison, margin: float, production: ModelVersion
) -> tuple[tuple[Score], Gate]:
    """The score `METRIC_gain` and the gate."""
    change = comparison.change
    items = len(comparison.differences)
    verb = "lose"
    p_value = compute_p_value(-comparison.differences)
    if change.value >= 0.0:
        verb = "gain"
        p_value = compute_p_value(comparison.differences)

    significant = p_value <= TAIL_SHARE
    passed = change.low >= -margin
    shown = passed or (significant and change.value < 0.0)
    verdict = "not shown to be not worse than"
    if passed:
        verdict = "not worse than"
        if significant and change.low > 0.0:
            verdict = "better than"
    elif shown:
        verdict = "worse than"

    name = comparison.metric.replace("_", " ")
    interval = f"{change.value:+.4f} [{change.low:+.4f}, {change.high:+.4f}]"
    figures = f"{name} gains {interval} over {items} items held out for both, margin {margin:g}"
    chance = f"an equally good version would {verb} so much with probability {p_value:.2g}"
    detail = f"{verdict} {production.id} in production: {figures}; {chance}"
    if comparison.remark:
        detail = f"{detail} ({comparison.remark})"
    if not shown:
        remedy = _name_remedy(change, items, margin)
        detail = f"{detail}. {remedy}"
    gate = Gate(name=NOT_WORSE_GATE, passed=passed, shown=shown, detail=detail, value=change.low, limit=-margin)
    score = change.to_score(f"{comparison.metric}_gain", items, 0.0, production.id)
    return (score,), gate


def refuse_comparison(production: ModelVersion, reason: str) -> Gate:
    """The gate of a version that cannot be compared: nothing is shown."""
    refusal = f"cannot be compared with {production.id}, which is in production: {reason}"
    way_out = f"roll it back first, then evaluate again: archwright models rollback {production.name}"
    detail = f"{refusal}. To replace it without a comparison, {way_out}"
    return Gate(name=NOT_WORSE_GATE, passed=False, shown=False, detail=detail)


def compute_p_value(differences: Any) -> float:
    """Probability of a sum at least as high as that of the array if a coin drew the sign of each number."""
    sizes = differences[differences != 0.0]
    # Sums of the same numbers in another order differ by rounding.
    rounding = 1e-9 * float(np.abs(sizes).sum())
    lower_bound = float(sizes.sum()) - rounding
    if len(sizes) <= MAX_ENUMERATED:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=len(sizes))))
        sums = signs @ sizes
        return float((sums >= lower_bound).mean())

    generator = np.random.default_rng(SEED)
    as_high = 1
    for begin in range(0, DRAWS, DRAWS_AT_ONCE):
        shape = min(DRAWS_AT_ONCE, DRAWS - begin), len(sizes)
        coins = generator.integers(0, 2, shape, dtype=np.int8)
        sums = (coins * 2.0 - 1.0) @ sizes
        as_high += np.count_nonzero(sums >= lower_bound)
    return float(as_high / (1 + DRAWS))


def _name_remedy(change: ConfidenceInterval, items: int, margin: float) -> str:
    room = change.value + margin
    if room <= 0.0:
        return "Train a better version; with more held-out items the gate would decide"
    # The width of an interval falls with the square root of the number of items.
    needed_ratio = ((change.value - change.low) / room) ** 2
    needed = math.ceil(items * needed_ratio)
    return f"About {needed} items would show it: train both with more rows or a larger held_out, or set a wider margin"
