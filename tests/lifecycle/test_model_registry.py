from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from archwright.contract.lineage import ModelVersion, Promotion, TrainingRun, format_node
from archwright.contract.record import replace
from archwright.engines.gguf import read_gguf
from archwright.engines.model_files import compute_digest
from archwright.errors import ArchwrightError
from archwright.lifecycle import file_integrity, model_registry
from archwright.lifecycle.adapter_export import PEFT_FILES
from archwright.monitor import lineage
from archwright.store import Store

from ..tools.checks import refuses, run_together
from .conftest import RESULT, Pupil, Stage


def test_a_run_becomes_the_next_version_of_its_name(stage: Stage) -> None:
    first, second, other = stage.version(1), stage.version(2), stage.version(1, "shuttle")
    assert [v.id for v in (first, second, other)] == ["digits@v1", "digits@v2", "shuttle@v1"]
    assert model_registry.list_models(stage.store) == [first, second, other]
    found = [model_registry.find_model(stage.store, name) for name in ("digits", "digits@v1")]
    assert found == [second, first]
    assert (first.labels, first.input_shape, first.format) == (("0", "1"), (1, 8, 8), "onnx")
    kept = stage.home.model(first.sha256, "onnx")
    assert kept.read_bytes() == b"\x08digits 1" and first.size_bytes == 9
    assert first.licence == "data rows@v1: CC0-1.0"


def test_an_unknown_version_is_answered_with_those_there_are(stage: Stage) -> None:
    with refuses("AW-MOD-10", hint="train a model: archwright train SPEC"):
        model_registry.find_model(stage.store, "digits")
    stage.version()
    for name in ("digit@v1", "digits@v7"):
        with refuses("AW-MOD-10", hint="use one of: digits@v1") as near:
            model_registry.find_model(stage.store, name)
        assert near.value.nearest == ("digits@v1",)


def test_edges_lead_from_the_version_to_its_data_and_registering_again_changes_nothing(stage: Stage) -> None:
    made = stage.version()
    assert stage.version() == made and model_registry.list_models(stage.store) == [made]
    edges = lineage.trace_ancestry(stage.store, format_node("model", made.id))
    assert sorted((edge.child, edge.relation, edge.parent) for edge in edges) == [
        ("dataset:rows@v1", "ingested", f"file:{stage.file.sha256}"),
        ("model:digits@v1", "produced-by", "run:r-digits-1"),
        ("model:digits@v1", "trained-on", "dataset:rows@v1"),
        ("run:r-digits-1", "trained-on", "dataset:rows@v1"),
    ]


class Killed(BaseException):
    """Stands for kill -9: no code after it runs."""


def test_a_repetition_completes_what_a_kill_left(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise Killed

    for owner, name in ((Store, "append"), (model_registry, "complete_edges")):
        assert model_registry.list_models(stage.store) == []
        with monkeypatch.context() as broken, pytest.raises(Killed):
            broken.setattr(owner, name, killed)
            stage.version()
    found = model_registry.find_model(stage.store, "digits")
    assert lineage.read_parents(stage.store, format_node("model", found.id)) == []
    assert stage.version() == found and model_registry.list_models(stage.store) == [found]
    assert len(lineage.read_parents(stage.store, format_node("model", found.id))) == 2
    models = [path for path in stage.home.folder("models").iterdir() if path.is_file()]
    assert models == [stage.home.model(found.sha256, "onnx")]


def test_what_a_killed_registration_left_is_swept_once_it_is_old(stage: Stage) -> None:
    folder = stage.home.folder("models")
    old, young = folder / ".model-old", folder / ".model-young"
    old.write_bytes(b"half")
    young.write_bytes(b"half")
    os.utime(old, (0, 0))
    stage.version()
    assert not old.exists() and young.exists()


def test_a_full_disk_is_reported_and_leaves_nothing(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken, refuses("AW-OPS-01"):
        broken.setattr(os, "fsync", full)
        stage.version()
    assert model_registry.list_models(stage.store) == [] and list(stage.home.folder("models").glob(".model-*")) == []


def test_a_pickle_does_not_become_a_version(stage: Stage) -> None:
    run = stage.run()
    (stage.home.run(run.id) / "result" / "model.pkl").write_bytes(b"\x80\x04N.")
    with refuses("AW-MOD-01"):
        model_registry.register_model(stage.store, stage.home, run, replace(RESULT, file="model.pkl"))
    assert model_registry.list_models(stage.store) == []


@pytest.mark.parametrize("numbers", [[1, 1, 1, 1], [1, 2, 3, 4]])
def test_registrations_at_once_make_one_version_of_each_run(stage: Stage, numbers: list[int]) -> None:
    together, found = threading.Barrier(4), list[ModelVersion]()

    def register(run: TrainingRun) -> None:
        together.wait()
        with closing(Store(stage.home.store_url)) as store:
            found.append(model_registry.register_model(store, stage.home, run, RESULT))

    run_together([partial(register, stage.run(number)) for number in numbers])
    assert {(version.id, version.run) for version in found} == {
        (version.id, version.run) for version in model_registry.list_models(stage.store)
    }
    assert len(found) == 4 and {version.version for version in found} == set(numbers)
    assert {version.run for version in found} == {f"r-digits-{number}" for number in numbers}


def test_a_trained_adapter_is_registered_as_what_is_served(pupil: Pupil) -> None:
    made = pupil.register()
    assert made.format == "gguf" and made.base_sha256 == pupil.run.base_sha256
    assert made.licence == "data answers@v1: CC0-1.0; base tiny-llama: not stated"
    contents = read_gguf(pupil.home.model(made.sha256, "gguf"))
    assert contents.values["adapter.type"] == "lora" and len(contents.shapes) == 2 * 7 * 2
    pupil.home.model(made.sha256, "gguf").unlink()
    assert pupil.register() == made  # the same run gives the same bytes
    assert pupil.home.model(made.sha256, "gguf").is_file()


def test_an_adapter_is_kept_in_its_own_format_too(pupil: Pupil) -> None:
    made = pupil.register()
    folder = pupil.home.model_folder(made.peft_sha256)
    assert sorted(path.name for path in folder.iterdir()) == list(PEFT_FILES)
    assert compute_digest(folder) == made.peft_sha256
    for name in PEFT_FILES:
        assert (folder / name).read_bytes() == (pupil.result / name).read_bytes()
    assert json.loads((folder / "adapter_config.json").read_bytes())["base_model_name_or_path"] == "tiny-llama"
    file_integrity.check_files(pupil.home, made)
    shutil.rmtree(folder)
    file_integrity.restore_files(pupil.store, pupil.home, made)
    assert compute_digest(folder) == made.peft_sha256 and model_registry.list_models(pupil.store) == [made]
    (folder / "adapter_config.json").write_text("{}")
    hint = "remove it, then run `archwright models evaluate assistant@v1`, which restores it from its run"
    with refuses("AW-MOD-23", hint=hint) as altered:
        file_integrity.check_files(pupil.home, made)
    assert str(folder) in str(altered.value.where)


def test_the_files_of_a_version_are_exported_with_their_digests(pupil: Pupil, tmp_path: Path) -> None:
    made = pupil.register()
    exported = file_integrity.export_files(pupil.home, made, tmp_path / "tone")
    assert list(exported) == ["adapter_config.json", "adapter_model.safetensors", "assistant.gguf"]
    assert exported["assistant.gguf"] == made.sha256
    assert exported == {path.name: compute_digest(path) for path in (tmp_path / "tone").iterdir()}
    with refuses("AW-USE-02"):
        file_integrity.export_files(pupil.home, made, tmp_path / "tone")
    pupil.home.model(made.sha256).unlink()
    with refuses("AW-MOD-23"):
        file_integrity.export_files(pupil.home, made, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_without_its_base_an_adapter_cannot_be_exported(pupil: Pupil) -> None:
    pupil.home.model(pupil.run.base_sha256).unlink()
    with refuses("AW-GET-02") as refused:
        pupil.register()
    assert "tiny-llama" in refused.value.hint
    assert model_registry.list_models(pupil.store) == []


def promoted(stage: Stage, version: ModelVersion | None, at: float, monkeypatch: pytest.MonkeyPatch) -> Promotion:
    monkeypatch.setattr("archwright.lifecycle.model_registry.time.time", lambda: at)
    seen = model_registry.promotion_history(stage.store, "digits")
    to = ("digits", version.id if version else None)
    return model_registry.append_promotion(stage.store, seen, "promote" if version else "rollback", to, "me")


def test_what_was_in_production_at_a_time_is_a_query(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = stage.version(1), stage.version(2)
    for at, version in ((100.0, first), (200.0, second), (300.0, first), (400.0, None)):
        promoted(stage, version, at, monkeypatch)
    asked = {at: model_registry.production_versions(stage.store, at) for at in (99.0, 100.0, 250.0, 399.0, 400.0)}
    assert asked == {99.0: {}, 100.0: {"digits": first}, 250.0: {"digits": second}, 399.0: {"digits": first}, 400.0: {}}
    assert model_registry.production_versions(stage.store) == {}
    history = [(change.id, change.previous) for change in model_registry.promotion_history(stage.store)]
    assert history == [(f"digits#{n}", p) for n, p in enumerate((None, first.id, second.id, first.id), 1)]


def test_a_clock_set_back_does_not_reorder_the_history(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = stage.version(1), stage.version(2)
    promoted(stage, first, 500.0, monkeypatch)
    later = promoted(stage, second, 400.0, monkeypatch)
    assert later.at == 500.0 and model_registry.production_versions(stage.store, 500.0) == {"digits": second}


def test_of_two_changes_decided_on_the_same_state_one_is_refused(stage: Stage) -> None:
    first, second = stage.version(1), stage.version(2)
    seen = model_registry.promotion_history(stage.store, "digits")
    model_registry.append_promotion(stage.store, seen, "promote", ("digits", first.id), "anna")
    with refuses("AW-MOD-20") as refused:
        model_registry.append_promotion(stage.store, seen, "promote", ("digits", second.id), "ben")
    assert "by anna (to digits@v1)" in refused.value.message
    assert [change.model for change in model_registry.promotion_history(stage.store)] == [first.id]


def test_many_promoting_at_once_leave_a_history_without_forks(stage: Stage) -> None:
    versions = [stage.version(number) for number in range(1, 5)]
    together, refused = threading.Barrier(4), []

    def promote(version: ModelVersion) -> None:
        together.wait()
        with closing(Store(stage.home.store_url)) as store:
            seen = model_registry.promotion_history(store, "digits")
            try:
                model_registry.append_promotion(store, seen, "promote", ("digits", version.id), version.id)
            except ArchwrightError as error:
                refused.append(error.code)

    run_together([partial(promote, version) for version in versions])
    history = model_registry.promotion_history(stage.store, "digits")
    assert [change.id for change in history] == [f"digits#{n + 1}" for n in range(len(history))]
    assert [change.previous for change in history] == [None, *(change.model for change in history[:-1])]
    assert len(history) + len(refused) == 4 and set(refused) <= {"AW-MOD-20"}
