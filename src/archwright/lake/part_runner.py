"""Applies prepared steps to the parts of a data set; a run that was killed goes on after the last complete part.

A part is one data file of the source. Consecutive steps run together, batch by batch. Before a step whose decision
needs all rows (`SurveyedWorker`), every part is complete; its surveys read the parts again. Results depend on the
parts only, not on what runs them or in which order they end.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from archwright.contract.record import Record
from archwright.home import write_atomic, write_json
from archwright.journal import report_step
from archwright.lake.lazy_modules import pa
from archwright.lake.part_files import read_part, write_part
from archwright.lake.steps.part_notes import PartNotes
from archwright.lake.steps.step import StepWorker, SurveyedWorker
from archwright.lake.task_pool import TaskPool

T = TypeVar("T")
R = TypeVar("R")


class PreparedStep(NamedTuple):
    """A step ready to run; `columns` (name to kind) are those of its output, `decision` the file of its surveys."""

    name: str
    worker: StepWorker
    columns: dict[str, str]
    decision: Path | None = None


class PartTask(NamedTuple):
    """Read `source` with `columns`, apply the `steps`, write `target`."""

    source: Path
    columns: dict[str, str]
    steps: tuple[PreparedStep, ...]
    target: Path


class SurveyTask(NamedTuple):
    source: Path
    columns: dict[str, str]
    worker: SurveyedWorker
    number: int
    decision: Path | None
    target: Path


class PartResult(Record):
    """Counts of a part: rows that stay, dropped rows by step and reason, altered values by kind."""

    rows: int
    drops: dict[str, int]
    changes: dict[str, int]


class Stage(NamedTuple):
    """The parts after some steps, in order, with their columns; `results` belong to the steps of this stage."""

    parts: tuple[Path, ...]
    columns: dict[str, str]
    results: tuple[PartResult, ...] = ()


def process_part(task: PartTask) -> PartResult:
    """Returns the recorded result if the part is complete already."""
    record = task.target.with_suffix(".json")
    if record.exists():
        return msgspec.json.decode(record.read_bytes(), type=PartResult)
    drops: Counter[str] = Counter()
    changes: Counter[str] = Counter()
    with open(task.target.with_suffix(".drops"), "wb") as file:
        rows = read_part(task.source, task.columns)
        for step in task.steps:
            decision = None if step.decision is None else _read_table(step.decision)
            rows = step.worker.process_rows(rows, PartNotes(step.name, decision, file, drops, changes))
        count = write_part(task.target, task.steps[-1].columns, rows)
    result = PartResult(rows=count, drops=dict(drops), changes=dict(changes))
    write_json(record, result)
    return result


def survey_part(task: SurveyTask) -> Path:
    if not task.target.exists():
        decision = None if task.decision is None else _read_table(task.decision)
        rows = read_part(task.source, task.columns)
        _write_table(task.target, task.worker.survey_rows(task.number, rows, decision))
    return task.target


@lru_cache(maxsize=4)
def _read_table(path: Path) -> Any:
    """Memory-mapped: worker processes of a machine share the pages of a decision."""
    with pa.memory_map(str(path)) as file:
        return pa.ipc.open_file(file).read_all()


def _write_table(path: Path, table: Any) -> None:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    write_atomic(path, sink.getvalue())


def run_steps(pool: TaskPool, folder: Path, source: Stage, steps: Sequence[PreparedStep]) -> list[Stage]:
    """Run all steps on the parts of `source`, with files in `folder`; the last stage has the result."""
    stages = [source]
    waiting: list[PreparedStep] = []
    for number, step in enumerate(steps):
        if isinstance(step.worker, SurveyedWorker):
            if waiting:
                stages.append(_run_stage(pool, folder / f"{number:02d}", stages[-1], waiting))
                waiting = []
            step = step._replace(decision=_run_surveys(pool, folder, f"{number:02d}", stages[-1], step))
        waiting.append(step)
    stages.append(_run_stage(pool, folder / "last", stages[-1], waiting))
    return stages


def _run_stage(pool: TaskPool, folder: Path, before: Stage, steps: Sequence[PreparedStep]) -> Stage:
    folder.mkdir(parents=True, exist_ok=True)
    targets = tuple(folder / f"{number:06d}.parquet" for number in range(len(before.parts)))
    tasks = [
        PartTask(part, before.columns, tuple(steps), target) for part, target in zip(before.parts, targets, strict=True)
    ]
    results = _map_parts(pool, process_part, tasks, before.parts, ", ".join(step.name for step in steps))
    return Stage(targets, steps[-1].columns, tuple(results))


def _run_surveys(pool: TaskPool, folder: Path, start: str, before: Stage, step: PreparedStep) -> Path | None:
    worker = step.worker
    assert isinstance(worker, SurveyedWorker)
    decision: Path | None = None
    for number in range(worker.survey_count):
        place = folder / f"{start}-survey-{number}"
        place.mkdir(parents=True, exist_ok=True)
        decided = folder / f"{start}-decision-{number}.arrow"
        if not decided.exists():
            tasks = [
                SurveyTask(part, before.columns, worker, number, decision, place / f"{at:06d}.arrow")
                for at, part in enumerate(before.parts)
            ]
            name = f"{step.name}: survey {number + 1} of {worker.survey_count}"
            surveys = [*_map_parts(pool, survey_part, tasks, before.parts, name)]
            report_step(f"{step.name}: deciding")
            known = None if decision is None else _read_table(decision)
            _write_table(decided, worker.decide(number, map(_read_once, surveys), known))
        decision = decided
    return decision


def _read_once(path: Path) -> Any:
    return _read_table.__wrapped__(path)


def _map_parts(
    pool: TaskPool, function: Callable[[T], R], tasks: Sequence[T], parts: Sequence[Path], name: str
) -> Iterator[R]:
    """The results in the order of the tasks; reports the rate and the time left."""
    sizes = [part.stat().st_size for part in parts]
    began, done, total = time.monotonic(), 0, sum(sizes)
    report_step(f"{name}: {len(parts)} part(s)")
    for number, result in enumerate(pool.map(function, tasks)):
        yield result
        done += sizes[number]
        rate = done / max(1e-3, time.monotonic() - began)
        left = f"{(total - done) / max(1.0, rate):,.0f} s left"
        report_step(f"{name}: part {number + 1} of {len(parts)}, {rate / 1e6:,.1f} MB/s, {left}")


def sum_counts(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    return dict(sorted(total.items()))
