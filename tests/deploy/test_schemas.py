"""The check of objects by definitions: what a server refuses is found, and what it accepts is not."""

from __future__ import annotations

import copy
import subprocess
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml

from .clusters import find_overlay, is_component, list_overlays, read_clusters
from .conftest import EXAMPLES, MadeBundle
from .object_rules import Item, find_pods, read_objects, title
from .schemas import VERSIONS, CustomKinds, check_core, is_core
from .tools import require_program

DEFINITION = """
kind: CustomResourceDefinition
spec:
  group: test.dev
  scope: Namespaced
  names: {kind: Shelf}
  versions:
    - name: v1
      schema:
        openAPIV3Schema:
          type: object
          properties:
            spec:
              type: object
              required: [size, mode]
              properties:
                size: {type: integer, minimum: 1}
                mode: {type: string, enum: [open, closed], default: open}
                port: {x-kubernetes-int-or-string: true}
                free: {type: object, x-kubernetes-preserve-unknown-fields: true}
                labels: {type: object, additionalProperties: {type: string}}
                code: {type: string, pattern: "^(?i)[a-z]+$"}
                gone: {type: string, nullable: true}
                books:
                  type: array
                  x-kubernetes-list-type: map
                  x-kubernetes-list-map-keys: [name]
                  items:
                    type: object
                    required: [name]
                    properties: {name: {type: string}, pages: {type: integer}}
                    x-kubernetes-validations: [{rule: "!has(self.pages) || self.pages > 0", message: a book has pages}]
              x-kubernetes-validations: [{rule: "self.size < 10", message: large}, {rule: "self.size >= oldSelf.size"}]
"""
GOOD: Item = {
    "apiVersion": "test.dev/v1",
    "kind": "Shelf",
    "metadata": {"name": "a", "namespace": "n"},
    "spec": {
        "size": 3,
        "port": "http",
        "free": {"any": 1},
        "labels": {"a/b": "c"},
        "code": "AB",
        "gone": None,
        "books": [{"name": "a", "pages": 3}, {"name": "b"}],
    },
}
REFUSED: dict[str, Callable[[Item], Any]] = {
    "unknown field": lambda one: one["spec"].update(colour="red"),
    "unknown field in an item": lambda one: one["spec"]["books"][0].update(colour="red"),
    "required": lambda one: one["spec"].pop("size"),
    "type": lambda one: one["spec"].update(size="3"),
    "enum": lambda one: one["spec"].update(mode="ajar"),
    "pattern": lambda one: one["spec"].update(code="1"),
    "null": lambda one: one["spec"].update(code=None),
    "port": lambda one: one["spec"].update(port=[1]),
    "label": lambda one: one["spec"].update(labels={"a": 1}),
    "repeated key": lambda one: one["spec"]["books"].append({"name": "a"}),
    "rule": lambda one: one["spec"].update(size=12),
    "rule of an item": lambda one: one["spec"]["books"][0].update(pages=0),
    "name": lambda one: one["metadata"].update(name="My_Shelf"),
    "namespace": lambda one: one["metadata"].pop("namespace"),
    "metadata": lambda one: one["metadata"].update(uid="1"),
    "status": lambda one: one.update(status={}),
}


@pytest.fixture
def kinds(tmp_path: Path) -> CustomKinds:
    (tmp_path / "shelf.yaml").write_text(DEFINITION)
    return CustomKinds(tmp_path)


def test_a_folder_without_definitions_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no CustomResourceDefinition"):
        CustomKinds(tmp_path)


@pytest.mark.nightly
def test_what_a_server_accepts_has_no_problem(kinds: CustomKinds) -> None:
    assert list(kinds.check(GOOD)) == []
    assert (kinds.passed, kinds.skipped) == (3, 1)
    assert kinds.knows(GOOD)
    assert kinds.has_group({**GOOD, "apiVersion": "test.dev/v2"})


@pytest.mark.nightly
@pytest.mark.parametrize("name", REFUSED)
def test_what_a_server_refuses_is_found(name: str, kinds: CustomKinds) -> None:
    item = copy.deepcopy(GOOD)
    REFUSED[name](item)
    assert list(kinds.check(item))


@pytest.mark.nightly
@pytest.mark.parametrize("version", VERSIONS)
def test_the_objects_of_core_kinds_are_valid(version: str, made_bundle: MadeBundle) -> None:
    checked: set[str] = set()
    for name in EXAMPLES[1:]:
        for cluster, items in read_clusters(made_bundle(name, "kubernetes")):
            for item in items:
                if is_core(item):
                    checked.add(item["kind"])
                    assert list(check_core(item, version)) == [], (name, cluster, title(item))
    assert {"Deployment", "StatefulSet", "CronJob", "Job", "NetworkPolicy", "PodDisruptionBudget"} <= checked
    clinic = [item for _, cluster in read_clusters(made_bundle("clinic", "kubernetes")) for item in cluster]
    pod = next(one for one in clinic if one["kind"] == "Deployment")
    next(find_pods(pod)).spec["containers"][0]["imag"] = "x"
    assert list(check_core(pod, version))
    assert list(check_core({**pod, "apiVersion": "extensions/v1beta1"}, version))


@pytest.mark.nightly
@pytest.mark.parametrize("name", EXAMPLES[1:])
def test_kustomize_builds_the_objects_of_the_files(name: str, made_bundle: MadeBundle, tmp_path: Path) -> None:
    bundle, program = made_bundle(name, "kubernetes"), require_program("kustomize")
    for path, file in bundle.files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(file.text, encoding="utf-8")
    expected = dict(read_clusters(bundle))
    assert set(expected) == {str(folder) for folder in list_overlays(bundle)}
    for folder, items in expected.items():
        root = tmp_path / folder
        if is_component(bundle, PurePosixPath(folder)):
            root = tmp_path / "site"
            root.mkdir()
            parts = {"resources": [f"../{find_overlay(PurePosixPath(folder))}"], "components": [f"../{folder}"]}
            (root / "kustomization.yaml").write_text(yaml.safe_dump(parts), encoding="utf-8")
            overlay = expected[str(find_overlay(PurePosixPath(folder)))]
            items = items + [one for one in overlay if one["kind"] == "Service" and title(one) not in map(title, items)]
        command = [str(program), "build", str(root)]
        built = subprocess.run(command, capture_output=True, text=True, check=True)
        assert sorted(map(title, read_objects(built.stdout))) == sorted(map(title, items))
    (tmp_path / "base" / "limits.yaml").unlink()
    broken = [str(program), "build", str(tmp_path / "base")]
    assert subprocess.run(broken, capture_output=True, check=False).returncode != 0
