"""`render`: the option for a target, the same bytes for the same plan, and folders that are never overwritten."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import yaml
from tests.deploy.conftest import EXAMPLES, MadePlan, list_cases

from archwright import api
from archwright.api.rendering import BundleDiff
from archwright.contract.plan import Plan
from archwright.contract.record import replace
from archwright.deploy.render import find_target, list_targets, select_option
from archwright.deploy.rendering.bundle import FileBundle
from archwright.deploy.rendering.components import ImagePin, ModelPin, Pins
from archwright.errors import InputError, PlanError, UsageError
from archwright.home import Home
from archwright.plan.plan_file import write_plan


@pytest.fixture
def clinic_file(made_plan: MadePlan, home: Home, tmp_path: Path) -> Path:
    path = tmp_path / "plan.json"
    write_plan(made_plan("clinic"), path)
    return path


@pytest.mark.nightly
def test_every_example_renders_for_its_targets_with_the_same_bytes(
    made_plan: MadePlan, made_bundle: Callable[..., FileBundle]
) -> None:
    plans = {name: made_plan(name) for name in EXAMPLES}
    cases = list_cases(plans)
    assert {target for _, target in cases} == {target.name for target in list_targets()}
    for name, target in cases:
        first, second = made_bundle(name, target), made_bundle(name, target)
        assert first.files == second.files
        assert first.files, (name, target)
        assert any(path.endswith("README.md") for path in first.files), (name, target)


def test_every_object_says_why_it_exists(made_bundle: Callable[..., FileBundle]) -> None:
    bundle = made_bundle("clinic", "kubernetes")
    for path, file in bundle.files.items():
        if path.endswith(".yaml") and not path.endswith("kustomization.yaml"):
            for document in yaml.load_all(file.text, yaml.CSafeLoader):
                if isinstance(document, dict) and "kind" in document and "metadata" in document:
                    assert document["metadata"]["annotations"]["archwright.dev/reason"], (path, document["kind"])


def test_the_chosen_option_is_rendered_else_the_cheapest(made_plan: MadePlan) -> None:
    plan = made_plan("clinic")
    assert select_option(plan, find_target("onprem"), None, "p").name == plan.chosen
    clouds = [one for one in plan.options if find_target("aws").can_render(one) and one.feasible]
    costs = {one.name: one.total_cost.value for one in clouds if one.total_cost is not None}
    assert select_option(plan, find_target("aws"), None, "p").name == min(costs, key=lambda name: costs[name])
    assert select_option(plan, find_target("aws"), "cloud-aws", "p").name == "cloud-aws"


def test_a_target_without_an_option_names_the_options_and_their_targets(made_plan: MadePlan) -> None:
    with pytest.raises(PlanError, match="no option for target onprem") as caught:
        select_option(made_plan("startup"), find_target("onprem"), None, "plan.json")
    assert caught.value.code == "AW-PLAN-22"
    assert "cloud-aws (kubernetes, aws)" in caught.value.hint
    with pytest.raises(PlanError, match="option on-premises has no machines for target aws"):
        select_option(made_plan("clinic"), find_target("aws"), "on-premises", "plan.json")
    with pytest.raises(UsageError, match="no option 'x'") as unknown:
        select_option(made_plan("clinic"), find_target("aws"), "x", "plan.json")
    assert "cloud-aws" in unknown.value.nearest
    with pytest.raises(UsageError, match="no target 'k8s'"):
        find_target("k8s")


def test_a_folder_of_another_program_is_refused_and_kept(clinic_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not empty") as caught:
        api.render(str(clinic_file), target="onprem", output=str(folder))
    assert caught.value.code == "AW-USE-02"
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="is a file"):
        api.render(str(clinic_file), target="onprem", output=str(tmp_path / "file"))


def test_rendering_again_changes_nothing_and_removes_what_is_gone(clinic_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    api.render(str(clinic_file), target="onprem", output=str(folder))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    api.render(str(clinic_file), target="onprem", output=str(folder))
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    api.render(str(clinic_file), target="aws", output=str(folder))
    manifest = json.loads((folder / "archwright.json").read_text())
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == {*manifest["files"], "archwright.json", "pins.json"}


def test_verify_fails_until_every_digest_is_resolved(clinic_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    rendered = api.render(str(clinic_file), target="kubernetes", output=str(folder))
    assert {"image vllm", "chart keda"} <= set(rendered.open_pins)
    assert "@sha256:unresolved" in "".join(path.read_text() for path in folder.rglob("*.yaml"))
    check = api.verify(str(folder))
    assert {one.subject for one in check.problems} == set(rendered.open_pins)
    for command in ("skopeo inspect", "helm pull keda --repo", "curl -fsSL"):
        assert any(command in one.command for one in check.problems), command
    resolve_pins(folder)
    api.render(str(clinic_file), target="kubernetes", output=str(folder))
    assert api.verify(str(folder)).problems == ()
    assert "unresolved" not in "".join(path.read_text() for path in folder.rglob("*.yaml"))


def resolve_pins(folder: Path) -> None:
    pins = msgspec.json.decode((folder / "pins.json").read_bytes(), type=Pins)
    images = {name: ImagePin(reference=one.reference, digest=f"sha256:{'1' * 64}") for name, one in pins.images.items()}
    models = {name: replace(one, revision="main", files={"model.bin": "2" * 64}) for name, one in pins.models.items()}
    charts = {name: replace(one, digest=f"sha256:{'3' * 64}") for name, one in pins.charts.items()}
    addresses = dict.fromkeys(pins.addresses, "https://engine.example.org/v1")
    balancers = dict.fromkeys(pins.load_balancers, "10.0.0.7/32")
    hosts = dict.fromkeys(pins.hosts, "ai.company.com")
    resolved = Pins(
        images=images, charts=charts, models=models, addresses=addresses, load_balancers=balancers, hosts=hosts
    )
    (folder / "pins.json").write_bytes(msgspec.json.encode(resolved))


def test_verify_finds_edited_and_missing_files(clinic_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    api.render(str(clinic_file), target="onprem", output=str(folder))
    (folder / "site" / "racks.csv").write_text("edited")
    (folder / "site" / "power.csv").unlink()
    problems = {one.subject: one.problem for one in api.verify(str(folder)).problems}
    assert "edited" in problems["site/racks.csv"]
    assert "missing" in problems["site/power.csv"]
    with pytest.raises(InputError, match="no bundle"):
        api.verify(str(tmp_path))


def test_diff_shows_what_a_new_plan_changes(clinic_file: Path, made_plan: MadePlan, tmp_path: Path) -> None:
    folder, other = tmp_path / "out", tmp_path / "other.json"
    api.render(str(clinic_file), target="onprem", output=str(folder))
    same = api.diff(str(folder), str(clinic_file))
    assert isinstance(same, BundleDiff)
    assert same.changes == ()
    write_plan(add_machine(made_plan("clinic")), other)
    changed = api.diff(str(folder), str(other))
    assert isinstance(changed, BundleDiff)
    lines = {one.path: one.lines for one in changed.changes}
    assert any(line.startswith("+") and "2x-rtx-pro-6000" in line for line in lines["site/racks.csv"])
    assert (folder / "site" / "racks.csv").read_text().count("2x-rtx-pro-6000-05") == 0, "diff writes nothing"


def add_machine(plan: Plan) -> Plan:
    def grow(option_name: str) -> Plan:
        options = tuple(
            replace(one, purchases=tuple(replace(bought, peak=bought.peak + 1) for bought in one.purchases))
            if one.name == option_name
            else one
            for one in plan.options
        )
        return replace(plan, options=options)

    assert plan.chosen is not None
    return grow(plan.chosen)


def test_a_broken_pins_file_is_refused_and_kept(clinic_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    api.render(str(clinic_file), target="onprem", output=str(folder))
    (folder / "pins.json").write_text("{")
    with pytest.raises(InputError, match="not readable") as caught:
        api.render(str(clinic_file), target="onprem", output=str(folder))
    assert caught.value.code == "AW-FILE-11"
    assert (folder / "pins.json").read_text() == "{"


def test_the_address_of_another_site_is_what_somebody_states(made_plan: MadePlan, home: Home, tmp_path: Path) -> None:
    path, folder = tmp_path / "plan.json", tmp_path / "out"
    write_plan(made_plan("clinic"), path)
    api.render(str(path), target="kubernetes", output=str(folder), option="hybrid-aws")
    assert "address letters-above-mean" not in {one.subject for one in api.verify(str(folder)).problems}
    pins = json.loads((folder / "pins.json").read_text())
    stated = {"letters-above-mean": "https://engine.example.org/v1"}
    (folder / "pins.json").write_text(json.dumps({**pins, "addresses": stated}))
    resolve_pins(folder)
    api.render(str(path), target="kubernetes", output=str(folder), option="hybrid-aws")
    assert api.verify(str(folder)).problems == ()
    texts = "".join(path.read_text() for path in folder.rglob("gateway.yaml"))
    assert "https://engine.example.org/v1" in texts
    assert ".internal/v1" not in texts


def test_an_engine_converts_files_of_sixteen_bits_only(
    made_bundle: Callable[..., FileBundle], made_plan: MadePlan
) -> None:
    texts = {path: file.text for path, file in made_bundle("startup", "kubernetes").files.items() if "/engine-" in path}
    assert all("--quantization=fp8" in text for text in texts.values())
    pool = made_plan("startup").pools[0]
    stored = Pins(
        models={
            pool.name: ModelPin(model=pool.model, format="fp8", stored="fp8", files={"model.safetensors": "2" * 64})
        }
    )
    converted = made_bundle("startup", "kubernetes", pins=stored).files
    assert not any("--quantization" in file.text for path, file in converted.items() if "/engine-" in path)


def test_a_rendering_says_that_the_plan_chose_or_wants_another_option(
    made_plan: MadePlan, home: Home, tmp_path: Path
) -> None:
    plan = made_plan("clinic")
    infeasible = tuple(replace(one, feasible=False, misses=()) for one in plan.options if one.name == "cloud-aws")
    for number, (made, word) in enumerate(
        [(plan, "the plan chose on-premises"), (replace(plan, chosen=None, options=infeasible), "does not satisfy")]
    ):
        path = tmp_path / f"plan-{number}.json"
        write_plan(made, path)
        notes = api.render(str(path), target="aws", output=str(tmp_path / f"out-{number}"), option="cloud-aws").notes
        assert any(word in note for note in notes)
