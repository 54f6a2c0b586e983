"""The digest of a plan identifies the decision: it depends neither on the path of the needs nor on the home's rest."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.examples import read_example
from tests.plan.conftest import MACHINE, NOW

from archwright.catalog.load import load_catalog
from archwright.contract.plan import MachineFacts, Plan
from archwright.contract.record import replace
from archwright.contract.stored_model import ModelArchitecture, StoredModel
from archwright.home import Home, write_json
from archwright.needs.reader import read_needs
from archwright.plan.planner import make_plan

WITH_GPU = replace(MACHINE, gpus=("NVIDIA H100 80GB HBM3 (79.6 GiB)",), programs=("vllm",))
SHAPE = ModelArchitecture(
    type="llama",
    parameters=600_000_000,
    active_parameters=600_000_000,
    layers=28,
    hidden=1024,
    heads=16,
    kv_heads=8,
    head_width=128,
    vocabulary=151936,
    context_tokens=131072,
    ffn=3072,
)
LARGE_SHAPE = replace(SHAPE, parameters=700_000_000_000, active_parameters=700_000_000_000)
CHOSEN = StoredModel(
    name="Qwen3-0.6B-Q8_0",
    model="Qwen3-0.6B",
    form="gguf",
    task="generate",
    sha256="1" * 64,
    size_bytes=640_000_000,
    quantisation="Q8_0",
    licence="apache-2.0",
    source="file",
    added_at=1.7e9,
    architecture=SHAPE,
    chat_template=True,
)
OWN = replace(CHOSEN, name="own-chat", model="Own-Chat", sha256="2" * 64)
FOLDER = replace(OWN, name="own-folder", model="Own-Folder", sha256="3" * 64, form="safetensors", quantisation="bf16")
# None of these answers a chat on this machine for a company.
UNUSABLE = (
    replace(OWN, name="embedder", model="Embedder", sha256="4" * 64, task="embed", form="onnx"),
    replace(OWN, name="research", model="Research", sha256="5" * 64, licence="cc-by-nc-4.0"),
    replace(OWN, name="large", model="Large", sha256="6" * 64, size_bytes=400 << 30, architecture=LARGE_SHAPE),
)


def add_model(home: Home, model: StoredModel) -> None:
    home.folder("models")
    write_json(home.model_record(model.sha256), model)
    if model.form == "safetensors":
        home.model_folder(model.sha256).mkdir()
    else:
        home.model(model.sha256, model.form).touch()


def add_clutter(home: Home) -> None:
    """Add what no plan reads: other folders, a file without a record, a damaged record, facts of an older version."""
    home.folder("models")
    home.model("7" * 64).touch()
    home.model_record("8" * 64).write_text("{")
    (home.stored_models / "README.txt").write_text("models")
    (home.folder("logs") / "gateway.log").write_text("started")
    (home.folder("measured") / "engines.json").write_text('[{"version": 0}]')
    write_json(home.machine_facts, replace(MACHINE, isa="avx2", probed_at=1.0, disk_free_bytes=1, busy_share=0.9))
    (home.root / "notes").mkdir()


class Desk:
    """Makes plans of one needs file in several homes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.needs = folder / "needs.yaml"
        self._homes = 0

    def plan(self, *models: StoredModel, clutter: bool = False, machine: MachineFacts | None = MACHINE) -> Plan:
        self._homes += 1
        home = Home(self._folder / f"home-{self._homes}")
        home.folder("run")
        for model in models:
            add_model(home, model)
        if clutter:
            add_clutter(home)
        catalog = load_catalog(home, today=NOW.date())
        needs, source = read_needs(self.needs, catalog)
        return make_plan(needs, source, catalog, machine, NOW)


WriteNeeds = Callable[..., Desk]


@pytest.fixture
def desk(tmp_path: Path) -> WriteNeeds:
    """Write the needs of an example with other fields of its first workload, and other allowed placements."""

    def write(example: str, *, allow: str = "this-machine", **fields: Any) -> Desk:
        document = yaml.load(read_example(example), yaml.CSafeLoader)
        document["workloads"][0].update(fields)
        document["placement"]["allow"] = [allow]
        desk = Desk(tmp_path)
        desk.needs.write_text(yaml.safe_dump(document))
        return desk

    return write


@pytest.mark.parametrize("machine", [MACHINE, WITH_GPU], ids=["processor", "gpu"])
def test_needs_that_name_their_model_do_not_depend_on_other_models(desk: WriteNeeds, machine: MachineFacts) -> None:
    made = desk("desk")
    alone = made.plan(machine=machine)
    assert alone.chosen
    assert made.plan(CHOSEN, OWN, FOLDER, *UNUSABLE, clutter=True, machine=machine).digest == alone.digest


def test_needs_whose_model_is_chosen_depend_only_on_files_that_may_be_chosen(desk: WriteNeeds) -> None:
    made = desk("desk", model=None, slo={"ttft_p95_s": 60, "tpot_p95_s": 1})
    alone = made.plan(CHOSEN)
    assert [pool.model for pool in alone.pools] == [CHOSEN.model]
    assert made.plan(CHOSEN, FOLDER, *UNUSABLE, clutter=True).digest == alone.digest
    assert made.plan(replace(CHOSEN, quantisation="Q4_K_M")).digest != alone.digest


def test_a_plan_of_rented_machines_does_not_depend_on_models_below_its_floor(desk: WriteNeeds) -> None:
    made = desk("startup", allow="serverless")
    alone = made.plan(machine=None)
    assert alone.chosen
    assert made.plan(OWN, FOLDER, *UNUSABLE, clutter=True, machine=None).digest == alone.digest


def test_the_digest_depends_neither_on_time_nor_on_the_path_of_the_needs(desk: WriteNeeds) -> None:
    made = desk("desk")
    first = made.plan()
    later = (NOW + timedelta(days=1)).isoformat()
    assert replace(first, needs_file="elsewhere/needs.yaml", created_at=later).digest == first.digest
    made.needs = made.needs.rename(made.needs.with_name("other.yaml"))
    moved = made.plan()
    assert moved.needs_file != first.needs_file and moved.digest == first.digest
    assert replace(first, organisation="Another").digest != first.digest
