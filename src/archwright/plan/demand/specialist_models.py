"""Models for embedding, reranking, speech and document parsing: by language, context, licence, then quality.

A model serves a workload if its maker states all of the workload's languages, its licence permits the use and its
context holds the longest text. Among them, the affordable ones are compared: at most `largest` parameters, which one
small device or a processor holds. Models within `margin` of the best affordable score may be chosen, by cost. Without
a score in the right languages, a model is considered only if none has one. A quality floor of the needs replaces size
and margin: all models that pass it are compared by cost. At a cloud, a larger model of a higher score is taken if it
costs little more (`plan/options/cloud_instances.py`).

The benchmarks, margins and sizes are rows (specialist_rules.yaml).
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import ModelSpec
from archwright.catalog.tables.specialist_tables import PublishedRateModel, SpecialistRule
from archwright.contract.decision import ScoreEvidence
from archwright.contract.needs import Needs, Traffic, Workload
from archwright.contract.number_format import format_exact, format_number, format_quantity
from archwright.contract.record import replace
from archwright.plan.accounting.budget import AT_RISK
from archwright.plan.demand.model_selection import ModelCandidates, permits_licence
from archwright.plan.violations import Misses, build_violation
from archwright.sizing.workloads.embedding import PIECE_TOKENS

ENGLISH = "en"
# Models that a note names.
NAMED_MODELS = 3


def count_longest_tokens(workload: Workload) -> float:
    """Return the tokens of the longest text that is not split: a request, or a chunk of a document."""
    traffic = workload.traffic or Traffic()
    if workload.kind == "rerank":
        return PIECE_TOKENS
    request = traffic.input_tokens if traffic.requests_per_second is not None else None
    return max(min(traffic.tokens_per_document or 0.0, PIECE_TOKENS), request.p95 if request is not None else 0.0)


def choose_benchmarks(
    rule: SpecialistRule, languages: tuple[str, ...], models: Iterable[ModelSpec]
) -> tuple[tuple[str, ...], str]:
    """Return the benchmarks that compare `models` in the languages, and the label of their mean."""
    of_kind = rule.benchmarks if set(languages) <= set(rule.native) else rule.other_benchmarks
    named = dict.fromkeys(name.format(language=language) for name in of_kind for language in languages)
    scored = {name for model in models for name in model.quality}
    measured = tuple(name for name in named if name in scored)
    if not measured and rule.fallback:
        return rule.fallback, rule.fallback_label
    unknown = f", unknown in {len(named) - len(measured)} of {len(named)} languages"
    return measured, rule.label + (unknown if 0 < len(measured) < len(named) else "")


class Comparison(NamedTuple):
    """Compares the models of a workload by their score in its languages."""

    workload: Workload
    languages: tuple[str, ...]
    rule: SpecialistRule
    benchmarks: tuple[str, ...]
    label: str

    def rate(self, model: ModelSpec) -> float | None:
        """Return the mean over the benchmarks with a higher one better; None if a benchmark is unknown."""
        if not self.benchmarks or not model.quality.keys() >= set(self.benchmarks):
            return None
        mean = sum(model.quality[name] for name in self.benchmarks) / len(self.benchmarks)
        return -mean if self.rule.errors else mean

    def select(self, able: Sequence[ModelSpec]) -> ModelCandidates:
        """Return the affordable models near the best affordable score, and those of a higher score."""
        rated = {model.id: score for model in able if (score := self.rate(model)) is not None}
        known = [model for model in able if model.id in rated] or list(able)
        small = [model for model in known if model.parameters <= self.rule.largest] or known
        best = max(rated.get(model.id, 0.0) for model in small)
        kept = [model for model in small if rated.get(model.id, 0.0) >= best - self.rule.margin]
        kept.sort(key=lambda model: (model.parameters, model.id))
        better = [model for model in known if rated.get(model.id, 0.0) > best + self.rule.margin]
        better.sort(key=lambda model: -rated[model.id])
        notes = [self.describe(kept, small=bool(better)), *self._describe_others(kept, better, known)]
        if unrated := len(able) - len(known):
            named = ", ".join(self.languages)
            notes.append(f"{self.workload.name}: {unrated} {self.rule.noun}s without a score in {named} were left out")
        priced = [one for one in able if one not in kept] if self.workload.kind == "document-parsing" else []
        priced.sort(key=lambda model: -max(model.quality.values(), default=0.0))
        return ModelCandidates(tuple(kept), (), tuple(notes), tuple(better), others=tuple(priced[:NAMED_MODELS]))

    def describe(self, kept: Sequence[ModelSpec], *, small: bool = False) -> str:
        """Name the models that cost decides between. `small`: an option may take a larger one of a higher score."""
        named, spoken = ", ".join(map(self._format, kept[:NAMED_MODELS])), ", ".join(self.languages)
        if not small:
            return f"{self.workload.name}: {self.rule.noun} for {spoken}, by cost among {named}"
        larger = "at a cloud a larger one where it costs little more"
        return f"{self.workload.name}: small {self.rule.noun}s for {spoken}: {named}; {larger}"

    def _describe_others(
        self, kept: Sequence[ModelSpec], better: Sequence[ModelSpec], known: Sequence[ModelSpec]
    ) -> Iterable[str]:
        """Yield the fastest model of a lower score and the best one of a higher score."""
        published = [one for one in known if isinstance(one, PublishedRateModel)]
        quick = max(published, key=lambda one: one.rate_per_s, default=None)
        own = max((one.rate_per_s for one in published if one in kept), default=0.0)
        if quick is not None and 0 < own < quick.rate_per_s:
            times = f"{format_number(quick.rate_per_s / own)} times as fast as published"
            yield f"{self.workload.name}: {self._format(quick)} is {times}"
        if better:
            size = f"{format_number(better[0].active_parameters / kept[0].active_parameters)} times the parameters"
            yield f"{self.workload.name}: {self._format(better[0])} has the highest score; it has {size}"

    def _format(self, model: ModelSpec) -> str:
        score = self.rate(model)
        said = (
            "unknown"
            if score is None
            else f"{format_quantity(-score, 'share')}"
            if self.rule.errors
            else f"{format_number(score)}"
        )
        return f"{model.id} ({self.label} {said})"


def select_specialist_models(workload: Workload, catalog: Catalog) -> ModelCandidates:
    """Return the models that may serve `workload`, the affordable and best ones, or the constraint that leaves none.

    A language that no model has decides nothing, unless it is the only one; a note states it.
    """
    rule, every = catalog.specialist_rules[workload.kind], tuple(catalog.specialist_models(workload.kind).values())
    wanted = workload.languages or (ENGLISH,)
    languages = tuple(one for one in wanted if any(one in model.languages for model in every)) or wanted
    able, misses = _filter_able(workload, languages, every)
    if misses:
        return ModelCandidates((), misses)
    compared = Comparison(workload, languages, rule, *choose_benchmarks(rule, languages, able))
    stated = workload.model is not None or bool(workload.quality)
    found = ModelCandidates(able, (), (compared.describe(able),)) if stated else compared.select(able)
    lost = (language for language in wanted if language not in languages)
    unserved = (f"{AT_RISK}{workload.name}: no {rule.noun} of the catalog supports {language}" for language in lost)
    return found._replace(notes=(*found.notes, *unserved))


def _filter_able(
    workload: Workload, languages: tuple[str, ...], every: Sequence[ModelSpec]
) -> tuple[tuple[ModelSpec, ...], Misses]:
    """Apply one constraint after the other; the first that leaves no model is the miss."""
    wanted, longest, name = set(languages), count_longest_tokens(workload), workload.name
    floors = ", ".join(f"{benchmark} >= {format_exact(floor)}" for benchmark, floor in workload.quality.items())
    fixed = (workload.model or "").rpartition("/")[-1].lower()
    steps: tuple[tuple[str, str | float, Callable[[ModelSpec], bool]], ...] = (
        (f"{name}.model", workload.model or workload.kind, lambda one: fixed in ("", one.id.lower())),
        (f"{name}.licence", workload.licence, lambda one: permits_licence(workload, one)),
        (f"{name}.languages", ", ".join(languages), lambda one: wanted <= set(one.languages)),
        (f"{name}.traffic", longest, lambda one: isinstance(one, PublishedRateModel) or one.context_tokens >= longest),
        (f"{name}.quality", floors, lambda one: _meets_floors(workload, one)),
    )
    able = tuple(every)
    for constraint, limit, holds in steps:
        left = tuple(model for model in able if holds(model))
        if not left:
            value = able[0].id if len(able) == 1 else None
            return (), (build_violation(constraint, value, limit),)
        able = left
    return able, ()


def _meets_floors(workload: Workload, model: ModelSpec) -> bool:
    known = ((model.quality.get(benchmark), floor) for benchmark, floor in workload.quality.items())
    return all(workload.quality_unknown == "accept" if score is None else score >= floor for score, floor in known)


def list_evidence(workload: Workload, name: str, catalog: Catalog) -> tuple[ScoreEvidence, ...]:
    """Return the scores on which the model `name` was chosen, with their sources; empty for other kinds of work."""
    model = catalog.specialist_models(workload.kind).get(name)
    if model is None:
        return ()
    used, _ = choose_benchmarks(catalog.specialist_rules[workload.kind], workload.languages or (ENGLISH,), (model,))
    return tuple(
        ScoreEvidence(
            benchmark=row.benchmark,
            axis="language",
            value=row.score,
            low=row.score,
            high=row.score,
            estimated=False,
            scores_used=1,
            source=row.source,
            as_of=row.as_of,
            independent=row.independent,
        )
        for row in catalog.specialist_scores
        if row.model == name and row.benchmark in used
    )


def name_reranker(needs: Needs, catalog: Catalog) -> str:
    """Return the smallest reranker that the retrieval workloads may use; empty if there is none."""
    for workload in needs.workloads:
        if workload.kind == "rag":
            asked = replace(workload, kind="rerank", model=None)
            found = select_specialist_models(asked, catalog)
            return found.models[0].id if found.models else ""
    return ""


def describe_upstream(model: ModelSpec | None) -> tuple[str, ...]:
    """Return how to serve a model that no engine of archwright runs."""
    if not isinstance(model, PublishedRateModel):
        return ()
    return (f"{model.id} is planned, not started by archwright. Deploy it behind an HTTP interface: {model.upstream}",)
