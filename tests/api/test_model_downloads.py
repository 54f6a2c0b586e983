"""`up` and `plan` with a download: proposed first, fetched from a hub, and what happens without one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.plan.conftest import MACHINE

from archwright import api
from archwright.api import planning
from archwright.catalog.load import load_catalog
from archwright.contract.record import replace
from archwright.home import Home
from archwright.plan.plan_file import read_plan, write_plan

from ..command_line import CommandLine, error_of
from ..tools.hub_server import HubServer

MODEL = "SmolLM2-135M-Instruct"
# Only the smallest models fit, so that the hub needs no other file.
TINY = replace(MACHINE, memory_bytes=440 << 20)


@pytest.fixture(autouse=True)
def tiny_machine(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "probe_machine", lambda *_args, **_named: TINY)


@pytest.fixture
def server(quantised_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    folder = tmp_path / "hub" / load_catalog().hub_models[MODEL].gguf_repository
    folder.mkdir(parents=True)
    (folder / f"{MODEL}-Q8_0.gguf").symlink_to(quantised_model)
    with HubServer(tmp_path / "hub") as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def hold_small_model(home: Home) -> None:
    home.model(load_catalog().artefacts[MODEL].sha256).touch()


def test_an_empty_home_is_told_what_to_fetch_and_stays_empty(home: Home, cli: CommandLine) -> None:
    error = error_of("AW-GET-12", api.up)
    assert f"{MODEL} Q8_0 (about 143 MB, licence apache-2.0, from bartowski/{MODEL}-GGUF)" in error.message
    for command in ("archwright up --download", f"archwright models fetch {MODEL}"):
        assert command in (error.hint or "")
    Path("needs.yaml").write_text((home.folder("run") / "needs.yaml").read_text())
    assert "archwright plan --download" in cli.error("plan needs.yaml", 5)
    assert not home.state.exists() and not home.stored_models.exists()


def test_without_a_network_the_models_of_the_home_serve(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert error_of("AW-GET-09", planning.load_or_make_plan, None, download=True)
    hold_small_model(home)
    monkeypatch.setattr(planning, "probe_machine", lambda *_args, **_named: MACHINE)
    made = planning.load_or_make_plan(None, download=True)
    assert made.pools[0].quantisation == "Q4_1" and made.chosen == "this-machine"
    said = capsys.readouterr().err
    assert "note: downloads Qwen3" in said and "the models of the home are used" in said


def test_a_plan_of_an_older_choice_names_the_way_out(home: Home, cli: CommandLine) -> None:
    hold_small_model(home)
    made = planning.load_or_make_plan(None)
    (pool,) = made.pools
    assert pool.artefact is not None
    unknown = replace(made, pools=(replace(pool, artefact=replace(pool.artefact, sha256="")),))
    write_plan(unknown, Path("plan.json"))
    assert "--download -o plan.json" in cli.error("up", 5)


@pytest.mark.nightly
@pytest.mark.enable_socket
def test_a_proposed_model_is_fetched_and_serves(
    server: HubServer, home: Home, cli: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        cli.text("up --download --detach --port 0")
        (pool,) = read_plan(home.plan).pools
        (stored,) = load_catalog(home).stored
        assert pool.artefact is not None
        assert (pool.artefact.sha256, pool.artefact.size_bytes) == (stored.sha256, stored.size_bytes)
        assert (pool.model, pool.quantisation) == (MODEL, "Q8_0")
        assert "".join(api.ask("Hello?", max_tokens=4))
    finally:
        api.down()
    heard = len(server.heard)
    Path("needs.yaml").write_text((home.folder("run") / "needs.yaml").read_text())
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    again = api.plan("needs.yaml", download=True, output="plan.json")
    assert again.pools[0].artefact == pool.artefact and len(server.heard) == heard
    assert read_plan(Path("plan.json")) == again
