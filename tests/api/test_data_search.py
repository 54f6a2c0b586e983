"""`data index` and `data search`, as people type them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from archwright.access.audit_log import read_entries
from archwright.api import data
from archwright.api.context import open_home
from archwright.api.data_governance import PolicyChange
from archwright.errors import DataError
from archwright.home import Home

from ..command_line import CommandLine


@pytest.fixture
def handbook(tmp_path: Path, home: Home) -> str:
    folder = tmp_path / "handbook"
    folder.mkdir()
    (folder / "ships.txt").write_text("A ship leaves the harbour.", encoding="utf-8")
    (folder / "roses.txt").write_text("Roses need water.", encoding="utf-8")
    return data.ingest(str(folder), name="handbook").id


def test_an_index_is_built_once_audited_and_searched(handbook: str) -> None:
    made = data.index("handbook")
    assert (made.version, made.passages, made.new, made.model) == (handbook, 2, True, "")
    assert "archwright models fetch" in made.note
    assert not data.index("handbook").new
    with open_home() as (_settings, opened, store):
        assert [one.resource for one in read_entries(store, opened, {"action": "data.index"})] == [handbook]
    found = data.search("handbook", "harbour", where=["source_file=ships.txt"], limit=1)
    assert [one.source_file for one in found.passages] == ["ships.txt"]
    assert data.search("handbook", "harbour", where=["source_file=roses.txt"]).passages == ()
    data.policy("handbook", change=PolicyChange(tenant="acme"))
    assert data.search("handbook", "harbour", tenant="acme").passages
    with pytest.raises(DataError, match="may not read"):
        data.search("handbook", "harbour", tenant="other")
    options: tuple[dict[str, Any], ...] = (
        {"where": ["ships"]},
        {"where": ["absent=1"]},
        {"limit": 0},
        {"mode": "magic"},
    )
    for wrong in options:
        with pytest.raises(DataError) as caught:
            data.search("handbook", "harbour", **wrong)
        assert caught.value.code in ("AW-DATA-79", "AW-DATA-81")


def test_the_terminal_shows_places_and_text(handbook: str, cli: CommandLine) -> None:
    assert "2 passages of the column text" in cli.text("data index handbook")
    shown = cli.text("data search handbook harbour --mode keyword")
    assert "ships.txt, row 1, characters 0 to 26" in shown
    assert "A ship leaves the harbour." in shown
    assert "1 passage in handbook@v1, keyword search" in shown
    assert cli.json("data search handbook roses")["passages"][0]["source_file"] == "roses.txt"
