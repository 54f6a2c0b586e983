"""Models that may serve a workload: licence, context length, quality floors by named benchmark.

A floor needs a reported figure on its benchmark: a model without a figure is listed but not chosen, unless the needs
accept unknown quality. Models that pass are sorted by size, smallest first.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import ModelSpec
from archwright.contract.needs import Workload
from archwright.contract.plan import ConstraintViolation
from archwright.errors import CatalogError
from archwright.plan.demand.forecast import Demand
from archwright.plan.violations import Misses, build_violation

QualityStanding = Literal["passes", "below", "unknown"]
UNKNOWN = "unknown"


class ModelCandidates(NamedTuple):
    """Open models for one workload, smallest first; `misses`: the constraints that leave no model.

    `better`: models of a higher score that the choice leaves out because of their size.
    """

    models: tuple[ModelSpec, ...]
    misses: Misses = ()
    notes: tuple[str, ...] = ()
    better: tuple[ModelSpec, ...] = ()


def get_model_id(model: ModelSpec | None) -> str:
    """Return the model's id; empty if the work needs no model."""
    return model.id if model is not None else ""


def assess_quality(workload: Workload, reported: Mapping[str, float | None]) -> QualityStanding:
    shares = [(reported.get(benchmark), floor) for benchmark, floor in workload.quality.items()]
    if any(share is not None and share < floor for share, floor in shares):
        return "below"
    if any(share is None for share, _ in shares):
        return "passes" if workload.quality_unknown == "accept" else "unknown"
    return "passes"


def select_open_models(demand: Demand, catalog: Catalog) -> ModelCandidates:
    """Return the models that may serve `demand`, or the constraint that leaves no model."""
    workload = demand.workload
    if workload.model is not None:
        try:
            model = catalog.model(workload.model)
        except CatalogError:
            return ModelCandidates((), (build_violation(f"{demand.workload.name}.model", "not open", workload.model),))
        misses = _find_misses(demand, model)
        if assess_quality(demand.workload, model.quality) != "passes":
            misses += tuple(find_floor_misses(demand.workload, model.quality))
        return ModelCandidates((), misses) if misses else ModelCandidates((model,))
    longest = max((model.context_tokens for model in catalog.models.values()), default=0)
    if demand.context_tokens > longest:
        where = f"{workload.name}.traffic.input_tokens"
        return ModelCandidates((), (build_violation(where, float(longest), float(demand.context_tokens)),))
    by_standing: dict[QualityStanding, list[ModelSpec]] = {"passes": [], "below": [], "unknown": []}
    for model in catalog.models.values():
        if not _find_misses(demand, model):
            by_standing[assess_quality(workload, model.quality)].append(model)
    kept, unknown = by_standing["passes"], len(by_standing["unknown"])
    notes = (f"{workload.name}: {unknown} open models have no published score for the quality floor and were left out",)
    misses = () if kept else (_build_no_model_violation(demand, catalog, unknown=bool(unknown)),)
    kept.sort(key=lambda model: (model.parameters, model.active_parameters, model.id))
    return ModelCandidates(tuple(kept), misses, notes if unknown else ())


def find_floor_misses(workload: Workload, reported: Mapping[str, float | None]) -> list[ConstraintViolation]:
    found = []
    for benchmark, floor in workload.quality.items():
        share = reported.get(benchmark)
        if share is None or share < floor:
            value = UNKNOWN if share is None else share
            found.append(build_violation(f"{workload.name}.quality.{benchmark}", value, floor))
    return found


# A better model has a score on the floor's benchmark that is higher by at least this margin.
BETTER_SCORE_MARGIN = 0.05


def is_better_model(workload: Workload, one: ModelSpec, than: ModelSpec) -> bool:
    """True if `one` is better on every benchmark that the workload sets a floor on."""
    pairs = [(one.quality.get(name), than.quality.get(name)) for name in workload.quality]
    return bool(pairs) and all(a is not None and b is not None and a >= b + BETTER_SCORE_MARGIN for a, b in pairs)


# A model of known quality is preferred to one of unknown quality if it costs at most this factor more.
SIMILAR_COST_FACTOR = 1.25


def is_quality_known(workload: Workload, reported: Mapping[str, float | None]) -> bool:
    """True if a score is reported for every floor."""
    return all(reported.get(benchmark) is not None for benchmark in workload.quality)


def format_unrated_note(workload: Workload, name: str, reported: Mapping[str, float | None]) -> tuple[str, ...]:
    """Return the note on a model without reported quality that the needs accept."""
    unknown = [benchmark for benchmark in workload.quality if reported.get(benchmark) is None]
    if not unknown or workload.quality_unknown != "accept":
        return ()
    return (f"{workload.name}: the quality of {name} on {', '.join(unknown)} is not known; quality_unknown accepts it",)


def format_scores(workload: Workload, model: ModelSpec) -> str:
    """Format the known scores on the workload's benchmarks, for example "mmlu_pro 0.81"."""
    known = ((name, model.quality.get(name)) for name in workload.quality)
    return ", ".join(f"{name} {share:.2g}" for name, share in known if share is not None)


def permits_licence(workload: Workload, model: ModelSpec) -> bool:
    """True if the licence permits the workload; a conditional licence does, and its condition is printed."""
    return workload.licence != "commercial" or model.commercial_use != "no"


def _find_misses(demand: Demand, model: ModelSpec) -> Misses:
    workload, found = demand.workload, []
    if not permits_licence(workload, model):
        found.append(build_violation(f"{workload.name}.licence", model.licence, "commercial"))
    if model.context_tokens < demand.context_tokens:
        value, limit = model.context_tokens, demand.context_tokens
        found.append(build_violation(f"{workload.name}.traffic", value, limit))
    return tuple(found)


def _build_no_model_violation(demand: Demand, catalog: Catalog, *, unknown: bool) -> ConstraintViolation:
    floors = ", ".join(f"{name} >= {floor:g}" for name, floor in demand.workload.quality.items())
    best = []
    for name in demand.workload.quality:
        able = (model for model in catalog.models.values() if not _find_misses(demand, model))
        known = [(model.quality.get(name) or 0.0, model.id) for model in able]
        score, model_id = max(known, default=(0.0, ""))
        best += [f"the best known {name} is {score:.3g} ({model_id})"] if score else []
    value = "; ".join(best) or (UNKNOWN if unknown else None)
    return build_violation(f"{demand.workload.name}.quality", value, floors or "any open model")


def format_licence_note(model: ModelSpec) -> tuple[str, ...]:
    """Return the condition of a conditional licence."""
    if model.commercial_use != "conditional":
        return ()
    return (f"{model.id}: licence {model.licence} sets conditions: {model.licence_conditions}",)


def list_model_notes(workload: Workload, model: ModelSpec | None) -> tuple[str, ...]:
    if model is None:
        return ()
    return (*format_unrated_note(workload, model.id, model.quality), *format_licence_note(model))
