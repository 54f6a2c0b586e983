from __future__ import annotations

import threading
from contextlib import closing
from functools import partial
from pathlib import Path

import msgspec
import pytest

from archwright.contract.lineage import Evaluation, Gate, ModelVersion, Promotion
from archwright.contract.plan import Artefact, Plan
from archwright.contract.record import replace
from archwright.errors import ModelError, PlanFileError
from archwright.lifecycle import model_placement, model_registry, promotion
from archwright.store import Store

from ..tools.checks import refuses, run_together
from ..training.tiny_model import artefact
from .conftest import PASSED, Stage

FAILED = Gate(name="export", passed=False, detail="served differs by 0.5, limit 0.1", value=0.5, limit=0.1, control=0.6)


def refused(stage: Stage, version: ModelVersion) -> ModelError:
    before = model_registry.promotion_history(stage.store)
    with pytest.raises(ModelError) as error:
        promotion.promote_version(stage.store, stage.home, version, "me")
    assert model_registry.promotion_history(stage.store) == before
    assert error.value.exit_status == 12 and error.value.hint
    return error.value


def test_a_version_that_passed_its_gates_is_promoted(stage: Stage) -> None:
    made = stage.version(gates=PASSED)
    change = promotion.promote_version(stage.store, stage.home, made, "anna")
    assert (change.id, change.action, change.endpoint, change.model) == ("digits#1", "promote", "digits", made.id)
    assert (change.previous, change.by) == (None, "anna")
    assert model_registry.production_versions(stage.store) == {"digits": made}
    assert refused(stage, made).code == "AW-MOD-24"  # it is in production already


def test_only_an_evaluation_that_passed_every_gate_counts(stage: Stage) -> None:
    never = refused(stage, stage.version(1))
    assert never.code == "AW-MOD-27" and never.hint == "archwright models evaluate digits@v1"
    failed = refused(stage, stage.version(2, gates=(PASSED[0], FAILED)))
    assert failed.code == "AW-MOD-22" and "quality" not in failed.message
    assert "gate export: served differs by 0.5, limit 0.1" in failed.message
    empty = refused(stage, stage.version(3, gates=()))
    assert empty.code == "AW-MOD-22" and "no gate" in empty.message


def test_the_newest_evaluation_counts(stage: Stage) -> None:
    made = stage.version(gates=(FAILED,))
    stage.judged(made, PASSED)
    promotion.promote_version(stage.store, stage.home, made, "me")
    other = stage.version(2, gates=PASSED)
    stage.judged(other, (FAILED,))
    assert refused(stage, other).code == "AW-MOD-22"


def test_an_evaluation_counts_only_against_what_is_in_production_now(stage: Stage) -> None:
    """Two versions were evaluated while nothing was in production: the second is not promoted over the first."""
    first, second = (stage.version(number, gates=PASSED) for number in (1, 2))
    promotion.promote_version(stage.store, stage.home, first, "me")
    stale = refused(stage, second)
    assert stale.code == "AW-MOD-28" and stale.hint == "evaluate it again: archwright models evaluate digits@v2"
    assert "compared it with no version, but digits@v1 is in production" in stale.message
    stage.judged(second, PASSED)
    promotion.roll_back_endpoint(stage.store, stage.home, "digits", "me")
    gone = refused(stage, second)
    assert gone.code == "AW-MOD-28" and "digits@v1, but no trained version is in production" in gone.message
    promoted_again(stage, first)
    promotion.promote_version(stage.store, stage.home, second, "me")  # digits@v1 is in production again


def test_an_evaluation_of_an_older_release_says_nothing_about_production(stage: Stage) -> None:
    first, second = (stage.version(number) for number in (1, 2))
    for version in (first, second):
        old = {"id": f"e-{version.version}", "at": 1.0, "model": version.id, "scores": [], "gates": PASSED}
        stage.store.append(model_registry.EVALUATIONS, [msgspec.convert(old, Evaluation)])
    promotion.promote_version(stage.store, stage.home, first, "me")
    assert refused(stage, second).code == "AW-MOD-28"


def test_a_missing_or_altered_file_is_refused(stage: Stage) -> None:
    made = stage.version(gates=PASSED)
    path = stage.home.model(made.sha256, "onnx")
    path.write_bytes(b"\x08digits X")
    altered = refused(stage, made)
    assert altered.code == "AW-MOD-23" and "was altered" in altered.message and "remove it" in altered.hint
    path.unlink()
    missing = refused(stage, made)
    assert missing.code == "AW-MOD-23" and "is missing" in missing.message and str(path) in str(missing.where)


def test_two_promoting_at_once_one_wins(stage: Stage) -> None:
    """Both have decided before either writes."""
    versions = [stage.version(number, gates=PASSED) for number in (1, 2)]
    decided, errors = threading.Barrier(2), []

    class Slow(Store):
        def append(self, table: object, rows: object) -> None:
            if table is model_registry.PROMOTIONS:
                decided.wait()
            super().append(table, rows)  # type: ignore[arg-type]

    def run(version: ModelVersion) -> None:
        with closing(Slow(stage.home.store_url)) as store:
            try:
                promotion.promote_version(store, stage.home, version, "me")
            except ModelError as error:
                errors.append(error)

    run_together([partial(run, version) for version in versions])
    assert [error.code for error in errors] == ["AW-MOD-20"]
    assert len(model_registry.promotion_history(stage.store, "digits")) == 1


def promoted(stage: Stage, count: int) -> list[ModelVersion]:
    versions = [stage.version(number + 1, gates=PASSED) for number in range(count)]
    for version in versions:
        promoted_again(stage, version)
    return versions


def promoted_again(stage: Stage, version: ModelVersion) -> None:
    """Evaluate the version against what is in production now, and promote it."""
    stage.judged(version, PASSED)
    promotion.promote_version(stage.store, stage.home, version, "me")


def rolled_back(stage: Stage) -> Promotion:
    return promotion.roll_back_endpoint(stage.store, stage.home, "digits", "me")


def test_rollback_undoes_step_by_step_down_to_the_plan(stage: Stage) -> None:
    first, second, third = promoted(stage, 3)
    assert [rolled_back(stage).model for _ in range(3)] == [second.id, first.id, None]
    with refuses("AW-MOD-26", "no trained version is in production"):
        rolled_back(stage)
    assert [(change.action, change.model) for change in model_registry.promotion_history(stage.store)] == [
        *(("promote", version.id) for version in (first, second, third)),
        *(("rollback", before) for before in (second.id, first.id, None)),
    ]


def test_after_a_rollback_and_a_promotion_the_way_back_is_the_one_that_led_there(stage: Stage) -> None:
    (first, second), third = promoted(stage, 2), stage.version(3, gates=PASSED)
    assert rolled_back(stage).model == first.id
    promoted_again(stage, third)
    assert rolled_back(stage).model == first.id  # not second: it had been taken back
    promoted_again(stage, second)  # what was taken back may come again
    assert rolled_back(stage).model == first.id


def test_a_rollback_further_than_one_step_is_followed(stage: Stage) -> None:
    """A rollback in the history may go straight to the plan's own model."""
    _, second = promoted(stage, 2)
    seen = model_registry.promotion_history(stage.store, "digits")
    model_registry.append_promotion(stage.store, seen, "rollback", ("digits", None), "supervisor", "it died")
    promoted_again(stage, second)
    assert rolled_back(stage).model is None


def test_nothing_to_roll_back_names_what_is_in_production(stage: Stage) -> None:
    with refuses("AW-MOD-26", "it has no promotion"):
        rolled_back(stage)
    promotion.promote_version(stage.store, stage.home, stage.version(1, "shuttle", gates=PASSED), "me")
    with refuses("AW-MOD-26", hint="choose an endpoint in production: shuttle") as other:
        promotion.roll_back_endpoint(stage.store, stage.home, "shutle", "me")
    assert other.value.nearest == ("shuttle",)


def test_a_rollback_to_a_file_that_is_gone_is_refused(stage: Stage) -> None:
    first, second = promoted(stage, 2)
    stage.home.model(first.sha256, "onnx").unlink()
    with refuses("AW-MOD-23"):
        rolled_back(stage)
    assert model_registry.production_versions(stage.store) == {"digits": second}


def served_by(stage: Stage, plan: Plan, **changes: object) -> None:
    pool = replace(plan.pools[0], **changes)
    stage.home.plan.write_bytes(msgspec.json.encode(replace(plan, pools=(pool,))))


def test_a_text_model_needs_a_workload_of_its_name_over_its_base(stage: Stage, null_plan: Plan) -> None:
    made = stage.version(1, "assistant")
    adapted = replace(made, task="text-lora", format="gguf", base="tiny-llama", base_sha256="a" * 64)
    assert model_placement.find_misfit(model_placement.read_plan(stage.home), adapted) == ""  # no plan yet

    def misfit(model: ModelVersion = adapted, **changes: object) -> str:
        served_by(stage, null_plan, **changes)
        return model_placement.find_misfit(model_placement.read_plan(stage.home), model)

    def base(sha256: str) -> Artefact:
        return artefact(sha256, 1)

    assert misfit(artefact=base("a" * 64)) == ""
    assert misfit(artefact=None) == ""  # the null engine takes any adapter
    assert "with null-model, but the adapter is for tiny-llama" in misfit(artefact=base("b" * 64))
    assert "no workload named assistant (its workloads: search)" in misfit(workloads=("search",))
    external = replace(null_plan.pools[0].launch, engine="external", url="http://elsewhere/v1")
    assert "from http://elsewhere/v1" in misfit(launch=external)
    classifier = replace(adapted, task="image-classifier")
    assert "is also the name of a workload of the plan, which serves text" in misfit(classifier)
    assert misfit(replace(classifier, name="digits")) == ""


def test_a_model_without_a_place_in_the_plan_or_with_a_damaged_plan_is_refused(stage: Stage, null_plan: Plan) -> None:
    made = stage.version(1, "assistant", gates=PASSED)
    served_by(stage, null_plan)
    error = refused(stage, made)
    assert error.code == "AW-MOD-25" and str(stage.home.plan) in str(error.where)
    stage.home.plan.write_bytes(b"{")
    with pytest.raises(PlanFileError) as damaged:
        promotion.promote_version(stage.store, stage.home, made, "me")
    assert Path(str(damaged.value.where.file)) == stage.home.plan
