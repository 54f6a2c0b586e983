"""Evaluation of a text model against its base, the version in production, and the served model.

Held-out items are taken in the order of their ids, which is random and reproducible. Quality is the mean negative
log-likelihood of a supervised token in nats. The gate "quality" passes if the 95 % interval of the difference between
tuned model and base lies below 0. The version in production is compared over the items that both runs held out.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from archwright.contract.lineage import Gate, ModelVersion, Score
from archwright.engines.engine_config import EngineConfig
from archwright.errors import ErrorLocation, ModelError, TrainError
from archwright.home import Home
from archwright.lake.lazy_modules import np
from archwright.lake.tables import version_index
from archwright.lifecycle import evaluation_engine, export_gate, production_gate
from archwright.lifecycle.confidence_interval import ConfidenceInterval, bootstrap_interval, weighted_mean
from archwright.lifecycle.evaluation_engine import LogProbabilityQuery
from archwright.lifecycle.export_gate import PositionReadings
from archwright.lifecycle.model_placement import find_pool, read_plan
from archwright.lifecycle.production_gate import PairedComparison
from archwright.lifecycle.reference_model import ReferenceModel
from archwright.store import Store
from archwright.training import base_model, training_data, training_runs
from archwright.training.sequence_packing import EncodedSample
from archwright.training.text_lora import encode_row
from archwright.training.training_spec import TrainSpec

# Gives an interval of a few percent in about 20 s on one core for a model of 135 M.
MAX_ITEMS, MAX_TOKENS = 64, 3072
# The export gate reads windows around the first supervised token.
MAX_WINDOWS, POSITIONS_PER_WINDOW = 12, 4
TOKENS_BEFORE, TOKENS_AFTER = 96, 64
TOP_TOKENS, LISTED_TOKENS = 8, 200


class HeldOutItem(NamedTuple):
    """`key` is the item's split key."""

    key: str
    sample: EncodedSample


class Candidate(NamedTuple):
    """A version with its held-out items and their losses: nats and supervised tokens of each item."""

    model: ModelVersion
    spec: TrainSpec
    items: Sequence[HeldOutItem]
    losses: Sequence[tuple[float, int]]


class TokenWindow(NamedTuple):
    """A range of an item's tokens, and the places in it that are compared."""

    ids: list[int]
    places: list[int]


def evaluate_text_model(
    store: Store,
    home: Home,
    model: ModelVersion,
    *,
    production: ModelVersion | None,
    tell: Callable[[str], None],
) -> tuple[tuple[Score, ...], tuple[Gate, ...]]:
    """Scores and gates; `production` is the version to compare with, None if there is none.

    `tell` gets progress messages. Raises TrainError AW-TRN-22 (no run folder), ModelError AW-MOD-30 (the engine did not
    start), AW-MOD-31 (no held-out rows).
    """
    spec, job = training_runs.load_spec(home, model.run), training_runs.load_job(home, model.run)
    held = training_data.load_version(home, version_index.find_version(store, model.dataset_version), spec).held_out
    reference = ReferenceModel(base_model.prepare_base(home, model.base_sha256, model.base), job.threads)
    rows = held.table.slice(0, MAX_ITEMS).to_pylist()
    encoded = (encode_row(reference.tokenizer, row, spec) for row in rows)
    held_items = _limit_items(map(HeldOutItem, held.keys, encoded))
    if not held_items:
        message = f"{model.id} cannot be evaluated: its data set has no held-out row with a supervised token"
        hint = "train it again with held_out: 0.1 and more rows"
        raise ModelError("AW-MOD-31", message, where=ErrorLocation(field=model.dataset_version), hint=hint)
    items = [item.sample for item in held_items]
    windows = [window for item in items if (window := _cut_window(item)) is not None][:MAX_WINDOWS]
    tell(f"reading {len(items)} held-out items with {model.base}")
    plain_losses, plain_tokens = _measure_model(reference, items, windows)
    tell(f"reading the held-out items with {model.id}")
    reference.load_adapter(home.run(model.run) / "result")
    tuned_losses, tuned_tokens = _measure_model(reference, items, windows)
    production_scores: tuple[Score, ...] = ()
    production_gates: tuple[Gate, ...] = ()
    if production is not None:
        tell(f"reading the held-out items with {production.id}, which is in production")
        candidate = Candidate(model, spec, held_items, tuned_losses)
        production_scores, gate = _compare_with_production(home, reference, candidate, production=production)
        production_gates = (gate,)
    prompts = [window.ids[:place] for window in windows for place in window.places]
    query = LogProbabilityQuery(prompts, reference.find_whole_character(), LISTED_TOKENS)
    del reference
    tell("querying the engine, with and without the adapter")
    with_adapter = _query_engine(home, model, query, model.sha256)
    without = _query_engine(home, model, query, None)
    numbers = [number for number, window in enumerate(windows) for _ in window.places]
    readings = zip(numbers, tuned_tokens, plain_tokens, with_adapter, without, strict=True)
    scores, quality = _quality_gate(plain_losses, tuned_losses, model)
    export = export_gate.decide_export_gate([PositionReadings(*reading) for reading in readings])
    return (*scores, *production_scores), (quality, export, *production_gates)


def _compare_with_production(
    home: Home, reference: ReferenceModel, candidate: Candidate, *, production: ModelVersion
) -> tuple[tuple[Score, ...], Gate]:
    """The score and the gate over the items that both runs held out."""
    model = candidate.model
    if production.base_sha256 != model.base_sha256:
        reason = f"its base is {production.base}, and the base of {model.id} is {model.base}"
        return (), production_gate.refuse_comparison(production, reason)
    try:
        production_spec = training_runs.load_spec(home, production.run)
        reference.load_adapter(home.run(production.run) / "result")
    except (TrainError, ModelError) as error:
        return (), production_gate.refuse_comparison(production, error.message)

    share = min(candidate.spec.held_out, production_spec.held_out)
    samples: list[EncodedSample] = []
    new_losses: list[float] = []
    for item, (loss, _tokens) in zip(candidate.items, candidate.losses, strict=True):
        if training_data.is_held_out(item.key, share):
            samples.append(item.sample)
            new_losses.append(loss)
    if len(samples) < export_gate.MIN_ITEMS:
        few = f"only {len(samples)} items of {export_gate.MIN_ITEMS} that are needed were held out for both"
        return (), production_gate.refuse_comparison(production, f"{few}; train with the same held_out and more rows")

    gains: list[tuple[float, int]] = []
    for new_loss, (loss, tokens) in zip(new_losses, reference.losses(samples), strict=True):
        gains.append((loss - new_loss, tokens))
    change = bootstrap_interval(gains, weighted_mean)
    nats, tokens_by_item = np.array(gains).T
    comparison = PairedComparison("nll_per_token", change, nats / tokens_by_item.sum())
    margin = production_gate.choose_margin(candidate.spec, comparison.metric)
    return production_gate.decide_not_worse_gate(comparison, margin, production)


def _measure_model(
    reference: ReferenceModel, items: Sequence[EncodedSample], windows: Sequence[TokenWindow]
) -> tuple[list[tuple[float, int]], list[dict[int, float]]]:
    """(losses of the items, top tokens at the places of the windows)."""
    tokens = [found for window in windows for found in reference.top_tokens(window.ids, window.places, TOP_TOKENS)]
    return reference.losses(items), tokens


def _limit_items(encoded: Iterable[HeldOutItem]) -> list[HeldOutItem]:
    """The items with supervised tokens, up to MAX_TOKENS in total, at least one item."""
    found: list[HeldOutItem] = []
    left = MAX_TOKENS
    for item in encoded:
        left -= len(item.sample.ids)
        if found and left < 0:
            break
        if any(item.sample.supervised[1:]):
            found.append(item)
    return found


def _cut_window(item: EncodedSample) -> TokenWindow | None:
    """None for an item with fewer supervised tokens than places."""
    first = next(place for place, learned in enumerate(item.supervised) if learned and place > 0)
    begin = max(0, first - TOKENS_BEFORE)
    ids = item.ids[begin : first + TOKENS_AFTER]
    choice = [place - begin for place in range(first, begin + len(ids)) if item.supervised[place]]
    if len(choice) < POSITIONS_PER_WINDOW:
        return None
    step, last = len(choice) - 1, POSITIONS_PER_WINDOW - 1
    return TokenWindow(ids, [choice[number * step // last] for number in range(POSITIONS_PER_WINDOW)])


def _query_engine(
    home: Home, model: ModelVersion, query: LogProbabilityQuery, adapter_sha256: str | None
) -> list[dict[int, float]]:
    """The engine's top tokens at every place, with the engine settings of this home's plan."""
    pool = find_pool(read_plan(home), model)
    config = EngineConfig(
        engine="llamacpp",
        socket=evaluation_engine.socket_name(),
        alias=model.id,
        slots=1,
        context_tokens=TOKENS_BEFORE + TOKENS_AFTER + 1,
        default_max_tokens=1,
        model_sha256=model.base_sha256,
        adapter_sha256=adapter_sha256,
        settings={} if pool is None else pool.launch.settings,
    )
    return evaluation_engine.query_log_probabilities(home, config, query)


def _quality_gate(
    plain: Sequence[tuple[float, int]], tuned: Sequence[tuple[float, int]], model: ModelVersion
) -> tuple[tuple[Score, ...], Gate]:
    before, after = bootstrap_interval(plain, weighted_mean), bootstrap_interval(tuned, weighted_mean)
    both = [(new[0] - old[0], new[1]) for new, old in zip(tuned, plain, strict=True)]
    change = bootstrap_interval(both, weighted_mean)
    items = len(tuned)
    scores = (
        after.to_score("nll_per_token", items, before.value, model.base),
        change.to_score("nll_per_token_change", items, 0.0, model.base),
        ConfidenceInterval(*map(math.exp, after)).to_score("perplexity", items, math.exp(before.value), model.base),
    )
    enough = items >= export_gate.MIN_ITEMS
    better = enough and change.high < 0.0
    few = f"only {items} held-out items of {export_gate.MIN_ITEMS} that are needed: "
    verdict = "better than its base" if better else "not shown to be better than its base"
    detail = (
        f"{'' if enough else few}{verdict}: {after.value:.4f} nats per token against {before.value:.4f}, change "
        f"{change.value:+.4f} with 95 % interval [{change.low:+.4f}, {change.high:+.4f}] over {items} held-out items"
    )
    shown = better or (enough and change.low >= 0.0)
    return scores, Gate(name="quality", passed=better, shown=shown, detail=detail, value=change.high, limit=0.0)
