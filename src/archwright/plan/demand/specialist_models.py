"""Models for embedding, reranking, speech and document parsing: by language, context, licence, then quality.

A model serves a workload if its maker states all of the workload's languages, its licence permits the use and its
context holds the longest text. Among them, the affordable ones are compared: at most `largest` parameters, which one
small device or a processor holds. Models within `margin` of the best affordable score may be chosen, by cost. Without
a score in the right languages, a model is considered only if none has one.

Scores: embedding, MTEB: for English alone the English retrieval tasks, else the mean of MIRACL (18 languages) and
Belebele (122). Reranking: retrieval after reranking, English or multilingual. Speech: word error rate over the
workload's measured languages, else over five European ones. Parsing: OmniDocBench for English and Chinese, else DocML.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import ModelSpec
from archwright.catalog.tables.specialist_tables import PublishedRateModel
from archwright.contract.decision import ScoreEvidence
from archwright.contract.needs import Needs, Traffic, Workload, WorkloadKind
from archwright.contract.record import replace
from archwright.plan.accounting.budget import AT_RISK
from archwright.plan.demand.model_selection import ModelCandidates, permits_licence
from archwright.plan.violations import Misses, build_violation
from archwright.sizing.workloads.embedding import PIECE_TOKENS

ENGLISH = "en"
Languages = tuple[str, ...]


class ScoreRule(NamedTuple):
    """The benchmarks of a score by languages. `sign` -1: lower is better.

    `by_language`: one benchmark for each language; the mean of the known ones counts.
    """

    label: str
    benchmarks: Callable[[Languages], Sequence[str]]
    fallback: Sequence[str] = ()
    fallback_label: str = ""
    sign: int = 1
    by_language: bool = False

    def rate(self, model: ModelSpec, languages: Languages) -> tuple[float | None, str]:
        """Return the score, None if unknown, and what it is the score of."""
        for names, label in ((self.benchmarks(languages), self.label), (self.fallback, self.fallback_label)):
            known = [model.quality[name] for name in names if name in model.quality]
            if known and (len(known) == len(names) or self.by_language):
                missing = [name for name in names if name not in model.quality]
                unknown = f", unknown in {len(missing)} of {len(names)} languages" if missing else ""
                return sum(known) / len(known), label + unknown
        return None, self.label


class SpecialistRule(NamedTuple):
    """How models of a kind are compared; `largest`: parameters of an affordable one."""

    noun: str
    score: ScoreRule
    margin: float
    largest: float


def _is_english(languages: Languages) -> bool:
    return set(languages) <= {ENGLISH}


def _embedding_benchmarks(languages: Languages) -> Sequence[str]:
    return ("mteb_en_v2_retrieval",) if _is_english(languages) else ("miracl_hard", "belebele_retrieval")


def _rerank_benchmarks(languages: Languages) -> Sequence[str]:
    return ("mteb_en_rerank",) if _is_english(languages) else ("mteb_multilingual_rerank",)


def _speech_benchmarks(languages: Languages) -> Sequence[str]:
    return tuple(f"open_asr_{language}_wer" for language in languages)


def _parsing_benchmarks(languages: Languages) -> Sequence[str]:
    return ("omnidocbench_v1.5",) if set(languages) <= {ENGLISH, "zh"} else ("docml",)


RULES: Mapping[WorkloadKind, SpecialistRule] = {
    "embedding": SpecialistRule("embedder", ScoreRule("retrieval", _embedding_benchmarks), 0.02, 1e9),
    "rerank": SpecialistRule("reranker", ScoreRule("retrieval after reranking", _rerank_benchmarks), 0.02, 1e9),
    "speech-to-text": SpecialistRule(
        "speech model",
        ScoreRule(
            "word error rate",
            _speech_benchmarks,
            ("open_asr_multilingual_wer",),
            "word error rate in five other languages",
            sign=-1,
            by_language=True,
        ),
        0.01,
        3e9,
    ),
    "document-parsing": SpecialistRule("document parser", ScoreRule("page score", _parsing_benchmarks), 0.02, 5e9),
}


def list_workload_languages(workload: Workload) -> Languages:
    """Return the languages that the needs state or derive, else English."""
    return workload.languages or (ENGLISH,)


def count_longest_tokens(workload: Workload) -> float:
    """Return the tokens of the longest text that is not split: a request, or a chunk of a document."""
    traffic = workload.traffic or Traffic()
    if workload.kind == "rerank":
        return PIECE_TOKENS
    chunk = min(traffic.tokens_per_document or 0.0, PIECE_TOKENS)
    online = traffic.requests_per_second is not None and traffic.input_tokens is not None
    return max(chunk, traffic.input_tokens.p95 if online and traffic.input_tokens is not None else 0.0)


def select_specialist_models(workload: Workload, catalog: Catalog) -> ModelCandidates:
    """Return the models that may serve `workload`, the affordable and best ones, or the constraint that leaves none.

    A language that no model has decides nothing, unless it is the only one; a note states it.
    """
    rule, every = RULES[workload.kind], tuple(catalog.specialist_models(workload.kind).values())
    wanted = list_workload_languages(workload)
    languages = tuple(one for one in wanted if any(one in model.languages for model in every)) or wanted
    notes = [
        f"{AT_RISK}{workload.name}: no {rule.noun} of the catalog supports {language}"
        for language in wanted
        if language not in languages
    ]
    able, misses = _filter_able(workload, languages, every, rule)
    if misses:
        return ModelCandidates((), misses)
    if workload.model is not None:
        return ModelCandidates(able, (), (_describe(workload, languages, able, rule), *notes))
    rated = {model.id: rule.score.rate(model, languages)[0] for model in able}
    known = [model for model in able if rated[model.id] is not None] or list(able)
    small = [model for model in known if model.parameters <= rule.largest] or known
    best = max((rule.score.sign * (rated[model.id] or 0.0) for model in small), default=0.0)
    kept = [one for one in small if rule.score.sign * (rated[one.id] or 0.0) >= best - rule.margin]
    kept.sort(key=lambda model: (model.parameters, model.id))
    better = [one for one in known if rule.score.sign * (rated[one.id] or 0.0) > best + rule.margin]
    notes += [_describe(workload, languages, kept, rule), *_describe_better(workload, languages, kept, better, rule)]
    unrated = len(able) - len([model for model in able if rated[model.id] is not None])
    if unrated and len(known) < len(able):
        notes.append(f"{workload.name}: {unrated} {rule.noun}s without a score in {', '.join(languages)} were left out")
    return ModelCandidates(tuple(kept), (), tuple(notes), tuple(better))


def _filter_able(
    workload: Workload, languages: Languages, every: Sequence[ModelSpec], rule: SpecialistRule
) -> tuple[tuple[ModelSpec, ...], Misses]:
    """Apply one constraint after the other; the first that leaves no model is the miss."""
    wanted, longest, name = set(languages), count_longest_tokens(workload), workload.name
    fixed = (workload.model or "").rpartition("/")[-1].lower()
    steps: tuple[tuple[str, str | float, Callable[[ModelSpec], bool]], ...] = (
        (f"{name}.model", workload.model or rule.noun, lambda one: fixed in ("", one.id.lower())),
        (f"{name}.licence", workload.licence, lambda one: permits_licence(workload, one)),
        (f"{name}.languages", ", ".join(languages), lambda one: wanted <= set(one.languages)),
        (f"{name}.traffic", longest, lambda one: isinstance(one, PublishedRateModel) or one.context_tokens >= longest),
    )
    able = tuple(every)
    for constraint, limit, holds in steps:
        left = tuple(model for model in able if holds(model))
        if not left:
            value = able[0].id if len(able) == 1 else None
            return (), (build_violation(constraint, value, limit),)
        able = left
    return able, ()


def _describe(workload: Workload, languages: Languages, kept: Iterable[ModelSpec], rule: SpecialistRule) -> str:
    named = ", ".join(_format_rated(model, languages, rule) for model in list(kept)[:3])
    return f"{workload.name}: {rule.noun} for {', '.join(languages)}, by cost among {named}"


def _describe_better(
    workload: Workload,
    languages: Languages,
    kept: Sequence[ModelSpec],
    better: Sequence[ModelSpec],
    rule: SpecialistRule,
) -> Iterable[str]:
    if not better or not kept:
        return
    one = max(better, key=lambda model: rule.score.sign * (rule.score.rate(model, languages)[0] or 0.0))
    times = one.active_parameters / kept[0].active_parameters
    yield f"{workload.name}: {_format_rated(one, languages, rule)} is better; it has {times:,.2g} times the parameters"


def _format_rated(model: ModelSpec, languages: Languages, rule: SpecialistRule) -> str:
    score, label = rule.score.rate(model, languages)
    if score is None:
        return f"{model.id} ({label} unknown)"
    return f"{model.id} ({label} {score:.1%})" if rule.score.sign < 0 else f"{model.id} ({label} {score:.3f})"


def list_evidence(workload: Workload, name: str, catalog: Catalog) -> tuple[ScoreEvidence, ...]:
    """Return the scores on which the model `name` was chosen, with their sources; empty for other kinds of work."""
    model, rule = catalog.specialist_models(workload.kind).get(name), RULES.get(workload.kind)
    if model is None or rule is None:
        return ()
    named = rule.score.benchmarks(list_workload_languages(workload))
    used = [name for name in named if name in model.quality] or [*rule.score.fallback]
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
