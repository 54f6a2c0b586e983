"""The gate on the real small model, quantised to 4 bit, with an adapter trained for a moment. Nightly: minutes."""

from __future__ import annotations

import inspect
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from archwright.catalog.load import load_catalog
from archwright.contract.lineage import ModelVersion
from archwright.contract.record import replace
from archwright.home import Home
from archwright.lifecycle import adapter_export, evaluation, model_registry, text_evaluation
from archwright.store import Store
from archwright.training import run_execution
from archwright.training.training_spec import TrainSpec

from .conftest import RUN, train_adapter

BASE = load_catalog().artefacts["SmolLM2-135M-Instruct"]


def documented() -> str:
    """Docstrings of some functions of the standard library, as rows."""
    rows = []
    for module in (json, os, os.path, shutil, inspect, pytest):
        for name, member in inspect.getmembers(module, callable):
            said = inspect.getdoc(member) or ""
            if 40 < len(said) < 500:
                rows.append({"prompt": f"What does {module.__name__}.{name} do?", "completion": said})
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture(scope="module")
def trained(model_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, Home, ModelVersion]]:
    home = Home(tmp_path_factory.mktemp("real") / "home")
    home.model(BASE.sha256).symlink_to(model_home.model(BASE.sha256))
    store = Store(home.store_url)
    spec = TrainSpec(
        name="assistant", task="text-lora", dataset="docs", base=BASE.model, steps=8, held_out=0.3, threads=1
    )
    run = train_adapter(store, home, documented(), spec, BASE.sha256)
    yield store, home, model_registry.register_model(store, home, run, run_execution.read_result(home, RUN))
    store.close()


@pytest.mark.nightly
def test_eight_steps_pass_both_gates(trained: tuple[Store, Home, ModelVersion]) -> None:
    store, home, made = trained
    assert made.licence == f"data docs@v1: CC0-1.0; base {BASE.model}: apache-2.0"
    found = evaluation.evaluate_version(store, home, made, print)
    assert found.passed
    export = next(gate for gate in found.gates if gate.name == "export")
    assert export.value is not None and export.limit is not None and export.control is not None
    # A 4-bit base rounds by some hundredths of a nat; what was learned in eight steps stands far above.
    assert 0.01 < export.value < export.limit < 0.3 < export.control


@pytest.mark.nightly
@pytest.mark.parametrize("wrong", ["rows of q and k not reordered", "half of the scale"])
def test_a_wrong_export_fails(
    trained: tuple[Store, Home, ModelVersion], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    store, home, made = trained
    shutil.copytree(home.run(RUN) / "result", tmp_path / "result")
    config = tmp_path / "result" / adapter_export.CONFIG_FILE
    if wrong == "half of the scale":
        given = json.loads(config.read_text())
        config.write_text(json.dumps({**given, "lora_alpha": given["lora_alpha"] / 2}))
    else:
        monkeypatch.setattr(adapter_export, "interleave_rotary_rows", lambda rows, heads: rows)
    adapter_export.export_adapter(home.model(BASE.sha256), tmp_path / "result", tmp_path / "wrong")
    sha256, _ = model_registry.store_file(home, tmp_path / "wrong", "gguf")
    found = text_evaluation.evaluate_text_model(store, home, replace(made, sha256=sha256), production=None, tell=print)[
        1
    ]
    assert not next(gate for gate in found if gate.name == "export").passed
