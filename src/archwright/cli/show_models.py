"""Model versions, what is in production, and where things come from, as people read them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from rich.markup import escape
from rich.tree import Tree

from archwright.api.lineage_chain import Chain
from archwright.api.model_files import ModelFile
from archwright.api.models import Change, ListedVersion, ModelCard
from archwright.cli import show
from archwright.cli.number_format import pretty, significant
from archwright.cli.show import console, record, text
from archwright.cli.table_layout import plain
from archwright.contract.lineage import Evaluation, Gate, Promotion, Score, SourceFile

__all__ = ["as_json", "change", "evaluation", "history", "lineage", "model", "models"]

FILES = 12
# What an endpoint serves without a promotion: a workload the plan's own model, another endpoint nothing at all.
PLAN = "no version of ours"


def as_json(result: object) -> int:
    """As everywhere; a gate that is not passed is told by the exit status too."""
    status = show.as_json(result)
    return 1 if isinstance(result, Evaluation) and not result.passed else status


def models(result: Iterable[ModelFile | ListedVersion]) -> int:
    found = tuple(result)
    out = console()
    files = plain("model", "quantisation", "size", "licence", "here", right={"size"}, title="Model files")
    for file in found:
        if isinstance(file, ModelFile):
            size, here = pretty(file.size_bytes, "bytes"), "yes" if file.here else "no"
            files.add_row(escape(file.model), escape(file.quantisation), size, escape(file.licence), here)
    out.print(files)
    versions = [version for version in found if isinstance(version, ListedVersion)]
    if not versions:
        return text("\nno version yet; train one: archwright train SPEC")
    names = ("version", "task", "size", "run", "dataset", "gates", "in production", "made")
    drawn = plain(*names, right={"size"}, title="\nVersions")
    for version in versions:
        drawn.add_row(
            escape(version.id),
            version.task,
            pretty(version.size_bytes, "bytes") if version.here else "file missing",
            version.run,
            escape(version.dataset_version),
            GATES[version.evaluated],
            "[green]yes[/]" if version.in_production else "no",
            _when(version.at),
        )
    out.print(drawn)
    return 0


GATES = {"never": "not evaluated", "passed": "[green]passed[/]", "failed": "[red]failed[/]"}


def model(result: ModelCard | ModelFile) -> int:
    """A version in full, but for long lists of files."""
    if isinstance(result, ModelFile):
        return record(result)
    out = console()
    over = f", an adapter over {result.base}" if result.base else ""
    out.print(f"\n[bold]{escape(result.id)}[/]   {result.task}{escape(over)}, made {_when(result.at)}", soft_wrap=True)
    facts = {
        "file": f"{result.path or 'missing'}  ({result.format}, {pretty(result.size_bytes, 'bytes')})",
        "sha256": result.sha256,
        "licence": result.licence,
        "labels": ", ".join(result.labels),
        "run": result.lineage.run,
        "dataset": result.lineage.dataset_version,
        "production": f"since {_when(result.production_since)}" if result.production_since else "no",
        "alone": f"{', '.join(result.left_out)} cannot serve it and get none of its requests"
        if result.left_out
        else "",
    }
    for name, value in facts.items():
        if value:
            out.print(f"{name:<11}{escape(value)}", soft_wrap=True)
    if result.evaluated_at is None:
        out.print(f"evaluated  never; archwright models evaluate {escape(result.id)}", soft_wrap=True)
    else:
        out.print(f"evaluated  {_when(result.evaluated_at)}\n")
        _examination(result.scores, result.gates)
    out.print("\nsource files")
    for line in _files(result.lineage.files):
        out.print(f"  {line}", soft_wrap=True)
    return 0


def evaluation(result: Evaluation) -> int:
    console().print(f"[bold]{escape(result.model)}[/]   evaluation {result.id}, {_when(result.at)}\n")
    _examination(result.scores, result.gates)
    if result.passed:
        return text(f"\nmay be promoted: archwright models promote {result.model}")
    text("\nmay not be promoted: a gate is not passed")
    return 1


def _examination(scores: Iterable[Score], gates: Iterable[Gate]) -> None:
    out = console()
    names = ("score", "value", "95 % interval", "held against", "items")
    drawn = plain(*names, right={"value", "95 % interval", "items"}, whole=names)
    for score in scores:
        against = "-"
        if score.baseline is not None:
            against = f"{significant(score.baseline)}  {score.baseline_name}".rstrip()
        band = f"{significant(score.low)} to {significant(score.high)}"
        drawn.add_row(escape(score.metric), significant(score.value), band, escape(against), f"{score.items:,}")
    out.print(drawn)
    for gate in gates:
        mark = "[green]passed[/]" if gate.passed else "[red]failed[/]"
        out.print(f"\ngate [bold]{escape(gate.name)}[/] {mark}")
        out.print(f"  {escape(gate.detail)}", soft_wrap=True)


def change(result: Change) -> int:
    model, before = result.model or PLAN, result.previous or PLAN
    if result.dry_run:
        would = "promote" if result.action == "promote" else "roll back"
        return text(f"would {would} {result.endpoint}: {before} -> {model}; nothing was changed")
    served = "the running platform serves it" if result.served else "no platform is running: the next `up` serves it"
    done = "promoted" if result.action == "promote" else "rolled back"
    return text(f"{done} {result.endpoint}: {before} -> {model}  ({result.id}, by {result.by}); {served}")


def history(result: Iterable[Promotion]) -> int:
    found = tuple(result)
    if not found:
        return text("no version of ours is or was in production")
    drawn = plain("change", "at", "action", "endpoint", "model", "before", "by", "reason")
    for one in found:
        texts = (one.model or PLAN, one.previous or PLAN, one.by, one.reason or "-")
        drawn.add_row(escape(one.id), _when(one.at), one.action, escape(one.endpoint), *map(escape, texts))
    console().print(drawn)
    return 0


def lineage(result: Chain) -> int:
    """A tree from the thing asked for to its source files."""
    steps = [
        *([f"answer [bold]{escape(result.answer)}[/]"] if result.answer else []),
        *([_model(result)] if result.model else []),
        *([f"run [bold]{escape(result.run)}[/]"] if result.run else []),
    ]
    root: Tree | None = None
    at: Tree | None = None
    for step in steps:
        at = at.add(step) if at is not None else Tree(step)
        root = root or at
    for name in result.dataset_versions:
        step = f"data set [bold]{escape(name)}[/]"
        at = at.add(step) if at is not None else Tree(step)
        root = root or at
    assert root is not None and at is not None  # a chain begins with what was asked for
    if result.dataset_versions:
        for line in _files(result.files):
            at.add(line)
    console().print(root)
    return 0


def _model(result: Chain) -> str:
    plan = "" if result.run else "   the plan's own model, not trained here"
    return f"model [bold]{escape(result.model or '')}[/]{plan}"


def _files(files: tuple[SourceFile, ...]) -> list[str]:
    lines = [
        f"{escape(file.path or 'a file')}  {file.rows:,} rows, {pretty(file.size_bytes, 'bytes')}, "
        f"sha256 {file.sha256[:12]}"
        for file in files[:FILES]
    ]
    more = len(files) - FILES
    return [*lines, *([f"and {more:,} more (--json names them)"] if more > 0 else [])] or ["none known"]


def _when(at: float) -> str:
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")
