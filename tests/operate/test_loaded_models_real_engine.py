"""Load, ask, list and unload real models in two quantisations, through the shell."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.tools.checks import until
from tests.tools.quantised_model import quantise_model

from archwright import api
from archwright.api.loaded_models import RunningModel
from archwright.catalog.load import load_catalog
from archwright.home import Home
from archwright.operate import resource_usage

from ..command_line import CommandLine
from .conftest import Stage

pytestmark = pytest.mark.enable_socket
FILE = load_catalog().artefacts["SmolLM2-135M-Instruct"].sha256


def running() -> dict[str, RunningModel]:
    found = api.models.list(running=True)
    return {one.model: one for one in found if isinstance(one, RunningModel)}


@pytest.mark.nightly
def test_two_quantisations_under_aliases(stage: Stage, model_home: Home, cli: CommandLine, tmp_path: Path) -> None:
    given = model_home.model(FILE)
    eight = quantise_model(given.resolve(), "Q8_0", tmp_path / "eight.gguf")
    for name, file in (("small", given), ("eight", eight)):
        cli.run(f"models add {file} --name {name} --licence Apache-2.0")
    assert "would load small as small, fast; 2 slots of 8192" in cli.text("models load small --alias fast --dry-run")
    assert running() == {}
    stage.up()
    cli.run("models load small --alias fast --context 512")
    cli.run("models load eight --slots 1 --context 512")
    for alias, model in (("fast", "small"), ("eight", "eight")):
        answer = api.ask("What is the capital of France?", model=alias, max_tokens=12)
        assert len("".join(answer)) > 4 and answer.model == model
    assert cli.text("models load eight --alias fast --slots 1 --context 512").startswith("loaded eight as eight, fast")
    found = running()
    assert found["eight"].aliases == ("eight", "fast") and found["small"].aliases == ("small",)
    for one in (found["small"], found["eight"]):
        assert one.state == "loaded" and one.pid and one.requests_running == 0 and not one.pinned
        measured = resource_usage.memory_bytes([one.pid])
        assert measured and one.predicted_bytes and 0.5 < measured / one.predicted_bytes < 1.5
    assert found["null-model"].pinned and found["null-model"].aliases == ("assistant",)
    assert "small is in use: it is loaded as small" in cli.error("models remove small", 12)
    assert cli.text("models unload eight --dry-run").startswith("would unload eight as eight, fast; nothing")
    cli.run("models unload eight")
    assert "no model is loaded as 'fast'" in cli.error("models unload fast", 8)
    until(lambda: "eight" not in cli.text("models list --running"))
