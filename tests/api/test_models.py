from __future__ import annotations

import errno
import os
import pwd
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from archwright import api
from archwright.access import audit_log
from archwright.api.lineage_chain import LineageChain
from archwright.api.model_files import ModelFile
from archwright.api.models import ModelCard
from archwright.catalog.load import load_catalog
from archwright.contract.lineage import Evaluation, Gate, LineageEdge, Score
from archwright.contract.record import replace
from archwright.contract.served import RequestRecord, make_request_id
from archwright.errors import OperateError, UsageError
from archwright.home import Home
from archwright.journal import listen_to_steps
from archwright.lake.tables import version_index
from archwright.lifecycle import model_registry
from archwright.monitor import lineage
from archwright.monitor.wal.writer import WalWriter
from archwright.training import training_runs

from ..command_line import CommandLine, error_of
from ..lifecycle.conftest import PASSED, Stage
from ..training.counting_trainer import version_of

ME = pwd.getpwuid(os.getuid()).pw_name
FAILED = (Gate(name="export", passed=False, detail="served differs by 0.5, limit 0.1"),)


@pytest.fixture
def stage(home: Home) -> Iterator[Stage]:
    home.folder()
    made = Stage(home)
    yield made
    made.store.close()


def acts(stage: Stage) -> list[tuple[str, str]]:
    return [(event.action, event.resource) for event in reversed(audit_log.read_entries(stage.store))]


def test_the_list_has_files_and_versions_each_with_its_id(stage: Stage, cli: CommandLine) -> None:
    stage.version(1, gates=PASSED)
    stage.version(2, gates=FAILED)
    gone = stage.version(3)
    stage.home.model(gone.sha256, "onnx").unlink()
    api.models.promote("digits@v1")
    listed = cli.json("models list")
    assert all(record["id"] for record in listed)
    files = [record for record in listed if record["kind"] == "file"]
    assert files and {"model", "quantisation", "sha256", "here", "path"} <= set(files[0])
    versions = [record for record in listed if record["kind"] == "version"]
    assert [(v["id"], v["evaluated"], v["in_production"], v["here"]) for v in versions] == [
        ("digits@v1", "passed", True, True),
        ("digits@v2", "failed", False, True),
        ("digits@v3", "never", False, False),
    ]
    text = cli.text("models list")
    assert "SmolLM2-135M-Instruct" in text and "digits@v2" in text and "file missing" in text


def test_a_home_without_versions_says_how_to_make_one(stage: Stage, cli: CommandLine) -> None:
    assert "no version yet; train one" in cli.text("models list")
    assert cli.text("models history") == "no version of ours is or was in production\n"
    assert cli.json("models history") == []


def test_a_version_is_shown_with_scores_gates_and_what_it_was_made_of(stage: Stage, cli: CommandLine) -> None:
    made = stage.version()
    never = cli.text("models show digits")
    assert "never; run archwright models evaluate digits@v1" in never and "rows.jsonl  1 rows" in never
    score = Score(metric="accuracy", value=0.9, low=0.85, high=0.95, items=180, baseline=0.1, baseline_name="guessing")
    found = Evaluation(id="e-1", at=time.time(), model=made.id, scores=(score,), gates=PASSED)
    stage.store.append(model_registry.EVALUATIONS, [found])
    promoted = api.models.promote("digits")
    card = cli.json("models show digits@v1")
    file = stage.file
    files = [msgspec.to_builtins(file)]
    assert card["lineage"] == {"run": "r-digits-1", "dataset_version": "rows@v1", "files": files}
    assert card["scores"][0]["metric"] == "accuracy"
    assert [gate["name"] for gate in card["gates"]] == ["quality", "export"]
    assert card["production_since"] == promoted.at and card["in_production"] and card["labels"] == ["0", "1"]
    text = cli.text("models show digits@v1")
    for part in ("0.9", "0.85 to 0.95", "0.1  guessing", "gate quality passed", "since 20", "CC0-1.0", "labels"):
        assert part in text


def test_a_model_file_is_shown_too(stage: Stage, cli: CommandLine) -> None:
    found = api.models.show("SmolLM2-135M-Instruct")
    assert isinstance(found, ModelFile) and api.models.show(found.id) == found
    assert "Q4_1" in cli.text("models show SmolLM2-135M-Instruct")
    error_of("AW-MOD-10", api.models.show, "SmolLM3")


def test_the_files_of_a_version_are_written_and_audited(stage: Stage, cli: CommandLine, tmp_path: Path) -> None:
    made = stage.version()
    written = cli.json(f"models export digits -o {tmp_path / 'digits'}")
    assert written["id"] == "digits@v1" and written["files"] == {"digits.onnx": made.sha256}
    assert (tmp_path / "digits/digits.onnx").read_bytes() == b"\x08digits 1"
    assert acts(stage) == [("models.export", "digits@v1")]
    error_of("AW-USE-02", api.models.export, "digits", output=str(tmp_path / "digits"))
    error_of("AW-MOD-10", api.models.export, "letters", output=str(tmp_path / "letters"))


def test_an_evaluation_is_reported_kept_audited_and_shown(
    stage: Stage, cli: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.version()
    evaluate = "archwright.lifecycle.classifier_evaluation.evaluate_classifier"
    monkeypatch.setattr(evaluate, lambda store, home, model, production: ((), PASSED))
    assert "may be promoted: archwright models promote digits@v1" in cli.text("models evaluate digits")
    monkeypatch.setattr(evaluate, lambda store, home, model, production: ((), FAILED))
    text = cli.text("models evaluate digits", 1)
    assert "gate export failed" in text and "served differs by 0.5" in text and "may not be promoted" in text
    assert acts(stage) == [("models.evaluate", "digits@v1")] * 2
    card = api.models.show("digits")
    assert isinstance(card, ModelCard) and card.evaluated == "failed"

    steps: list[str] = []
    with listen_to_steps(steps.append):
        api.models.evaluate("digits")
    assert steps == ["reading the held-out rows of rows@v1"]


def test_promote_says_who_did_it_and_what_stood_before(stage: Stage, cli: CommandLine) -> None:
    stage.version(1, gates=PASSED)
    stage.version(2, gates=PASSED)
    would = cli.json("models promote digits@v1 --dry-run")
    assert would["dry_run"] and would["id"] == "digits#1" and api.models.history() == ()
    assert "would promote digits: no version of ours -> digits@v1; nothing was changed" in cli.text(
        "models promote digits@v1 --dry-run"
    )
    first = api.models.promote("digits@v1")
    second = api.models.show("digits@v2")
    assert isinstance(second, ModelCard) and second.evaluated == "outdated"
    assert "evaluate again" in cli.text("models list")
    stage.judged(second, PASSED)
    assert (first.by, first.previous, first.served, first.dry_run) == (ME, None, False, False)
    text = cli.text("models promote digits")
    assert text.startswith(f"promoted digits: digits@v1 -> digits@v2  (digits#2, by {ME}); ")
    assert text.endswith("no platform runs: the next `up` serves it\n")
    assert acts(stage) == [("models.promote", "digits digits@v1"), ("models.promote", "digits digits@v2")]


def test_a_refusal_has_the_gate_its_figures_and_exit_status_12(stage: Stage, cli: CommandLine) -> None:
    stage.version(1, gates=FAILED)
    error = cli.json_error("models promote digits", 12)
    assert error["code"] == "AW-MOD-22" and "gate export: served differs by 0.5, limit 0.1" in error["message"]
    assert cli.error("models promote digits --dry-run", 12).count("\n") == 3
    assert api.models.history() == () and acts(stage) == []


def test_rollback_goes_back_and_history_only_grows(stage: Stage, cli: CommandLine) -> None:
    stage.version(1, gates=PASSED)
    api.models.promote("digits@v1")
    stage.version(2, gates=PASSED)
    api.models.promote("digits@v2")
    assert cli.json("models rollback digits --dry-run")["model"] == "digits@v1"
    assert "would roll back digits: digits@v2 -> digits@v1" in cli.text("models rollback digits --dry-run")
    assert api.models.rollback("digits@v2").model == "digits@v1"  # an id names its endpoint
    assert api.models.rollback("digits").model is None
    assert "nothing to roll back on digits" in cli.error("models rollback digits", 12)
    records = cli.json("models history digits")
    assert [(r["id"], r["action"], r["model"], r["by"]) for r in records] == [
        ("digits#1", "promote", "digits@v1", ME),
        ("digits#2", "promote", "digits@v2", ME),
        ("digits#3", "rollback", "digits@v1", ME),
        ("digits#4", "rollback", None, ME),
    ]
    assert all(isinstance(record["at"], float) for record in records)
    assert acts(stage)[-1] == ("models.rollback", "digits the plan")
    text = cli.text("models history")
    assert "digits#4" in text and "no version of ours" in text


def test_what_was_in_production_at_a_time(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    noon = datetime(2026, 11, 24, 12, tzinfo=UTC).timestamp()
    for hour, (name, number) in enumerate((("digits", 1), ("shuttle", 1), ("digits", 2))):
        version = stage.version(number, name, gates=PASSED)
        monkeypatch.setattr("archwright.lifecycle.model_registry.time.time", lambda at=noon + hour * 3600: at)
        api.models.promote(version.id)

    def at(text: str, name: str | None = None) -> list[str | None]:
        return [record.model for record in api.models.history(name, at=text)]

    assert at("2026-11-24T11:59:59Z") == []
    assert at("2026-11-24T12:00:00Z") == ["digits@v1"]
    assert at("2026-11-24T13:30:00+00:00") == ["digits@v1", "shuttle@v1"]
    assert at("2026-11-24T15:00:00+01:00") == ["digits@v2", "shuttle@v1"]
    assert at("2026-11-24T15:00:00+01:00", "digits") == ["digits@v2"]
    assert at("2026-11-25") == ["digits@v2", "shuttle@v1"]


@pytest.mark.parametrize("text", ["yesterday", "2026-13-01", "", "1795547940"])
def test_what_is_no_time_is_refused(stage: Stage, text: str) -> None:
    assert "2026-11-24T15:30" in error_of("AW-USE-50", api.models.history, at=text).hint


def test_the_history_of_an_unknown_name_is_an_error_and_of_a_known_one_is_empty(stage: Stage) -> None:
    assert "archwright train" in error_of("AW-MOD-12", api.models.history, "digits").hint
    stage.version()
    assert api.models.history("digits") == ()
    assert error_of("AW-MOD-12", api.models.history, "digit").nearest == ("digits",)


def test_a_failing_disk_leaves_production_as_it_is(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    made = stage.version(1, gates=PASSED)

    def full(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error", str(stage.home.model(made.sha256, "onnx")))

    monkeypatch.setattr("archwright.lifecycle.file_integrity.compute_digest", full)
    with pytest.raises(OperateError):
        api.models.promote("digits")
    assert model_registry.production_versions(stage.store) == {}


def test_a_pickle_is_refused_with_the_way_to_convert(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "safetensors.torch.save_file" in error_of("AW-MOD-01", api.models.fetch, "./adapter_model.bin").hint
    with pytest.raises(UsageError):
        api.models.fetch("./model.gguf")
    shipped = next(iter(load_catalog().artefacts.values()))
    row = replace(shipped, name="evil", model="evil", package="evil", member="weights.pth")

    class Catalog:
        artefacts = {"evil": row}

    monkeypatch.setattr("archwright.api.models.load_catalog", lambda home: Catalog)
    error_of("AW-MOD-01", api.models.fetch, "evil")


def test_a_user_without_a_name_is_told_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(number: int) -> None:
        raise KeyError(number)

    monkeypatch.setattr("archwright.api.models.pwd.getpwuid", nobody)
    assert api.models._read_user_name() == f"uid {os.getuid()}"


# --- lineage -------------------------------------------------------------------------------------------------------


def answered(stage: Stage, model: str, **more: Any) -> str:
    """Return the record of a request that `model` answered."""
    now = time.time()
    name = make_request_id(now, 7)
    ledger = WalWriter(stage.store, stage.home)
    ledger.append("served", RequestRecord(at=now + 1.0, request_id=name, status="ok", version=model, **more))
    ledger.flush()
    ledger.close()
    return name


def test_from_an_answer_to_its_source_files(stage: Stage, cli: CommandLine) -> None:
    stage.version()
    answer = answered(stage, "digits@v1")
    chain = cli.json(f"lineage {answer}")
    digest = stage.file.sha256
    steps = [chain[name] for name in ("id", "answer", "model", "run", "dataset_versions")]
    assert steps == [answer, answer, "digits@v1", "r-digits-1", ["rows@v1"]]
    assert [file["sha256"] for file in chain["files"]] == [digest] and chain["files"][0]["path"] == "rows.jsonl"
    assert [edge["relation"] for edge in chain["edges"]].count("answered-by") == 1 and len(chain["edges"]) == 5
    text = cli.text(f"lineage answer:{answer}")
    parts = (f"answer {answer}", "model digits@v1", "run r-", "data set rows@v1", "rows.jsonl")
    assert sorted(parts, key=text.index) == list(parts)


def test_from_any_id_on_the_way(stage: Stage) -> None:
    stage.version(1)
    stage.version(2)
    training_runs.append_run(stage.store, stage.run(2))
    assert api.lineage("digits").model == "digits@v2"
    assert api.lineage("digits@v1").run == "r-digits-1"
    run = api.lineage("r-digits-2")
    assert (run.model, run.run, run.dataset_versions) == (None, "r-digits-2", ("rows@v1",))
    data = api.lineage("rows")
    assert (data.id, data.run, data.dataset_versions) == ("rows@v1", None, ("rows@v1",))
    assert len(data.files) == 1 and api.lineage("dataset:rows@v1") == data
    # a run that is no version yet has its data
    training_runs.append_run(stage.store, stage.run(7))
    found = api.lineage("r-digits-7")
    assert (found.run, found.dataset_versions, len(found.files)) == ("r-digits-7", ("rows@v1",), 1)


def test_a_model_goes_before_a_data_set_of_its_name_unless_the_kind_is_stated(stage: Stage) -> None:
    stage.version(1, "rows")
    assert api.lineage("rows@v1").model == "rows@v1"
    assert api.lineage("dataset:rows@v1").model is None
    assert api.lineage("model:rows").run == "r-rows-1"


def test_an_answer_of_the_plans_own_model_ends_there(stage: Stage, cli: CommandLine) -> None:
    answer = answered(stage, "SmolLM2-135M-Instruct")
    found: LineageChain = api.lineage(answer)
    assert (found.model, found.run, found.files) == ("SmolLM2-135M-Instruct", None, ())
    assert "the plan's own model, not trained here" in cli.text(f"lineage {answer}")


def test_a_file_nobody_recorded_is_still_named_by_its_digest(stage: Stage) -> None:
    edge = LineageEdge(at=1.0, child="dataset:gone@v1", parent="file:abc", relation="ingested")
    lineage.append_edges(stage.store, [edge])
    made = version_of((), 1, "gone")
    stage.store.append(version_index.VERSIONS, [made])
    (found,) = api.lineage("gone@v1").files
    assert (found.sha256, found.path) == ("abc", "")


@pytest.mark.parametrize(
    "name", ["aw-nothing", make_request_id(1e9, 1), "nothing@v1", "r-nothing", "", "model:nothing", "file:abc"]
)
def test_an_unknown_id_is_an_error_with_a_hint(stage: Stage, name: str) -> None:
    assert error_of("AW-MOD-11", api.lineage, name).hint


def test_an_id_mistyped_is_answered_with_the_nearest(stage: Stage) -> None:
    stage.version()
    near = error_of("AW-MOD-11", api.lineage, "digit@v1")
    assert near.nearest[0] == "digits@v1" and "digits@v1" in near.hint
