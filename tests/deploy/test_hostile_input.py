"""Plans, pins, manifests and folders of strangers: a clear error, and nothing outside the folder or its syntax."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.deploy.conftest import MadeBundle, MadePlan

from archwright import api, cli
from archwright.api.rendering import BundleDiff
from archwright.contract.plan import Option, Plan, Pool
from archwright.contract.record import replace
from archwright.deploy.names import make_label
from archwright.deploy.render import find_target, select_option
from archwright.errors import InputError, UsageError
from archwright.home import Home
from archwright.plan.plan_file import write_plan

VICTIM = "mine"


@pytest.fixture
def desk_file(made_plan: MadePlan, home: Home, tmp_path: Path) -> Path:
    path = tmp_path / "plan.json"
    write_plan(made_plan("desk"), path)
    return path


@pytest.fixture
def folder(desk_file: Path, tmp_path: Path) -> Path:
    api.render(str(desk_file), target="compose", output=str(tmp_path / "out"))
    return tmp_path / "out"


def render_again(desk_file: Path, folder: Path, target: str = "compose") -> None:
    api.render(str(desk_file), target=target, output=str(folder))


def list_files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def edit(path: Path, change: Callable[[Any], None]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


@pytest.mark.parametrize("path", ["../victim", "/etc/hostname", "a/../../victim", "a\0b", "", "a\nb"])
def test_a_manifest_names_no_file_outside_its_folder(desk_file: Path, folder: Path, path: str) -> None:
    victim = folder.parent / "victim"
    victim.write_text(VICTIM)
    edit(folder / "archwright.json", lambda manifest: manifest["files"].update({path: "0"}))
    for use in (render_again, lambda plan, out: api.diff(str(out), str(plan)), lambda _, out: api.verify(str(out))):
        with pytest.raises(InputError) as caught:
            use(desk_file, folder)
        assert caught.value.code == "AW-FILE-11"
    assert victim.read_text() == VICTIM


def put_link_to_folder(folder: Path, outside: Path) -> None:
    for path in sorted(folder.joinpath("monitoring").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.joinpath("monitoring").rmdir()
    folder.joinpath("monitoring").symlink_to(outside)


def put_link_to_file(folder: Path, outside: Path) -> None:
    folder.joinpath("compose.yaml").unlink()
    folder.joinpath("compose.yaml").symlink_to(outside / "victim")


def put_folder(folder: Path, _outside: Path) -> None:
    folder.joinpath("compose.yaml").unlink()
    folder.joinpath("compose.yaml").mkdir()


def put_pipe(folder: Path, _outside: Path) -> None:
    folder.joinpath("compose.yaml").unlink()
    os.mkfifo(folder / "compose.yaml")


@pytest.mark.parametrize("put", [put_link_to_folder, put_link_to_file, put_folder, put_pipe])
def test_links_and_pipes_in_a_bundle_are_not_followed(
    desk_file: Path, folder: Path, tmp_path: Path, put: Callable[[Path, Path], None]
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    outside.joinpath("victim").write_text(VICTIM)
    put(folder, outside)
    with pytest.raises(UsageError, match="is a link, or is no") as caught:
        render_again(desk_file, folder)
    assert caught.value.code == "AW-USE-02"
    assert list_files(outside) == {"victim"}
    assert outside.joinpath("victim").read_text() == VICTIM


def test_a_killed_rendering_leaves_nothing_behind(
    desk_file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It dies between two files of another target; the rendering of the first target removes what it wrote."""
    before, replaced = list_files(folder), os.replace

    def die(source: str, target: Path) -> None:
        if Path(target).suffix == ".service":
            os.link(source, f"{source[:-8]}leftover"[:-8] + "leftover")
            raise KeyboardInterrupt
        replaced(source, target)

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        render_again(desk_file, folder, "systemd")
    monkeypatch.setattr(os, "replace", replaced)
    assert list_files(folder) - before, "the test must leave something"
    render_again(desk_file, folder)
    assert list_files(folder) == before


def test_pins_that_are_not_rendered_yet_fail_verify(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def resolve(pins: Any) -> None:
        for pin in pins["images"].values():
            pin["digest"] = f"sha256:{'1' * 64}"

    edit(folder / "pins.json", resolve)
    problems = {one.subject: one.problem for one in api.verify(str(folder)).problems}
    assert problems == {"pins.json": "the file was edited after it was rendered"}
    assert cli.main(["verify", str(folder), "--json"]) == 3
    capsys.readouterr()


@pytest.mark.parametrize(
    ("kind", "pin"),
    [
        ("images", {"reference": "x; rm -rf /:18"}),
        ("images", {"reference": "x:1\n  privileged: true"}),
        ("images", {"reference": "x:1", "digest": "sha256:${x}"}),
        ("images", {"reference": "x:1", "digest": f"sha256:{'1' * 64}\n"}),
        ("charts", {"source": "https://x keda 1; reboot"}),
        ("charts", {"source": "https://x keda 1", "digest": "sha256:unresolved"}),
        ("models", {"model": "m", "files": {"../../etc/passwd": "1" * 64}}),
        ("models", {"model": "m", "files": {"--x": "1" * 64}}),
        ("models", {"model": "m", "files": {"a\nb": "1" * 64}}),
        ("models", {"model": "m", "files": {"a": "unresolved"}}),
        ("models", {"model": "m", "revision": "$(id)"}),
        ("addresses", "http://${x}"),
    ],
)
def test_pins_are_digests_and_names_only(desk_file: Path, folder: Path, kind: str, pin: object) -> None:
    (folder / "pins.json").write_text(json.dumps({kind: {"x": pin}}))
    with pytest.raises(InputError) as caught:
        render_again(desk_file, folder)
    assert caught.value.code == "AW-FILE-11"


def test_a_file_of_other_bytes_is_shown_by_diff(desk_file: Path, folder: Path) -> None:
    (folder / "compose.yaml").write_bytes(b"\xff\xfe")
    found = api.diff(str(folder), str(desk_file))
    assert isinstance(found, BundleDiff)
    assert [one.path for one in found.changes] == ["compose.yaml"]


def change_option(plan: Plan, target: str, change: Callable[[Option], Option]) -> Plan:
    name = select_option(plan, find_target(target), None, "plan.json").name
    return replace(plan, options=tuple(change(one) if one.name == name else one for one in plan.options))


def change_pools(plan: Plan, target: str, **fields: object) -> Plan:
    def change(option: Option) -> Option:
        pools: tuple[Pool, ...] = tuple(replace(pool, **fields) for pool in option.pools)
        return replace(option, pools=pools)

    return change_option(plan, target, change)


@pytest.mark.parametrize(
    ("example", "target", "fields"),
    [
        ("clinic", "kubernetes", {"model": "m\n[Service]\nExecStart=/bin/sh"}),
        ("clinic", "aws", {"machine": "g6.${file(1)}"}),
        ("clinic", "aws", {"region": "eu-west-1 --set x=$(id)"}),
        ("clinic", "aws", {"region": "eu-west-1 & id"}),
        ("clinic", "kubernetes", {"name": 'x"} or vector(1) #'}),
        ("desk", "compose", {"quantisation": "{{ now }}"}),
        ("desk", "compose", {"accelerator": "\u202eevil"}),
    ],
)
def test_texts_with_a_meaning_for_a_file_are_refused(
    made_plan: MadePlan, made_bundle: MadeBundle, example: str, target: str, fields: dict[str, str]
) -> None:
    with pytest.raises(InputError, match="would interpret") as caught:
        made_bundle(change_pools(made_plan(example), target, **fields), target)
    assert caught.value.code == "AW-FILE-12"


def test_ids_of_predictions_cannot_end_a_comment(made_plan: MadePlan, made_bundle: MadeBundle) -> None:
    plan = made_plan("desk")
    broken = tuple(replace(one, id="x\nExecStart=/bin/sh") for one in plan.predictions)
    with pytest.raises(InputError, match="would interpret"):
        made_bundle(replace(plan, predictions=broken), "systemd")


def test_a_quantity_of_another_release_is_not_watched(made_plan: MadePlan, made_bundle: MadeBundle) -> None:
    plan = made_plan("desk")
    other = tuple(replace(one, query=replace(one.query, metric="joules_per_token")) for one in plan.predictions)
    made_bundle(replace(plan, predictions=other), "compose")


def test_two_names_with_one_label_are_refused(made_plan: MadePlan, made_bundle: MadeBundle) -> None:
    def change(option: Option) -> Option:
        first = option.pools[0]
        return replace(option, pools=(replace(first, name="a.b"), replace(first, name="a-b")))

    with pytest.raises(InputError, match=r"'a\.b' and 'a-b' have the same label a-b") as caught:
        made_bundle(change_option(made_plan("clinic"), "kubernetes", change), "kubernetes")
    assert caught.value.code == "AW-FILE-14"


def test_long_names_keep_different_labels() -> None:
    long = "w" * 40
    labels = {make_label(f"engine-{long}-{replica}") for replica in range(3)}
    assert len(labels) == 3
    assert max(map(len, labels)) <= 40
    assert make_label(long) == long
