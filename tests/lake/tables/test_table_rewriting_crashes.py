"""kill -9 at each step of a rewriting: the old versions or the new ones, and the same end after another run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from archwright.lake.tables import version_index

from ..temporary_lake import Lake
from .test_table_rewriting import check_table, erase_lovelace, find

# Forks one child for each (root, place, call) that rewrites the lake and kills itself when it calls the function.
KILLED = """
import json, os, signal, sys
from pathlib import Path
from tests.lake.tables.test_table_rewriting import Lake, erase_lovelace
from archwright.lake.tables import data_files, iceberg_tables, version_index

def work(root, place, when):
    owner, name = place.split(".")
    module, calls = globals()[owner], []
    function = getattr(module, name)
    def last(*words, **more):
        calls.append(1)
        if len(calls) == when:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*words, **more)
    setattr(module, name, last)
    erase_lovelace(Lake(Path(root)), dropped=[1])

for task in json.loads(sys.argv[1]):
    child = os.fork()
    if not child:
        work(*task)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL, task
"""
PLACES = [
    ("version_index.apply_rewrite", 1),
    ("version_index.finish_rewrite", 1),  # after the journal
    ("iceberg_tables.sync_folder", 1),  # before the swap
    ("version_index.write_json", 2),
    ("version_index._replace_rows", 1),
    ("iceberg_tables.sync_folder", 2),  # in the purge
    ("version_index.sync_folder", 1),
]


def fill(root: Path) -> Lake:
    root.mkdir()
    lake = Lake(root)
    lake.put_rows("a.jsonl", [{"text": "x"}, {"text": "Lovelace 1"}])
    lake.ingest()
    lake.put_rows("b.jsonl", [{"text": "Lovelace 2"}, {"text": "y"}])
    lake.ingest()
    return lake


@pytest.mark.parametrize(
    "places", [pytest.param(PLACES[::3], marks=pytest.mark.process), pytest.param(PLACES, marks=pytest.mark.nightly)]
)
def test_a_rewriting_killed_and_repeated(tmp_path: Path, places: list[tuple[str, int]]) -> None:
    lakes = [fill(tmp_path / str(number)) for number in range(len(places))]
    tasks = [(str(lake.root), place, when) for lake, (place, when) in zip(lakes, places, strict=True)]
    command = [sys.executable, "-c", KILLED, json.dumps(tasks)]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[3])
    for lake, (place, when) in zip(lakes, places, strict=True):
        texts = lake.values("docs", "text")
        assert texts in (["x", "Lovelace 1", "Lovelace 2", "y"], ["x", "y"]), place
        version_index.repair_index(lake.home, lake.store, "docs")
        done = (place, when) != PLACES[0]  # before the journal, nothing is to be completed
        assert (find(lake, "docs@v1").dropped_at is not None) is done, place
        erase_lovelace(lake, dropped=[1])
        assert lake.values("docs", "text") == ["x", "y"]
        check_table(lake)
        assert not any(b"Lovelace" in path.read_bytes() for path in lake.home.lake.rglob("*") if path.is_file()), place
        assert list((lake.home.lake / "rewrites").iterdir()) == []
        assert not lake.ingest().new
        lake.store.close()
