"""A recipe on a cluster of two nodes gives the very version it gives on this machine."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from archwright import settings
from archwright.home import Home
from archwright.lake import refinement
from archwright.lake.tables import data_files, version_index

from .temporary_lake import Lake

if TYPE_CHECKING:
    from tests.conftest import RayCluster

STEPS = """
  - drop-empty: {columns: [text]}
  - redact: {columns: [text], kinds: [email, ip]}
  - drop-short: {columns: [text], characters: 12}
  - drop-duplicates: {columns: [text], ignore-case: true}
  - drop-near-duplicates: {columns: [text]}
"""


def put_many(lake: Lake) -> None:
    """Files of rows that each step has something to do with; duplicates lie in other files too."""
    for file in range(4):
        rows = []
        for row in range(500):
            number = file * 500 + row
            text = f"Row {number % 700} says: write to person{number % 50}@example.org from 192.168.0.{number % 200}."
            near = " ".join(f"word{number % 30 * 100 + place}" for place in range(60)) + f" end{number}"
            rows.append({"text": ("", "short", text, text + " More.", "Hello " * 4, near)[number % 6], "n": number})
        lake.put_rows(f"part-{file}.jsonl", rows)


def refined(lake: Lake, home: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """By the verb, in a process of its own: the engine's runner is chosen once in a process."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "archwright", "data", "refine", "recipe.yaml", "--json"],
        env=settings.child_environment({**environment, "ARCHWRIGHT_HOME": home}),
        cwd=lake.root,
        capture_output=True,
        text=True,
        check=False,
    )


def drops(home: Home, dataset: str) -> list[str]:
    return sorted(refinement.drops_path(home, dataset, 1).read_text().splitlines())


@pytest.mark.nightly
def test_the_same_rows_here_and_on_a_cluster(
    lake: Lake, ray_cluster: RayCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_files, "FILE_BYTES", 20_000)
    put_many(lake)
    lake.ingest()
    assert len(lake.data_files()) > 3
    here = lake.refine(STEPS, into="here").version
    lake.recipe(STEPS, into="there")
    made = refined(lake, str(lake.home.root), ray_cluster.environment)
    assert made.returncode == 0, made.stderr
    assert made.stderr == ""
    there = json.loads(made.stdout)
    assert there["content_sha256"] == here.content_sha256
    assert there["drops"] == here.drops and set(here.drops) and there["changes"] == here.changes
    steps = {"drop-empty", "drop-short", "drop-duplicates", "drop-near-duplicates"}
    assert {reason.partition(":")[0] for reason in here.drops} == steps
    assert set(here.changes) == {"email", "ip"}
    assert 0 < there["rows"] == here.rows < 2000
    order = ("source_file", "source_row", "record_id", "text", "n")
    assert lake.rows("there", *order) == lake.rows("here", *order)
    assert drops(lake.home, "here") == drops(lake.home, "there") != []


@pytest.mark.nightly
def test_a_cluster_that_does_not_see_the_home_is_refused(lake: Lake, ray_cluster: RayCluster) -> None:
    """The path of this home depends on the working folder, and the cluster's processes have another one."""
    put_many(lake)
    lake.ingest()
    lake.recipe(STEPS, into="there")
    made = refined(lake, "/proc/self/cwd/home", ray_cluster.environment)
    refusal = json.loads(made.stderr)
    assert refusal["code"] == "AW-OPS-61" and "share the home" in refusal["hint"], refusal
    assert [version.id for version in version_index.list_versions(lake.store)] == ["docs@v1"]
