"""Recipes run part by part: the same rows from one process or several, and no work is lost to a kill."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from archwright import settings
from archwright.errors import DataError, ErrorLocation
from archwright.lake import part_files, part_runner, refinement, task_pool
from archwright.lake.formats import row_chunks
from archwright.lake.tables import data_files, version_index

from .temporary_lake import Lake

STEPS = "[{drop-short: {characters: 8}}, {drop-duplicates: {columns: [text]}}, {redact: {columns: [text]}}]"
# Refines in a process that kills itself when the N-th part, of any stage, is complete.
KILLED = """
import os, signal, sys
from pathlib import Path
from archwright.home import Home
from archwright.lake import part_files, part_runner, recipe, refinement
from archwright.store import Store

root, function, when = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
run, calls = getattr(part_runner, function), []
def last(task):
    made = run(task)
    calls.append(1)
    if len(calls) == when:
        os.kill(os.getpid(), signal.SIGKILL)
    return made
setattr(part_runner, function, last)
home = Home(root / "home")
request = refinement.RefineRequest(recipe.read_recipe(root / "recipe.yaml"))
refinement.refine_dataset(home, Store(home.store_url), request)
"""


def put_parts(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five data files; every fourth row repeats one of another file."""
    monkeypatch.setattr(data_files, "FILE_BYTES", 4000)
    monkeypatch.setattr(row_chunks, "CHUNK_ROWS", 16)
    rows = [
        {"text": f"write to person{n % 150}@example.org", "n": n} if n % 9 else {"text": "short"} for n in range(200)
    ]
    lake.ingest_rows(rows)


def read_drops(lake: Lake, dataset: str) -> list[str]:
    return refinement.drops_path(lake.home, dataset, 1).read_text().splitlines()


@pytest.mark.process
def test_the_same_rows_from_worker_processes(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    put_parts(lake, monkeypatch)
    here = lake.refine(STEPS, into="here").version
    monkeypatch.setattr(task_pool, "PARALLEL_BYTES", 0)
    monkeypatch.setenv("ARCHWRIGHT_DATA_WORKERS", "2")
    there = lake.refine(STEPS, into="there").version
    assert len(there.part_sha256) > 3 and set(there.drops) != set()
    facts = ("content_sha256", "part_sha256", "drops", "changes", "rows")
    assert [getattr(there, name) for name in facts] == [getattr(here, name) for name in facts]
    assert lake.rows("there", "record_id", "text") == lake.rows("here", "record_id", "text")
    assert read_drops(lake, "there") == read_drops(lake, "here") != []


@pytest.mark.process
@pytest.mark.parametrize(("function", "when"), [("process_part", 2), ("survey_part", 2), ("process_part", 7)])
def test_a_killed_run_goes_on_after_the_last_complete_part(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, function: str, when: int
) -> None:
    put_parts(lake, monkeypatch)
    whole = lake.refine(STEPS, into="whole").version
    lake.recipe(STEPS)
    words = [sys.executable, "-c", KILLED, str(lake.root), function, str(when)]
    assert subprocess.run(words, check=False, capture_output=True).returncode == -signal.SIGKILL
    complete = len([*refinement.work_folder(lake.home, "docs-clean").rglob("0*.json")])
    assert complete >= (when if function == "process_part" else 1)
    calls: list[object] = []
    write = part_files.write_part

    def count_writes(*words: object) -> int:
        calls.append(words)
        return write(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(part_runner, "write_part", count_writes)
    made = lake.refine(STEPS).version
    assert len(calls) == 2 * len(made.part_sha256) - complete
    assert (made.content_sha256, made.drops, made.changes) == (whole.content_sha256, whole.drops, whole.changes)
    assert read_drops(lake, "docs-clean") == read_drops(lake, "whole")
    assert not refinement.work_folder(lake.home, "docs-clean").exists()


def test_parts_of_another_recipe_are_not_used(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    put_parts(lake, monkeypatch)
    with monkeypatch.context() as patched:
        patched.setattr(refinement, "_write_version", None)
        with pytest.raises(TypeError):
            lake.refine("[{drop-short: {characters: 8}}]")
    [left] = refinement.work_folder(lake.home, "docs-clean").iterdir()
    made = lake.refine("[{drop-short: {characters: 3}}]").version
    assert made.rows == 200 and made.drops == {} and not left.exists()


def fail(_task: int) -> int:
    raise DataError("AW-DATA-64", "it failed", where=ErrorLocation("own.py", 3, "f"), hint="correct it")


@pytest.mark.process
def test_errors_of_workers_arrive_whole(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCHWRIGHT_DATA_WORKERS", "2")
    size = task_pool.PARALLEL_BYTES
    with task_pool.open_pool(lake.home, "native", size) as pool, pytest.raises(DataError) as caught:
        list(pool.map(fail, [1, 2]))
    assert (caught.value.code, caught.value.where, caught.value.hint) == (
        "AW-DATA-64",
        ErrorLocation("own.py", 3, "f"),
        "correct it",
    )


def test_results_are_read_back(tmp_path: Path) -> None:
    result = part_runner.PartResult(rows=3, drops={"a: b": 1}, changes={})
    (tmp_path / "r.json").write_bytes(msgspec.json.encode(result))
    task = part_runner.PartTask(tmp_path / "gone.parquet", {}, (), tmp_path / "r.parquet")
    assert part_runner.process_part(task) == result


def test_nothing_remains_of_a_recipe_that_is_refused(lake: Lake) -> None:
    lake.ingest_rows([{"text": "x"}])
    with pytest.raises(DataError):
        lake.refine("[{drop-short: {characters: 5}}]")
    assert [version.id for version in version_index.list_versions(lake.store)] == ["docs@v1"]


@pytest.mark.process
def test_a_script_without_a_guard_is_not_run_again_by_workers(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    put_parts(lake, monkeypatch)
    lake.recipe(STEPS)
    script = lake.root / "script.py"
    script.write_text(KILLED.replace("import os,", "print('run')\nimport os,", 1) + "\n")
    script.write_text(script.read_text().replace("home = Home", "part_runner.process_part = run\nhome = Home"))
    words = ["from archwright.lake import task_pool", "task_pool.PARALLEL_BYTES = 0", script.read_text()]
    script.write_text("\n".join(words))
    made = subprocess.run(
        [sys.executable, str(script), str(lake.root), "process_part", "0"],
        env=settings.child_environment({"ARCHWRIGHT_DATA_WORKERS": "2"}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (made.returncode, made.stdout, made.stderr) == (0, "run\n", "")
