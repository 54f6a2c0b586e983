"""`models fetch`, `add`, `list`, `show` and `remove`, with a second quantisation of the small model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from archwright import api
from archwright.api.model_files import find_reference, find_stored, list_fetch_notes
from archwright.catalog.load import load_catalog
from archwright.contract.record import replace
from archwright.engines import model_store
from archwright.engines.model_store import FetchedModel
from archwright.home import Home

from ..command_line import CommandLine, error_of
from ..tools.hub_server import HubServer
from ..tools.plain_gguf import write_gguf

MODEL = "SmolLM2-135M-Instruct"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """The repository of a small model of the catalog, with a file of its dimensions and few weights."""
    folder = tmp_path / "hub" / load_catalog().hub_models[MODEL].gguf_repository
    folder.mkdir(parents=True)
    keys = {"general.file_type": 7, "block_count": 30, "embedding_length": 576}
    write_gguf(folder / f"{MODEL}-Q8_0.gguf", keys=keys)
    with HubServer(tmp_path / "hub") as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.mark.enable_socket
def test_a_second_quantisation_is_fetched_by_the_name_of_the_catalog(
    server: HubServer, home: Home, cli: CommandLine
) -> None:
    fetched = cli.json(f"models fetch {MODEL}:Q8_0")
    assert (fetched["id"], fetched["model"], fetched["licence"]) == (f"{MODEL}-Q8_0", MODEL, "apache-2.0")
    digest = hashlib.sha256(Path(fetched["path"]).read_bytes()).hexdigest()
    assert fetched["sha256"] == digest and (fetched["quantisation"], fetched["task"]) == ("Q8_0", "generate")
    assert api.models.fetch(f"{MODEL}-Q8_0").sha256 == digest
    listed = cli.text("models list")
    assert f"{MODEL}-Q8_0" in listed and "hf:bartowski/" in listed and "apache-2.0" in listed
    assert "parameters      264192" in cli.text(f"models show {MODEL}-Q8_0")
    files = [one.quantisation for one in load_catalog(home).model_files[MODEL]]
    assert files[:2] == ["Q8_0", "Q4_1"]  # the home first, then the wheel, then the hub
    home.plan.write_text(f'{{"sha256": "{digest}"}}')
    assert "is in use: the plan of this home serves it" in error_of("AW-MOD-06", api.models.remove, MODEL).message
    home.plan.unlink()
    size = f"{fetched['size_bytes']:,} bytes"
    assert size in cli.text(f"models remove {MODEL}-Q8_0") and not Path(fetched["path"]).exists()
    assert "AW-GET-07" in cli.error("models fetch Qwen3-4B", 5)


def test_a_file_is_added_by_the_command_line(home: Home, cli: CommandLine, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf")
    assert "--licence" in cli.error(f"models add {path} --name mine", 2)
    added = cli.json(f"models add {path} --name mine --licence mit")
    assert (added["id"], added["licence"], added["source"]) == ("mine", "mit", "file")
    assert cli.json("models show mine")["sha256"] == added["sha256"]
    assert cli.json("models remove mine")["here"] is False
    added = cli.text(f"models add {path} --name mine --licence cc-by-nc-4.0")
    assert "note: the licence cc-by-nc-4.0 forbids commercial use" in added and "notes" not in added
    assert "cc-by-nc-4.0, forbids" in cli.text("models list")


def test_a_fetch_says_what_was_chosen_and_that_a_file_is_another_model(home: Home, tmp_path: Path) -> None:
    catalog = load_catalog()
    row = catalog.hub_models["Qwen3-4B"]
    added = model_store.add_model(write_gguf(tmp_path / "m.gguf"), "mine", "mit", home)
    stored = replace(added, source=f"hf:{row.gguf_repository}@0:m-Q4_1.gguf", quantisation="Q4_1")
    assert list_fetch_notes(FetchedModel(stored, ("Q4_1", "Q8_0")), catalog) == [
        f"Q4_1 was chosen of Q4_1, Q8_0; to choose: hf:{row.gguf_repository}:QUANTISATION",
        "the file has other dimensions than Qwen3-4B of the catalog",
    ]
    assert list_fetch_notes(FetchedModel(replace(stored, model="Qwen3-4B"), ("Q4_1",)), catalog) == []


def test_a_wheel_that_an_earlier_version_fetched_is_found(model_home: Home, home: Home) -> None:
    row = load_catalog().artefacts[MODEL]
    home.model(row.sha256).symlink_to(model_home.model(row.sha256))
    assert find_stored(row.name, home).sha256 == row.sha256 and home.model_record(row.sha256).exists()
    error_of("AW-GET-02", find_stored, "other", home)


def test_names_of_the_catalog_become_references(home: Home) -> None:
    catalog = load_catalog()
    assert find_reference("hf:a/b", catalog) == "hf:a/b"
    assert find_reference("Qwen3-4B", catalog) == "hf:Qwen/Qwen3-4B-GGUF"
    assert find_reference("Qwen3-4B:Q8_0", catalog) == find_reference("Qwen3-4B-Q8_0", catalog)
    assert error_of("AW-USE-03", find_reference, "Qwen3-5B", catalog).nearest[0].startswith("Qwen3-")
