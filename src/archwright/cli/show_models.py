"""The terminal output of model versions, promotions and lineage."""

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.tree import Tree

from archwright.api.lineage_chain import LineageChain
from archwright.api.loaded_models import LoadOutcome, RunningModel
from archwright.api.model_files import ModelFile
from archwright.api.models import ListedVersion, ModelCard, PromotionOutcome
from archwright.cli import show
from archwright.cli.show import make_console, print_record, print_rows, print_text
from archwright.cli.table_layout import (
    TableColumn,
    make_estimate_columns,
    make_size_column,
    make_table,
    print_fields,
    print_lines,
)
from archwright.contract.engine_measurement import CalibrationReport
from archwright.contract.lineage import Evaluation, Gate, Promotion, Score, SourceFile
from archwright.contract.number_format import format_duration, format_interval, format_number, format_quantity
from archwright.contract.record import as_dict
from archwright.contract.stored_model import describe_licence

SHOWN_FILES = 12
# An endpoint without a promotion serves the plan's own model, or nothing.
NO_VERSION = "no version of ours"
GATE_LABELS = {"never": "not evaluated", "passed": "passed", "failed": "failed", "outdated": "evaluate again"}
GATE_COLOURS = {"never": "", "passed": "green", "failed": "red", "outdated": "yellow"}


def as_json(result: object) -> int:
    """Print JSON; the exit status is 1 if a gate is not passed."""
    status = show.as_json(result)
    if isinstance(result, Evaluation) and not result.passed:
        return 1
    return status


def _format_source(row: ModelFile) -> str:
    source, _, _ = row.source.partition("@")
    return source


MODEL_FILE_COLUMNS = (
    TableColumn("name", "id", whole=True),
    TableColumn("task", "task"),
    TableColumn("quantisation", "quantisation"),
    make_size_column("size", "size_bytes"),
    TableColumn("licence", lambda row: describe_licence(row.licence)),
    TableColumn("here", "here"),
    TableColumn("source", _format_source),
)


def _format_measured(row: Any) -> str:
    return format_quantity(row.measured, row.predicted.unit)


CALIBRATION_COLUMNS = (
    TableColumn("figure", "name"),
    *make_estimate_columns("predicted", "predicted"),
    TableColumn("measured", _format_measured, number=True),
    show.VERDICT_COLUMN,
    TableColumn("interval from now on", lambda row: format_interval(row.calibrated), number=True),
)


def _format_version_size(row: ListedVersion) -> str:
    if not row.here:
        return "file missing"
    return format_quantity(row.size_bytes, "bytes")


def _choose_gate_colour(row: ListedVersion) -> str:
    return GATE_COLOURS[row.evaluated]


def _choose_production_colour(row: ListedVersion) -> str:
    if row.in_production:
        return "green"
    return ""


def _format_time(at: float) -> str:
    """To the second, because versions and promotions follow each other quickly."""
    local_time = datetime.fromtimestamp(at).astimezone()
    return local_time.strftime("%Y-%m-%d %H:%M:%S")


VERSION_COLUMNS = (
    TableColumn("version", "id"),
    TableColumn("task", "task"),
    TableColumn("size", _format_version_size, number=True),
    TableColumn("run", "run"),
    TableColumn("dataset", "dataset_version"),
    TableColumn("gates", lambda row: GATE_LABELS[row.evaluated], style=_choose_gate_colour),
    TableColumn("in production", "in_production", style=_choose_production_colour),
    TableColumn("made", lambda row: _format_time(row.at)),
)


def print_calibration(result: CalibrationReport) -> int:
    out = make_console()
    out.print(f"{escape(result.model)} {result.quantisation} on {result.isa}: {escape(result.run)}")
    out.print(make_table(CALIBRATION_COLUMNS, result.figures, boxed=True))
    for warning in result.warnings:
        out.print(f"weak: {escape(warning)}")
    return print_text(f"kept in {result.file}")


def _format_bytes(size: int | None) -> str:
    if size is None:
        return ""
    return format_quantity(size, "bytes")


def _format_state(row: RunningModel) -> str:
    if row.pinned:
        return f"{row.state} (plan)"
    return row.state


RUNNING_COLUMNS = (
    TableColumn("model", "model"),
    TableColumn("names", lambda row: ", ".join(row.aliases)),
    TableColumn("state", _format_state),
    TableColumn("memory", lambda row: _format_bytes(row.memory_bytes), number=True),
    TableColumn("predicted", lambda row: _format_bytes(row.predicted_bytes), number=True),
    TableColumn("requests now", "requests_running", number=True),
    TableColumn("idle s", "idle_s", number=True),
    TableColumn("pid", lambda row: row.pid and str(row.pid), number=True),
)


def print_load(result: LoadOutcome) -> int:
    return print_text(_describe_load(result))


def _describe_load(result: LoadOutcome) -> str:
    verb = result.action
    served_as = ", ".join(result.aliases)
    if verb == "load":
        served_as += f"; {_describe_slots(result)}"

    change = f"{verb} {result.model} as {served_as}"
    if result.dry_run:
        return f"would {change}; nothing was changed"
    if not result.served:
        return f"no platform runs: the next `up` will {change}"
    if verb == "load" and not result.in_memory:
        later = "the platform was restarted meanwhile, and the next request starts the model"
        return f"{result.model} is served as {served_as}; {later}"
    duration = format_duration(result.took_s)
    return f"{verb}ed {result.model} as {served_as}; applied in {duration}"


def _describe_slots(result: LoadOutcome) -> str:
    predicted = _format_bytes(result.predicted_bytes)
    limit = _format_bytes(result.limit_bytes)
    slots = f"{result.slots} slots of {result.context_tokens} tokens"
    return f"{slots}, {predicted} of {limit} for loaded models"


def print_models(result: Collection[ModelFile | ListedVersion | RunningModel]) -> int:
    if not result:
        return print_text("no model is loaded, and no platform runs")
    running: list[RunningModel] = []
    files: list[ModelFile] = []
    versions: list[ListedVersion] = []
    for model in result:
        if isinstance(model, RunningModel):
            running.append(model)
        elif isinstance(model, ModelFile):
            files.append(model)
        else:
            versions.append(model)

    out = make_console()
    if running:
        out.print(make_table(RUNNING_COLUMNS, running))
        return 0
    out.print(make_table(MODEL_FILE_COLUMNS, files, "Model files"))
    if not versions:
        return print_text("\nno version yet; train one: archwright train SPEC")
    out.print(make_table(VERSION_COLUMNS, versions, "\nVersions"))
    return 0


def print_model(result: ModelCard | ModelFile) -> int:
    if isinstance(result, ModelFile):
        return _print_model_file(result)
    out = make_console()
    task: str = result.task
    if result.base:
        task += escape(f", an adapter of {result.base}")
    created_at = _format_time(result.at)
    out.print(f"\n[bold]{escape(result.id)}[/]   {task}, made {created_at}", soft_wrap=True)
    print_fields(out, _list_card_fields(result))
    if result.evaluated_at is not None:
        out.print()
        _print_scores_and_gates(out, result.scores, result.gates)
    out.print("\nsource files")
    print_lines(out, _format_files(result.lineage.files), shown=SHOWN_FILES, prefix="  ")
    return 0


def _print_model_file(file: ModelFile) -> int:
    fields = as_dict(file)
    del fields["notes"]
    status = print_record(fields)
    for note in file.notes:
        print_text(f"note: {note}")
    return status


def _list_card_fields(card: ModelCard) -> dict[str, str]:
    size = format_quantity(card.size_bytes, "bytes")
    fields = {
        "file": f"{card.path or 'missing'}  ({card.format}, {size})",
        "sha256": card.sha256,
        "licence": card.licence,
        "labels": ", ".join(card.labels),
        "run": card.lineage.run,
        "dataset": card.lineage.dataset_version,
    }

    fields["production"] = "no"
    if card.production_since:
        since = _format_time(card.production_since)
        fields["production"] = f"since {since}"
    if card.left_out:
        left_out = ", ".join(card.left_out)
        fields["excluded"] = f"{left_out} cannot serve it and get none of its requests"
    fields["evaluated"] = f"never; run archwright models evaluate {card.id}"
    if card.evaluated_at is not None:
        fields["evaluated"] = _format_time(card.evaluated_at)
    return fields


def print_removal(result: ModelFile) -> int:
    size = format_quantity(result.size_bytes, "bytes")
    return print_text(f"removed {result.id}: {size} ({result.size_bytes:,} bytes)")


def print_evaluation(result: Evaluation) -> int:
    out = make_console()
    out.print(f"[bold]{escape(result.model)}[/]   evaluation {result.id}, {_format_time(result.at)}\n")
    _print_scores_and_gates(out, result.scores, result.gates)
    if result.passed:
        return print_text(f"\nmay be promoted: archwright models promote {result.model}")
    print_text("\nmay not be promoted: a gate is not passed")
    return 1


def _format_baseline(score: Score) -> str | None:
    if score.baseline is None:
        return None
    text = f"{format_number(score.baseline)}  {score.baseline_name}"
    return text.rstrip()


def _format_score_interval(score: Score) -> str:
    return f"{format_number(score.low)} to {format_number(score.high)}"


SCORE_COLUMNS = (
    TableColumn("score", "metric", whole=True),
    TableColumn("value", lambda row: format_number(row.value), number=True),
    TableColumn("95 % interval", _format_score_interval, number=True),
    TableColumn("compared with", _format_baseline, whole=True),
    TableColumn("items", "items", number=True),
)


VERDICT_COLOURS = {"passed": "green", "failed": "red", "not shown": "yellow"}


def _print_scores_and_gates(out: Console, scores: Iterable[Score], gates: Iterable[Gate]) -> None:
    out.print(make_table(SCORE_COLUMNS, scores))
    for gate in gates:
        colour = VERDICT_COLOURS[gate.verdict]
        out.print(f"\ngate [bold]{escape(gate.name)}[/] [{colour}]{gate.verdict}[/]")
        out.print(f"  {escape(gate.detail)}", soft_wrap=True)


def print_change(result: PromotionOutcome) -> int:
    model = result.model or NO_VERSION
    before = result.previous or NO_VERSION
    change = f"{result.endpoint}: {before} -> {model}"
    promoted = result.action == "promote"
    if result.dry_run:
        verb = "promote" if promoted else "roll back"
        return print_text(f"would {verb} {change}; nothing was changed")

    action = "promoted" if promoted else "rolled back"
    state = "no platform runs: the next `up` serves it"
    if result.served:
        state = "the running platform serves it"
    return print_text(f"{action} {change}  ({result.id}, by {result.by}); {state}")


HISTORY_COLUMNS = (
    TableColumn("change", "id"),
    TableColumn("at", lambda row: _format_time(row.at)),
    TableColumn("action", "action"),
    TableColumn("endpoint", "endpoint"),
    TableColumn("model", lambda row: row.model or NO_VERSION),
    TableColumn("before", lambda row: row.previous or NO_VERSION),
    TableColumn("by", "by"),
    TableColumn("reason", "reason"),
)


def print_history(result: Collection[Promotion]) -> int:
    return print_rows(HISTORY_COLUMNS, result, "no version of ours is or was in production")


def print_lineage(result: LineageChain) -> int:
    first, *later = _list_lineage_steps(result)
    root = Tree(first)
    branch = root
    for step in later:
        branch = branch.add(step)

    if result.dataset_versions:
        lines = _format_files(result.files)
        for line in lines[:SHOWN_FILES]:
            branch.add(escape(line))
        hidden = len(lines) - SHOWN_FILES
        if hidden > 0:
            branch.add(f"and {hidden:,} more (--json shows all)")
    make_console().print(root)
    return 0


def _list_lineage_steps(result: LineageChain) -> list[str]:
    """Return the steps from the answer or model to its data sets; the first is what the user named."""
    stages = [("answer", result.answer), ("model", result.model), ("run", result.run)]
    for version in result.dataset_versions:
        stages.append(("data set", version))

    steps: list[str] = []
    for kind, name in stages:
        if not name:
            continue
        step = f"{kind} [bold]{escape(name)}[/]"
        if kind == "model" and not result.run:
            step += "   the plan's own model, not trained here"
        steps.append(step)
    return steps


def _format_files(files: tuple[SourceFile, ...]) -> list[str]:
    lines: list[str] = []
    for file in files:
        size = format_quantity(file.size_bytes, "bytes")
        name = file.path or "a file"
        lines.append(f"{name}  {file.rows:,} rows, {size}, sha256 {file.sha256[:12]}")
    return lines or ["none known"]
