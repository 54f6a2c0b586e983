"""kill -9 at every moment that matters, and two processes at once: the old version or the new one, never less."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from archwright.journal import listen_to_steps
from archwright.lake.tables import iceberg_tables, version_index
from archwright.monitor import lineage

from ..tools.checks import WAIT_S, refuses
from .temporary_lake import Lake

# Runs the code of a verb in a process of its own that kills itself when the named function is called the N-th time.
KILLED = """
import os, signal, sys
from pathlib import Path
from archwright.home import Home
from archwright.lake import ingestion, recipe, refinement
from archwright.lake.formats import row_chunks
from archwright.lake.tables import data_files, dataset_lock, iceberg_tables, version_index
from archwright.store import Store

root, verb, place, when = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
data_files.FILE_BYTES, row_chunks.CHUNK_ROWS = 2000, 16
home = Home(root / "home")
store = Store(home.store_url)
if place:
    owner, name = place.rsplit(".", 1)
    thing = eval(owner)
    kept, calls = getattr(thing, name), []
    def last(*words, **more):
        calls.append(1)
        if len(calls) == when:
            os.kill(os.getpid(), signal.SIGKILL)
        return kept(*words, **more)
    setattr(thing, name, last)
if verb == "ingest":
    ingestion.ingest_files(home, store, ingestion.IngestRequest(root / "source", "docs"))
elif verb == "refine":
    refinement.refine_dataset(home, store, refinement.RefineRequest(recipe.read_recipe(root / "recipe.yaml")))
else:
    with dataset_lock.lock_dataset(home, "docs"):
        print("held", flush=True)
        sys.stdin.read()
"""
PLACES = [
    ("data_files.DataFileWriter.flush", 3),
    pytest.param("iceberg_tables.VersionDraft.stage", 1, marks=pytest.mark.nightly),
    ("iceberg_tables.VersionDraft.commit", 1),
    pytest.param("version_index.register_version", 1, marks=pytest.mark.nightly),
    ("version_index.lineage.append_edges", 1),
]


def run(lake: Lake, verb: str, place: str = "", when: int = 1) -> int:
    words = [sys.executable, "-c", KILLED, str(lake.root), verb, place, str(when)]
    return subprocess.run(words, check=False, capture_output=True).returncode


def committed(place: str) -> bool:
    return place.startswith("version_index.")


def nothing_lies_about(lake: Lake) -> None:
    """Every data file belongs to a version, and no half-written file is left."""
    named = set()
    for version in version_index.list_versions(lake.store):
        table = iceberg_tables.load_table(lake.home, version.dataset)
        assert table is not None
        scan = table.scan(snapshot_id=table.refs()[f"v{version.version}"].snapshot_id)
        found = {Path(task.file.file_path) for task in scan.plan_files()}
        assert found == set(iceberg_tables.list_data_files(lake.home, version))
        named |= found
    assert lake.data_files() == named
    assert list(lake.home.lake.rglob("*.part")) == []


@pytest.mark.process
@pytest.mark.parametrize(("place", "when"), PLACES)
def test_an_ingest_killed_and_repeated(lake: Lake, place: str, when: int) -> None:
    lake.put_rows("a.jsonl", [{"n": n, "text": "x" * 50} for n in range(60)])
    lake.put_rows("b.jsonl", [{"n": -1}])
    first = lake.ingest().version
    lake.put_rows("a.jsonl", [{"n": n, "text": "y" * 50} for n in range(60)])
    lake.put("c.jsonl", '{"n": 100}\nbroken\n')
    assert run(lake, "ingest", place, when) == -signal.SIGKILL
    assert [version.id for version in version_index.list_versions(lake.store)] == ["docs@v1"]
    assert lake.values(first, "n") == [*range(60), -1]  # the old version is whole
    again = lake.ingest()
    assert again.new is not committed(place)
    assert (again.version.id, again.version.parent) == ("docs@v2", "docs@v1")
    assert lake.values(again.version, "text") == ["y" * 50] * 60 + [None, None]
    assert lake.quarantined(again.version) == [("c.jsonl", 2, "not JSON")]
    edges = lineage.read_parents(lake.store, "dataset:docs@v2")
    changed = [f"file:{file.sha256}" for file in lake.files(again.version) if file.path != "b.jsonl"]
    assert sorted(edge.parent for edge in edges) == sorted([*changed, "dataset:docs@v1"])
    nothing_lies_about(lake)
    assert not lake.ingest().new


@pytest.mark.process
@pytest.mark.parametrize("place", ["iceberg_tables.VersionDraft.commit", "version_index.register_version"])
def test_the_first_ingest_killed_and_repeated(lake: Lake, place: str) -> None:
    lake.put_rows("a.jsonl", [{"n": 1}])
    assert run(lake, "ingest", place) == -signal.SIGKILL
    assert version_index.list_versions(lake.store) == []
    made = lake.ingest_rows([{"n": "of another kind"}]).version
    assert made.id == ("docs@v2" if committed(place) else "docs@v1")
    assert lake.values(made, "n") == ["of another kind"]
    nothing_lies_about(lake)


@pytest.mark.process
@pytest.mark.parametrize("place", ["iceberg_tables.VersionDraft.commit", "version_index.register_version"])
def test_a_refine_killed_and_repeated(lake: Lake, place: str) -> None:
    lake.ingest_rows([{"text": "a@b.example"}, {"text": "a@b.example"}, {"text": "x"}])
    steps = "[{drop-duplicates: {}}, {redact: {}}]"
    lake.recipe(steps)
    assert run(lake, "refine", place) == -signal.SIGKILL
    again = lake.refine(steps)
    assert again.new is not committed(place)
    assert lake.values(again.version, "text") == ["<EMAIL>", "x"]
    assert again.version.id == "docs-clean@v1"
    nothing_lies_about(lake)


@pytest.mark.process
def test_a_second_writer_waits_for_the_first_and_names_it(lake: Lake) -> None:
    lake.put_rows("a.jsonl", [{"n": 1}])
    words = [sys.executable, "-c", KILLED, str(lake.root), "hold", "", "1"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin and holder.stdout
        assert holder.stdout.readline() == "held\n"
        lake.ingest("other")  # another data set is free
        steps: list[str] = []

        def note(step: str) -> None:
            steps.append(step)
            holder.kill()  # the kernel gives its lock to us

        with listen_to_steps(note):
            assert lake.ingest().new
    assert steps[0] == f"waiting for process {holder.pid}, which writes to the data set docs"


@pytest.mark.nightly
def test_many_processes_at_once_from_nothing(lake: Lake) -> None:
    """All begin in an empty home, into one data set: the first one makes the version, the others find it made."""
    lake.put_rows("a.jsonl", [{"n": n} for n in range(100)])
    words = [sys.executable, "-c", KILLED, str(lake.root), "ingest", "", "1"]
    running = [subprocess.Popen(words, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    ended = [(process.communicate(timeout=WAIT_S)[1], process.returncode) for process in running]
    assert [status for _error, status in ended] == [0] * 4, ended
    assert [version.id for version in version_index.list_versions(lake.store)] == ["docs@v1"]
    assert lake.values("docs", "n") == list(range(100))


def test_a_lake_the_store_does_not_know_is_repaired_from_its_records(lake: Lake) -> None:
    first = lake.ingest_rows([{"n": 1}]).version
    second = lake.ingest_rows([{"n": 2}]).version
    lake.store.close()
    for path in lake.home.root.glob("archwright.db*"):
        path.unlink()
    fresh = Lake(lake.root)
    assert not fresh.ingest().new
    assert version_index.list_versions(fresh.store) == [first, second]
    fresh.store.close()


def test_a_lake_whose_records_are_gone_is_not_written_over(lake: Lake) -> None:
    first = lake.ingest_rows([{"n": 1}]).version
    files = lake.data_files()
    lake.store.close()
    for path in (*lake.home.root.glob("archwright.db*"), *(lake.home.lake / "versions").rglob("*.json")):
        path.unlink()
    fresh = Lake(lake.root)
    with refuses("AW-DATA-25"):
        fresh.ingest()
    assert fresh.data_files() == files
    assert fresh.values(first, "n") == [1]
    fresh.store.close()


@pytest.mark.process
def test_a_record_that_was_noted_and_never_committed_counts_for_nothing(lake: Lake) -> None:
    lake.put_rows("a.jsonl", [{"n": 1}])
    assert run(lake, "ingest", "iceberg_tables.VersionDraft.commit") == -signal.SIGKILL
    assert list((lake.home.lake / "versions").rglob("v1.json"))
    version_index.repair_index(lake.home, lake.store, "docs")
    version_index.repair_index(lake.home, lake.store, "never")
    assert version_index.list_versions(lake.store) == []
