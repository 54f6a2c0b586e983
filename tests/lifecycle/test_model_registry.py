from __future__ import annotations

import errno
import os
import threading
from functools import partial
from pathlib import Path

import pytest

from archwright.contract.lineage import ModelVersion, Promotion, format_node
from archwright.contract.record import replace
from archwright.engines.gguf import read_gguf
from archwright.errors import ArchwrightError, ModelError, OperateError
from archwright.home import Home
from archwright.lifecycle import model_registry
from archwright.monitor import lineage
from archwright.store import Store

from ..tools.checks import refuses, run_together
from .conftest import RESULT, Pupil, Stage


def test_a_run_becomes_the_next_version_of_its_name(stage: Stage) -> None:
    first, second, other = stage.version(1), stage.version(2), stage.version(1, "shuttle")
    assert [v.id for v in (first, second, other)] == ["digits@v1", "digits@v2", "shuttle@v1"]
    assert model_registry.list_models(stage.store) == [first, second, other]
    assert (
        model_registry.find_model(stage.store, "digits") == second
        and model_registry.find_model(stage.store, "digits@v1") == first
    )
    assert (first.labels, first.input_shape, first.format) == (("0", "1"), (1, 8, 8), "onnx")
    kept = stage.home.model(first.sha256, "onnx")
    assert kept.read_bytes() == b"\x08digits 1" and first.size_bytes == 9
    assert first.licence == "data rows@v1: CC0-1.0"


def test_an_unknown_version_is_answered_with_those_there_are(stage: Stage) -> None:
    with refuses("AW-MOD-10") as none:
        model_registry.find_model(stage.store, "digits")
    assert none.value.hint == "train a model: archwright train SPEC"
    stage.version()
    with pytest.raises(ModelError) as near:
        model_registry.find_model(stage.store, "digit@v1")
    assert near.value.nearest == ("digits@v1",) and near.value.hint == "use one of: digits@v1"
    with pytest.raises(ModelError) as later:
        model_registry.find_model(stage.store, "digits@v7")
    assert later.value.hint == "use one of: digits@v1"


def test_registering_again_changes_nothing(stage: Stage) -> None:
    once = stage.version()
    assert stage.version() == once and model_registry.list_models(stage.store) == [once]
    assert len(lineage.read_parents(stage.store, format_node("model", once.id))) == 2


def test_edges_lead_from_the_version_to_its_data(stage: Stage) -> None:
    made = stage.version()
    found = {
        (e.child, e.relation, e.parent) for e in lineage.trace_ancestry(stage.store, format_node("model", made.id))
    }
    digest = stage.dataset.files[0].sha256
    assert found == {
        ("model:digits@v1", "produced-by", "run:r-digits-1"),
        ("model:digits@v1", "trained-on", "dataset:rows@v1"),
        ("run:r-digits-1", "trained-on", "dataset:rows@v1"),
        ("dataset:rows@v1", "ingested", f"file:{digest}"),
    }


class Killed(BaseException):
    """Stands for kill -9: no code after it runs."""


def test_a_kill_leaves_no_version_or_one_without_edges_which_the_repetition_completes(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_a_full_disk_is_said_and_leaves_nothing(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", full)
        with pytest.raises(OperateError) as refused:
            stage.version()
    assert refused.value.code == "AW-OPS-01"
    assert model_registry.list_models(stage.store) == [] and list(stage.home.folder("models").glob(".model-*")) == []


def test_a_pickle_does_not_become_a_version(stage: Stage) -> None:
    run = stage.run()
    (stage.home.run(run.id) / "result" / "model.pkl").write_bytes(b"\x80\x04N.")
    with refuses("AW-MOD-01"):
        model_registry.register_model(stage.store, stage.home, run, replace(RESULT, file="model.pkl"))
    assert model_registry.list_models(stage.store) == []


def test_two_registrations_of_one_run_at_once_make_one_version(stage: Stage) -> None:
    run, found = stage.run(), []
    together = threading.Barrier(4)

    def register() -> None:
        together.wait()
        store = Store(stage.home.store_url)
        found.append(model_registry.register_model(store, stage.home, run, RESULT))
        store.close()

    run_together([register] * 4)
    assert {version.id for version in found} == {"digits@v1"}
    assert len(model_registry.list_models(stage.store)) == 1


def test_two_runs_of_one_name_at_once_get_two_numbers(stage: Stage) -> None:
    together = threading.Barrier(4)
    runs = [stage.run(number) for number in range(4)]

    def register(number: int) -> None:
        together.wait()
        store = Store(stage.home.store_url)
        model_registry.register_model(store, stage.home, runs[number], RESULT)
        store.close()

    run_together([partial(register, number) for number in range(4)])
    versions = model_registry.list_models(stage.store)
    assert sorted(v.version for v in versions) == [1, 2, 3, 4] and len({v.run for v in versions}) == 4


def test_a_trained_adapter_is_registered_as_what_is_served(pupil: Pupil) -> None:
    made = pupil.register()
    assert made.format == "gguf" and made.base_sha256 == pupil.run.base_sha256
    assert made.licence == "data answers@v1: CC0-1.0; base tiny-llama: not stated"
    contents = read_gguf(pupil.home.model(made.sha256, "gguf"))
    assert contents.values["adapter.type"] == "lora" and len(contents.shapes) == 2 * 7 * 2
    pupil.home.model(made.sha256, "gguf").unlink()
    assert pupil.register() == made  # the same run gives the same bytes
    assert pupil.home.model(made.sha256, "gguf").is_file()


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
    promoted(stage, first, 100.0, monkeypatch)
    promoted(stage, second, 200.0, monkeypatch)
    promoted(stage, first, 300.0, monkeypatch)
    promoted(stage, None, 400.0, monkeypatch)
    asked = {at: model_registry.production_versions(stage.store, at) for at in (99.0, 100.0, 250.0, 399.0, 400.0)}
    assert asked == {99.0: {}, 100.0: {"digits": first}, 250.0: {"digits": second}, 399.0: {"digits": first}, 400.0: {}}
    assert model_registry.production_versions(stage.store) == {}
    assert [change.id for change in model_registry.promotion_history(stage.store)] == [
        f"digits#{n}" for n in (1, 2, 3, 4)
    ]
    assert [change.previous for change in model_registry.promotion_history(stage.store)] == [
        None,
        first.id,
        second.id,
        first.id,
    ]


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
        store = Store(stage.home.store_url)
        together.wait()
        try:
            model_registry.append_promotion(
                store, model_registry.promotion_history(store, "digits"), "promote", ("digits", version.id), version.id
            )
        except ArchwrightError as error:
            refused.append(error.code)
        store.close()

    run_together([partial(promote, version) for version in versions])
    history = model_registry.promotion_history(stage.store, "digits")
    assert [change.id for change in history] == [f"digits#{n + 1}" for n in range(len(history))]
    assert [change.previous for change in history] == [None, *(change.model for change in history[:-1])]
    assert len(history) + len(refused) == 4 and set(refused) <= {"AW-MOD-20"}


def test_a_file_is_kept_whole_under_its_digest(home: Home, tmp_path: Path) -> None:
    source = tmp_path / "file"
    source.write_bytes(os.urandom(3_000_000))
    digest, size = model_registry.store_file(home, source, "onnx")
    assert size == 3_000_000 and home.model(digest, "onnx").read_bytes() == source.read_bytes()
