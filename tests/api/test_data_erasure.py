"""The verbs of erasure: plan, refusal, erasure with the models that follow, receipt, audit record."""

from __future__ import annotations

import json
import time
from contextlib import closing
from pathlib import Path

import msgspec

from archwright.access import audit_log
from archwright.api import data
from archwright.contract.lineage import ModelVersion, Promotion, TrainingRun
from archwright.contract.record import replace
from archwright.crypto.signing import SigningKey
from archwright.home import Home, write_json
from archwright.lake.erasure.receipt import ErasureReceipt
from archwright.lifecycle import model_registry
from archwright.store import Store
from archwright.training import training_runs

from ..command_line import CommandLine

WHO = "zoe.uebel@example.org"


def add_model(store: Store, run: str, version: str) -> None:
    found = TrainingRun(
        id=run,
        at=1.0,
        name="m",
        task="text-lora",
        status="finished",
        created_at=1.0,
        dataset_version=version,
        base="b",
        base_sha256="b" * 64,
    )
    training_runs.append_run(store, found)
    model = ModelVersion(
        id=f"m@{run}",
        name="m",
        version=int(run[2:]),
        at=1.0,
        task="text-lora",
        format="gguf",
        sha256="c" * 64,
        size_bytes=1,
        run=run,
        dataset_version=version,
    )
    store.append(model_registry.MODELS, [model])


def test_an_erasure_by_verbs(tmp_path: Path, home: Home, cli: CommandLine) -> None:
    rows = [{"text": f"by {WHO}"}, {"text": "x"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data.ingest(str(tmp_path / "a.jsonl"), name="docs")
    cli.text(f"data ingest {tmp_path}/a.jsonl --name docs --licence MIT")
    data.ingest(str(tmp_path / "a.jsonl"), name="other")
    with closing(Store(home.store_url)) as store:
        add_model(store, "r-1", "docs@v1")
        add_model(store, "r-2", "docs@v2")
        promotion = Promotion(
            id="m#1", at=time.time(), action="promote", endpoint="m", model="m@r-2", previous=None, by="me"
        )
        store.append(model_registry.PROMOTIONS, [promotion])
    assert "AW-DATA-57" in cli.error("data erase --subject nobody@example.org", 13)
    plan = cli.text(f"data erase --subject {WHO} --dry-run")
    assert "plan only: 3 rows in all versions" in plan
    made = cli.json(f"data erase --subject {WHO}")
    assert [(model["model"], model["serving"]) for model in made["models"]] == [("m@r-1", False), ("m@r-2", True)]
    assert "serves this version now" in made["models"][1]["follow_up"]
    assert "valid, by this home" in cli.text(f"data receipt {made['receipt']}")
    assert WHO not in Path(made["receipt"]).read_text()
    receipt = msgspec.json.decode(Path(made["receipt"]).read_bytes(), type=ErasureReceipt)
    forged = tmp_path / "forged.json"
    stranger = SigningKey(b"s" * 32)
    unsigned = replace(receipt, public_key=stranger.public_key, signature="")
    write_json(forged, replace(unsigned, signature=stranger.sign(msgspec.json.encode(unsigned))))
    assert "AW-DATA-82" in cli.error(f"data receipt {forged}", 10)
    assert "AW-DATA-82" in cli.error(f"data receipt {made['receipt']} --public-key {stranger.public_key}", 10)
    assert "by the stated key" in cli.text(f"data receipt {forged} --public-key {stranger.public_key}")
    with closing(Store(home.store_url)) as store:
        acts = [(event.action, event.resource) for event in audit_log.read_entries(store, home)]
    acts = [act for act in acts if act[0] != "data.receipt"]
    assert acts[0] == ("data.erase", Path(made["receipt"]).stem)
    assert not any(WHO in resource for _action, resource in acts)
    assert "no problem" in cli.text("data check")
