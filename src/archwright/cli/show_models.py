"""Model versions, what is in production, and where things come from, as people read them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from rich.markup import escape
from rich.tree import Tree

from archwright.api.lineage_chain import LineageChain
from archwright.api.model_files import ModelFile
from archwright.api.models import ListedVersion, ModelCard, PromotionOutcome
from archwright.cli import show
from archwright.cli.number_format import format_quantity, format_significant
from archwright.cli.show import make_console, print_record, print_text
from archwright.cli.table_layout import make_plain_table
from archwright.contract.lineage import Evaluation, Gate, Promotion, Score, SourceFile

SHOWN_FILES = 12
# What an endpoint serves without a promotion: a workload the plan's own model, another endpoint nothing at all.
NO_VERSION = "no version of ours"


def as_json(result: object) -> int:
    """As everywhere; a gate that is not passed is told by the exit status too."""
    status = show.as_json(result)
    return 1 if isinstance(result, Evaluation) and not result.passed else status


def print_models(result: Iterable[ModelFile | ListedVersion]) -> int:
    found = tuple(result)
    out = make_console()
    files = make_plain_table("model", "quantisation", "size", "licence", "here", right={"size"}, title="Model files")
    for file in found:
        if isinstance(file, ModelFile):
            size, here = format_quantity(file.size_bytes, "bytes"), "yes" if file.here else "no"
            files.add_row(escape(file.model), escape(file.quantisation), size, escape(file.licence), here)
    out.print(files)
    versions = [version for version in found if isinstance(version, ListedVersion)]
    if not versions:
        return print_text("\nno version yet; train one: archwright train SPEC")
    names = ("version", "task", "size", "run", "dataset", "gates", "in production", "made")
    drawn = make_plain_table(*names, right={"size"}, title="\nVersions")
    for version in versions:
        size = format_quantity(version.size_bytes, "bytes") if version.here else "file missing"
        origin = (version.run, escape(version.dataset_version))
        state = (GATE_LABELS[version.evaluated], "[green]yes[/]" if version.in_production else "no")
        drawn.add_row(escape(version.id), version.task, size, *origin, *state, _format_time(version.at))
    out.print(drawn)
    return 0


GATE_LABELS = {"never": "not evaluated", "passed": "[green]passed[/]", "failed": "[red]failed[/]"}


def print_model(result: ModelCard | ModelFile) -> int:
    """A version in full, but for long lists of files."""
    if isinstance(result, ModelFile):
        return print_record(result)
    out = make_console()
    over = f", an adapter over {result.base}" if result.base else ""
    made = f"{result.task}{escape(over)}, made {_format_time(result.at)}"
    out.print(f"\n[bold]{escape(result.id)}[/]   {made}", soft_wrap=True)
    left_out = ", ".join(result.left_out)
    facts = {
        "file": f"{result.path or 'missing'}  ({result.format}, {format_quantity(result.size_bytes, 'bytes')})",
        "sha256": result.sha256,
        "licence": result.licence,
        "labels": ", ".join(result.labels),
        "run": result.lineage.run,
        "dataset": result.lineage.dataset_version,
        "production": f"since {_format_time(result.production_since)}" if result.production_since else "no",
        "alone": left_out and f"{left_out} cannot serve it and get none of its requests",
    }
    for name, value in facts.items():
        if value:
            out.print(f"{name:<11}{escape(value)}", soft_wrap=True)
    if result.evaluated_at is None:
        out.print(f"evaluated  never; archwright models evaluate {escape(result.id)}", soft_wrap=True)
    else:
        out.print(f"evaluated  {_format_time(result.evaluated_at)}\n")
        _print_scores_and_gates(result.scores, result.gates)
    out.print("\nsource files")
    for line in _format_files(result.lineage.files):
        out.print(f"  {line}", soft_wrap=True)
    return 0


def print_evaluation(result: Evaluation) -> int:
    make_console().print(f"[bold]{escape(result.model)}[/]   evaluation {result.id}, {_format_time(result.at)}\n")
    _print_scores_and_gates(result.scores, result.gates)
    if result.passed:
        return print_text(f"\nmay be promoted: archwright models promote {result.model}")
    print_text("\nmay not be promoted: a gate is not passed")
    return 1


def _print_scores_and_gates(scores: Iterable[Score], gates: Iterable[Gate]) -> None:
    out = make_console()
    names = ("score", "value", "95 % interval", "held against", "items")
    drawn = make_plain_table(*names, right={"value", "95 % interval", "items"}, whole=names)
    for score in scores:
        against = "-"
        if score.baseline is not None:
            against = f"{format_significant(score.baseline)}  {score.baseline_name}".rstrip()
        band = f"{format_significant(score.low)} to {format_significant(score.high)}"
        drawn.add_row(escape(score.metric), format_significant(score.value), band, escape(against), f"{score.items:,}")
    out.print(drawn)
    for gate in gates:
        mark = "[green]passed[/]" if gate.passed else "[red]failed[/]"
        out.print(f"\ngate [bold]{escape(gate.name)}[/] {mark}")
        out.print(f"  {escape(gate.detail)}", soft_wrap=True)


def print_change(result: PromotionOutcome) -> int:
    model, before = result.model or NO_VERSION, result.previous or NO_VERSION
    if result.dry_run:
        would = "promote" if result.action == "promote" else "roll back"
        return print_text(f"would {would} {result.endpoint}: {before} -> {model}; nothing was changed")
    served = "the running platform serves it" if result.served else "no platform is running: the next `up` serves it"
    done = "promoted" if result.action == "promote" else "rolled back"
    return print_text(f"{done} {result.endpoint}: {before} -> {model}  ({result.id}, by {result.by}); {served}")


def print_history(result: Iterable[Promotion]) -> int:
    found = tuple(result)
    if not found:
        return print_text("no version of ours is or was in production")
    drawn = make_plain_table("change", "at", "action", "endpoint", "model", "before", "by", "reason")
    for one in found:
        texts = (one.model or NO_VERSION, one.previous or NO_VERSION, one.by, one.reason or "-")
        drawn.add_row(escape(one.id), _format_time(one.at), one.action, escape(one.endpoint), *map(escape, texts))
    make_console().print(drawn)
    return 0


def print_lineage(result: LineageChain) -> int:
    """A tree from the thing asked for to its source files."""
    things = [("answer", result.answer), ("model", result.model), ("run", result.run)]
    things += [("data set", name) for name in result.dataset_versions]
    steps = [f"{kind} [bold]{escape(name)}[/]" for kind, name in things if name]
    if result.model and not result.run:
        steps[1 if result.answer else 0] += "   the plan's own model, not trained here"
    root = at = Tree(steps[0])  # a chain begins with what was asked for
    for step in steps[1:]:
        at = at.add(step)
    for line in _format_files(result.files) if result.dataset_versions else ():
        at.add(line)
    make_console().print(root)
    return 0


def _format_files(files: tuple[SourceFile, ...]) -> list[str]:
    lines = []
    for file in files[:SHOWN_FILES]:
        size = f"{file.rows:,} rows, {format_quantity(file.size_bytes, 'bytes')}"
        lines.append(f"{escape(file.path or 'a file')}  {size}, sha256 {file.sha256[:12]}")
    if len(files) > SHOWN_FILES:
        lines.append(f"and {len(files) - SHOWN_FILES:,} more (--json names them)")
    return lines or ["none known"]


def _format_time(at: float) -> str:
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")
