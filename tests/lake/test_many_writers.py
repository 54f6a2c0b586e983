"""Six processes write at once: into six data sets of one catalog, while another rewrites."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from archwright.lake.tables import iceberg_tables, version_index

from .tables.test_table_rewriting import check_table
from .temporary_lake import Lake

WRITERS, VERSIONS = 6, 4
# Makes VERSIONS versions and deletes the first after each, so that commits and rewritings of all processes meet.
WRITE = """
import sys
from pathlib import Path
from archwright.lake.tables import dataset_lock, table_rewriting
from tests.lake.temporary_lake import Lake

lake, name = Lake(Path(sys.argv[1])), sys.argv[2]
lake.source = lake.root / name
lake.source.mkdir()
for number in range(int(sys.argv[3])):
    lake.put_rows(f"{number}.jsonl", [{"n": number}])
    version = lake.ingest(name).version
    with dataset_lock.lock_dataset(lake.home, name):
        table_rewriting.drop_versions(lake.home, lake.store, name, [version.version - 1], at=1.0)
"""


@pytest.mark.nightly
def test_six_writers_at_once(lake: Lake) -> None:
    names = [f"docs-{number}" for number in range(WRITERS)]
    words = [sys.executable, "-c", WRITE, str(lake.root)]
    root = Path(__file__).parents[2]
    running = [
        subprocess.Popen([*words, name, str(VERSIONS)], cwd=root, stderr=subprocess.PIPE, text=True) for name in names
    ]
    assert [(process.communicate()[1], process.returncode) for process in running] == [("", 0)] * WRITERS
    for name in names:
        assert lake.values(name, "n") == list(range(VERSIONS))
        check_table(lake, name)
        live = [v.version for v in version_index.list_versions(lake.store) if v.dataset == name and not v.dropped_at]
        assert live == [VERSIONS]
        assert iceberg_tables.load_table(lake.home, name) is not None
