"""What a new plan changes in a cluster: a digest alone replaces no machine, restarts no pod and touches no resource."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests.deploy.conftest import MadeBundle, MadePlan
from tests.deploy.object_rules import Item, read_objects

from archwright.contract.plan import Plan
from archwright.contract.record import replace
from archwright.deploy.rendering.bundle import FileBundle

# A provisioner hashes objects of these kinds, and replaces the machines of a changed one.
PROVISIONER_KINDS = {"NodePool", "EC2NodeClass", "AKSNodeClass", "ComputeClass"}
POD_PARTS = ("containers", "initContainers")
TARGETS = ("aws", "azure", "gcp")


def list_objects(bundle: FileBundle) -> Iterator[Item]:
    for path, file in bundle.files.items():
        if path.endswith(".yaml"):
            yield from (one for one in read_objects(file.text) if isinstance(one, dict) and "kind" in one)


def list_pod_templates(value: Any) -> Iterator[Any]:
    """Yield each mapping with the specification of a pod, with the metadata that the pod gets."""
    if isinstance(value, dict):
        pod = value.get("spec")
        if isinstance(pod, dict) and any(part in pod for part in POD_PARTS):
            yield value
        for item in value.values():
            yield from list_pod_templates(item)
    elif isinstance(value, list):
        for item in value:
            yield from list_pod_templates(item)


def list_provisioners(bundle: FileBundle) -> list[Item]:
    return [one for one in list_objects(bundle) if one["kind"] in PROVISIONER_KINDS]


def list_terraform(bundle: FileBundle) -> dict[str, Any]:
    """Return what Terraform applies: comments and descriptions of outputs change nothing."""
    files = {path: json.loads(file.text) for path, file in bundle.files.items() if path.endswith(".tf.json")}
    return {path: {key: part for key, part in file.items() if key != "output"} for path, file in files.items()}


@pytest.fixture
def plans(made_plan: MadePlan) -> tuple[Plan, Plan]:
    """The plan of an example, and the same decision under another digest."""
    plan = made_plan("startup")
    again = replace(plan, needs_digest="0123456789abcdef" * 4)
    assert again.digest != plan.digest
    return plan, again


def test_a_digest_alone_replaces_no_machine_and_restarts_no_pod(
    plans: tuple[Plan, Plan], made_bundle: MadeBundle
) -> None:
    seen = set[str]()
    for target in TARGETS:
        before, after = (made_bundle(plan, target) for plan in plans)
        assert list_provisioners(before) == list_provisioners(after), target
        assert list_terraform(before) == list_terraform(after), target
        templates = [list(list_pod_templates(list(list_objects(one)))) for one in (before, after)]
        assert templates[0] and templates[0] == templates[1], target
        seen |= {one["kind"] for one in list_provisioners(before)}
    assert seen == PROVISIONER_KINDS


def test_the_digest_stands_in_the_guide(plans: tuple[Plan, Plan], made_bundle: MadeBundle) -> None:
    plan, _ = plans
    files = made_bundle(plan, "aws").files
    assert all(plan.digest[:12] in files[path].text for path in ("terraform/README.md", "kubernetes/README.md"))
