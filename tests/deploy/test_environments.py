"""Environments of one plan: names that do not collide, references that hold, and nothing else that differs."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.deploy.clusters import read_clusters
from tests.deploy.conftest import MadeBundle, MadePlan
from tests.deploy.object_rules import check_objects
from tests.deploy.test_platform import read_objects

from archwright import api
from archwright.api.rendering import BundleDiff
from archwright.contract.record import replace
from archwright.deploy.rendering.bundle import FileBundle, read_manifest
from archwright.errors import UsageError
from archwright.home import Home
from archwright.plan.plan_file import write_plan

CASES: tuple[tuple[str, str, str | None], ...] = (
    ("startup", "aws", "cloud-aws"),
    ("clinic", "onprem", "on-premises"),
)
NIGHTLY_CASES: tuple[tuple[str, str, str | None], ...] = (
    ("startup", "azure", None),
    ("startup", "gcp", None),
    ("clinic", "kubernetes", "hybrid-aws"),
)
ALL_CASES = (*CASES, *(pytest.param(*case, marks=pytest.mark.nightly) for case in NIGHTLY_CASES))
# Namespaces of operators and of Kubernetes, which every environment of a cluster shares.
FOREIGN = re.compile(
    r"kube-system|cnpg-system|gpu-operator|envoy-gateway-system|metallb-system|default|external-secrets|kuberay-operator"
)


Rendered = Callable[..., FileBundle]


@pytest.fixture(scope="module")
def rendered(made_bundle: MadeBundle) -> Rendered:
    return functools.cache(
        lambda name, target, option, environment: made_bundle(name, target, option, environment=environment)
    )


def list_identities(bundle: FileBundle) -> set[tuple[str, str, str]]:
    """Kind, namespace and name of each object; those that a user creates have generated names."""
    metadata = [(one["kind"], one["metadata"]) for _, one in read_objects(bundle)]
    return {(kind, one.get("namespace", ""), one["name"]) for kind, one in metadata if "name" in one}


def walk(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield each text with the key under which it stands."""
    if isinstance(value, dict):
        for inner, item in value.items():
            yield from walk(item, inner)
    elif isinstance(value, list):
        for item in value:
            yield from walk(item, key)
    elif isinstance(value, str):
        yield key, value


@pytest.mark.parametrize(("name", "target", "option"), ALL_CASES)
def test_two_environments_share_no_object_and_refer_to_their_own(
    rendered: Rendered, name: str, target: str, option: str | None
) -> None:
    only, stage, prod = (rendered(name, target, option, one) for one in ("", "stage", "prod"))
    shared = {one for one in list_identities(stage) & list_identities(prod) if one[0] != "StorageClass"}
    assert shared == set()
    assert list_identities(stage) & list_identities(only) <= {("StorageClass", "", "archwright-weights")}
    names = {kind: {one for other, _, one in list_identities(stage) if other == kind} for kind in CLUSTER_KINDS}
    for path, item in read_objects(stage):
        if "examples" in path.split("/"):  # they name namespaces of operators; test_gitops checks them
            continue
        for key, text in walk(item):
            kind = REFERENCES.get(key)
            if kind and not (kind == "Namespace" and FOREIGN.fullmatch(text)):
                assert text in names[kind], (path, key, text)
        for reference in list_references(item):
            assert reference["name"] in names[reference["kind"]], (path, reference)
    for path, file in stage.files.items():
        text = re.sub(r'"?plan\.json"?: .*', "", file.text)
        assert not re.search(r"archwright-(engines|monitoring|database-url)(?!-stage)", text), path
        assert not re.search(r"[./]archwright(\.svc|/[\w-]+\.tfstate)| -n archwright(?!-)", text), path


CLUSTER_KINDS: tuple[str, ...] = ("Namespace", "GatewayClass", "ClusterQueue", "PriorityClass", "ClusterSecretStore")
CLUSTER_KINDS += ("EC2NodeClass", "AKSNodeClass", "WorkloadPriorityClass")
REFERENCES = {"namespace": "Namespace", "kubernetes.io/metadata.name": "Namespace", "matchNames": "Namespace"}
REFERENCES |= {"gatewayClassName": "GatewayClass", "clusterQueue": "ClusterQueue", "priorityClassName": "PriorityClass"}
REFERENCES |= {"kueue.x-k8s.io/priority-class": "WorkloadPriorityClass"}


def list_references(value: Any) -> Iterator[dict[str, str]]:
    if isinstance(value, dict):
        if str(value.get("kind")) in CLUSTER_KINDS and "name" in value:
            yield value
        for item in value.values():
            yield from list_references(item)
    elif isinstance(value, list):
        for item in value:
            yield from list_references(item)


@pytest.mark.parametrize(("name", "target", "option"), ALL_CASES)
def test_only_names_differ_between_environments(rendered: Rendered, name: str, target: str, option: str | None) -> None:
    """Each line is that of the only environment, or names the environment; the plan itself is untouched."""
    only, stage = (rendered(name, target, option, one) for one in ("", "stage"))
    renamed = only.files.keys() - stage.files.keys()
    assert all("dashboards/" in path for path in renamed), "a dashboard is named after its deployment"
    for path in sorted(only.files.keys() & stage.files.keys()):
        before, after = only.files[path].text.splitlines(), stage.files[path].text.splitlines()
        assert len(before) == len(after), path
        for one, other in zip(before, after, strict=True):
            assert other == one or "stage" in other, (path, one, other)
    plans = [next(one for _, one in read_objects(bundle) if is_plan(one)) for bundle in (only, stage)]
    assert plans[0]["data"] == plans[1]["data"]


def is_plan(item: dict[str, Any]) -> bool:
    return bool(item["kind"] == "ConfigMap" and item["metadata"]["name"] == "plan")


@pytest.mark.parametrize(("target", "option"), [("aws", "cloud-aws"), ("azure", None), ("gcp", None)])
def test_clusters_buckets_and_states_of_a_cloud_differ(rendered: Rendered, target: str, option: str | None) -> None:
    only, stage, prod = (list_places(rendered("startup", target, option, one)) for one in ("", "stage", "prod"))
    assert only.keys() == stage.keys() == prod.keys() >= {"local.name"}
    if target == "aws":
        assert {"bucket_prefix", "key", "aws_secretsmanager_secret"} <= only.keys()
    for place, name in stage.items():
        assert len({name, only[place], prod[place]}) == 3, place


def list_places(bundle: FileBundle) -> dict[str, str]:
    """Return what an account or a project can have once: the name before all others, buckets, states and secrets."""
    found = {}
    for path, file in bundle.files.items():
        if path.endswith(".tf.json"):
            content = json.loads(file.text)
            if name := content.get("locals", {}).get("name"):
                found["local.name"] = name
            for key, text in walk(content.get("terraform", {}).get("backend", {})):
                found |= {key: text} if "archwright" in text else {}
            for key, text in walk(content.get("resource", {}).get("aws_s3_bucket", {})):
                found |= {key: text} if key == "bucket_prefix" else {}
            for kind in ("aws_secretsmanager_secret", "google_secret_manager_secret"):
                for one in content.get("resource", {}).get(kind, {}).values():
                    found[kind] = one.get("name") or one["secret_id"]
    return found


def test_a_long_name_of_an_organisation_hides_no_environment(made_plan: MadePlan, made_bundle: MadeBundle) -> None:
    plan = replace(made_plan("startup"), organisation="An organisation with a name that no provider takes")
    stage = list_places(made_bundle(plan, "aws", "cloud-aws", environment="stage"))
    assert stage["local.name"].startswith("an-org-stage-")
    assert "-stage-" in stage["bucket_prefix"]


def test_the_objects_of_an_environment_keep_the_rules_of_all_objects(rendered: Rendered) -> None:
    bundle = rendered("clinic", "kubernetes", "hybrid-aws", "stage")
    for folder, items in read_clusters(bundle):
        assert check_objects(items) == [], folder
    items = yaml.load(bundle.files["conformance.yaml"].text, yaml.CSafeLoader)["items"]
    met = {one["id"] for one in items if one["status"] == "met"}
    assert {"secure_accelerator_access", "ai_inference"} <= met


def test_a_folder_remembers_its_environment(made_plan: MadePlan, home: Home, tmp_path: Path) -> None:
    path, folder = tmp_path / "plan.json", tmp_path / "out"
    write_plan(made_plan("startup"), path)
    api.render(str(path), target="kubernetes", output=str(folder), option="cloud-aws", environment="stage")
    manifest = read_manifest(folder)
    assert manifest is not None and manifest.environment == "stage"
    difference = api.diff(str(folder), str(path))
    assert isinstance(difference, BundleDiff)
    assert difference.changes == ()


@pytest.mark.parametrize(
    ("target", "name", "message"),
    [
        ("kubernetes", "Stage", "no name of an environment"),
        ("kubernetes", "stage-one", "no name of an environment"),
        ("kubernetes", "environment", "no name of an environment"),
        ("compose", "stage", "one environment on a machine"),
        ("systemd", "stage", "one environment on a machine"),
    ],
)
def test_an_environment_that_cannot_be_is_refused(
    made_plan: MadePlan, made_bundle: MadeBundle, target: str, name: str, message: str
) -> None:
    example = "clinic" if target == "kubernetes" else "desk"
    with pytest.raises(UsageError, match=message) as caught:
        made_bundle(example, target, environment=name)
    assert caught.value.code == "AW-USE-98"
