"""The terminal output of model versions, promotions and lineage."""

from collections.abc import Collection, Iterable
from datetime import datetime

from rich.console import Console
from rich.markup import escape
from rich.tree import Tree

from archwright.api.calibration import CalibrationReport
from archwright.api.lineage_chain import LineageChain
from archwright.api.loaded_models import LoadOutcome, RunningModel
from archwright.api.model_files import ModelFile
from archwright.api.models import ListedVersion, ModelCard, PromotionOutcome
from archwright.cli import show
from archwright.cli.show import make_console, print_record, print_rows, print_text
from archwright.cli.table_layout import TableColumn, make_table, print_fields, print_lines
from archwright.contract.lineage import Evaluation, Gate, Promotion, Score, SourceFile
from archwright.contract.number_format import format_duration, format_interval, format_number, format_quantity
from archwright.contract.record import as_dict
from archwright.contract.stored_model import describe_licence

SHOWN_FILES = 12
# An endpoint without a promotion serves the plan's own model, or nothing.
NO_VERSION = "no version of ours"
GATE_LABELS = {"never": "not evaluated", "passed": "passed", "failed": "failed"}
GATE_COLOURS = {"never": "", "passed": "green", "failed": "red"}


def as_json(result: object) -> int:
    """Print JSON; the exit status is 1 if a gate is not passed."""
    status = show.as_json(result)
    return 1 if isinstance(result, Evaluation) and not result.passed else status


MODEL_FILE_COLUMNS = (
    TableColumn("name", "id", whole=True),
    TableColumn("task", "task"),
    TableColumn("quantisation", "quantisation"),
    TableColumn("size", lambda row: format_quantity(row.size_bytes, "bytes"), number=True),
    TableColumn("licence", lambda row: describe_licence(row.licence)),
    TableColumn("here", "here"),
    TableColumn("source", lambda row: row.source.partition("@")[0]),
)
CALIBRATION_COLUMNS = (
    TableColumn("figure", "name"),
    TableColumn("predicted", lambda row: format_quantity(row.predicted.value, row.predicted.unit), number=True),
    TableColumn("90 % interval", lambda row: format_interval(row.predicted), number=True),
    TableColumn("measured", lambda row: format_quantity(row.measured, row.predicted.unit), number=True),
    show.VERDICT_COLUMN,
    TableColumn("interval from now on", lambda row: format_interval(row.calibrated), number=True),
)
VERSION_COLUMNS = (
    TableColumn("version", "id"),
    TableColumn("task", "task"),
    TableColumn(
        "size", lambda row: format_quantity(row.size_bytes, "bytes") if row.here else "file missing", number=True
    ),
    TableColumn("run", "run"),
    TableColumn("dataset", "dataset_version"),
    TableColumn("gates", lambda row: GATE_LABELS[row.evaluated], style=lambda row: GATE_COLOURS[row.evaluated]),
    TableColumn("in production", "in_production", style=lambda row: "green" if row.in_production else ""),
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
    return "" if size is None else format_quantity(size, "bytes")


RUNNING_COLUMNS = (
    TableColumn("model", "model"),
    TableColumn("names", lambda row: ", ".join(row.aliases)),
    TableColumn("state", lambda row: f"{row.state} (plan)" if row.pinned else row.state),
    TableColumn("memory", lambda row: _format_bytes(row.memory_bytes), number=True),
    TableColumn("predicted", lambda row: _format_bytes(row.predicted_bytes), number=True),
    TableColumn("requests now", "requests_running", number=True),
    TableColumn("idle s", "idle_s", number=True),
    TableColumn("pid", lambda row: row.pid and str(row.pid), number=True),
)


def print_load(result: LoadOutcome) -> int:
    names, verb = ", ".join(result.aliases), result.action
    memory = f"{_format_bytes(result.predicted_bytes)} of {_format_bytes(result.limit_bytes)} for loaded models"
    size = f"; {result.slots} slots of {result.context_tokens} tokens, {memory}" if verb == "load" else ""
    if result.dry_run:
        return print_text(f"would {verb} {result.model} as {names}{size}; nothing was changed")
    if not result.served:
        return print_text(f"no platform runs: the next `up` will {verb} {result.model} as {names}{size}")
    if verb == "load" and not result.in_memory:
        later = "the platform was restarted meanwhile, and the next request starts the model"
        return print_text(f"{result.model} is served as {names}{size}; {later}")
    return print_text(f"{verb}ed {result.model} as {names}{size}; applied in {format_duration(result.took_s)}")


def print_models(result: Collection[ModelFile | ListedVersion | RunningModel]) -> int:
    out = make_console()
    running = [one for one in result if isinstance(one, RunningModel)]
    if not result:
        return print_text("no model is loaded, and no platform runs")
    if running:
        out.print(make_table(RUNNING_COLUMNS, running))
        return 0
    files = (file for file in result if isinstance(file, ModelFile))
    out.print(make_table(MODEL_FILE_COLUMNS, files, "Model files"))
    versions = [version for version in result if isinstance(version, ListedVersion)]
    if not versions:
        return print_text("\nno version yet; train one: archwright train SPEC")
    out.print(make_table(VERSION_COLUMNS, versions, "\nVersions"))
    return 0


def print_model(result: ModelCard | ModelFile) -> int:
    if isinstance(result, ModelFile):
        status = print_record({name: value for name, value in as_dict(result).items() if name != "notes"})
        for note in result.notes:
            print_text(f"note: {note}")
        return status
    out = make_console()
    adapter = f", an adapter of {result.base}" if result.base else ""
    made = f"{result.task}{escape(adapter)}, made {_format_time(result.at)}"
    out.print(f"\n[bold]{escape(result.id)}[/]   {made}", soft_wrap=True)
    left_out = ", ".join(result.left_out)
    never = f"never; run archwright models evaluate {result.id}"
    fields = {
        "file": f"{result.path or 'missing'}  ({result.format}, {format_quantity(result.size_bytes, 'bytes')})",
        "sha256": result.sha256,
        "licence": result.licence,
        "labels": ", ".join(result.labels),
        "run": result.lineage.run,
        "dataset": result.lineage.dataset_version,
        "production": f"since {_format_time(result.production_since)}" if result.production_since else "no",
        "excluded": left_out and f"{left_out} cannot serve it and get none of its requests",
        "evaluated": never if result.evaluated_at is None else _format_time(result.evaluated_at),
    }
    print_fields(out, fields)
    if result.evaluated_at is not None:
        out.print()
        _print_scores_and_gates(out, result.scores, result.gates)
    out.print("\nsource files")
    print_lines(out, _format_files(result.lineage.files), shown=SHOWN_FILES, prefix="  ")
    return 0


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
    return f"{format_number(score.baseline)}  {score.baseline_name}".rstrip()


SCORE_COLUMNS = (
    TableColumn("score", "metric", whole=True),
    TableColumn("value", lambda row: format_number(row.value), number=True),
    TableColumn("95 % interval", lambda row: f"{format_number(row.low)} to {format_number(row.high)}", number=True),
    TableColumn("compared with", _format_baseline, whole=True),
    TableColumn("items", "items", number=True),
)


def _print_scores_and_gates(out: Console, scores: Iterable[Score], gates: Iterable[Gate]) -> None:
    out.print(make_table(SCORE_COLUMNS, scores))
    for gate in gates:
        mark = "[green]passed[/]" if gate.passed else "[red]failed[/]"
        out.print(f"\ngate [bold]{escape(gate.name)}[/] {mark}")
        out.print(f"  {escape(gate.detail)}", soft_wrap=True)


def print_change(result: PromotionOutcome) -> int:
    model, before = result.model or NO_VERSION, result.previous or NO_VERSION
    promoted = result.action == "promote"
    if result.dry_run:
        verb = "promote" if promoted else "roll back"
        return print_text(f"would {verb} {result.endpoint}: {before} -> {model}; nothing was changed")
    served = "the running platform serves it" if result.served else "no platform runs: the next `up` serves it"
    done = "promoted" if promoted else "rolled back"
    return print_text(f"{done} {result.endpoint}: {before} -> {model}  ({result.id}, by {result.by}); {served}")


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
    things = [("answer", result.answer), ("model", result.model), ("run", result.run)]
    things += [("data set", name) for name in result.dataset_versions]
    steps = [f"{kind} [bold]{escape(name)}[/]" for kind, name in things if name]
    if result.model and not result.run:
        steps[1 if result.answer else 0] += "   the plan's own model, not trained here"
    root = branch = Tree(steps[0])  # a chain begins with the thing asked for
    for step in steps[1:]:
        branch = branch.add(step)
    lines = [escape(line) for line in _format_files(result.files)] if result.dataset_versions else []
    if len(lines) > SHOWN_FILES:
        lines[SHOWN_FILES:] = [f"and {len(lines) - SHOWN_FILES:,} more (--json shows all)"]
    for line in lines:
        branch.add(line)
    make_console().print(root)
    return 0


def _format_files(files: tuple[SourceFile, ...]) -> list[str]:
    return [
        f"{file.path or 'a file'}  {file.rows:,} rows, {format_quantity(file.size_bytes, 'bytes')}, "
        f"sha256 {file.sha256[:12]}"
        for file in files
    ] or ["none known"]


def _format_time(at: float) -> str:
    """To the second, because versions and promotions follow each other quickly."""
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")
