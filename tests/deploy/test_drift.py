"""`drift`: state of a cluster and of Terraform against a bundle. Defaults of a server are no drift; edits are.

The states are written as `kubectl get -o json` and `terraform show -json` print them: there is no API server here, so
`answer_as_server` adds what the API documents as its defaults, and writes numbers and durations in its own form.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml
from tests.deploy.clusters import read_cluster
from tests.deploy.conftest import MadeBundle

from archwright import __version__, api
from archwright.deploy.rendering.bundle import FileBundle, write_bundle
from archwright.errors import InputError

from ..command_line import CommandLine
from .object_rules import Item

SITE = "aws-us-east-1"
POD_DEFAULTS = {"dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler", "restartPolicy": "Always"}
CONTAINER_DEFAULTS = {"terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}
PROBE_DEFAULTS = {"successThreshold": 1, "failureThreshold": 3, "timeoutSeconds": 1, "periodSeconds": 10}
SPEC_DEFAULTS: dict[str, Item] = {
    "Deployment": {"replicas": 1, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600},
    "StatefulSet": {"podManagementPolicy": "OrderedReady", "revisionHistoryLimit": 10},
    "Service": {"type": "ClusterIP", "clusterIP": "10.0.0.7", "clusterIPs": ["10.0.0.7"], "sessionAffinity": "None"},
    "PersistentVolumeClaim": {"volumeMode": "Filesystem", "volumeName": "pvc-1"},
    "CronJob": {"suspend": False, "successfulJobsHistoryLimit": 3, "failedJobsHistoryLimit": 1},
    "Job": {"completions": 1, "parallelism": 1, "suspend": False, "completionMode": "NonIndexed"},
    "Namespace": {"finalizers": ["kubernetes"]},
    "ScaledObject": {"advanced": {"scalingModifiers": {}}},
}


def answer_as_server(item: Item) -> Item:
    """Return an object as a server stores it and answers it later."""
    found = copy.deepcopy(item)
    facts = {"uid": "u", "resourceVersion": "7", "generation": 2, "creationTimestamp": "2026-12-01T00:00:00Z"}
    found["metadata"] |= facts | {"managedFields": [{"manager": "kubectl", "operation": "Apply"}]}
    found["metadata"].setdefault("annotations", {})["deployment.kubernetes.io/revision"] = "1"
    found["status"] = {"conditions": [{"type": "Available", "status": "True"}]}
    if isinstance(found.get("spec"), dict):
        found["spec"] = SPEC_DEFAULTS.get(found["kind"], {}) | found["spec"]
    _fill(found)
    return found


def _fill(value: Any) -> None:
    """Add the defaults of pods, and write numbers and durations as a server does."""
    if isinstance(value, list):
        for item in value:
            _fill(item)
    elif isinstance(value, dict):
        _fill_pod(value)
        _write_in_canonical_form(value)
        for item in value.values():
            _fill(item)


def _fill_pod(value: Item) -> None:
    if "containers" not in value:
        return
    value |= POD_DEFAULTS | value
    for container in [*value["containers"], *value.get("initContainers", [])]:
        container |= {**CONTAINER_DEFAULTS, "resources": {}} | container
        for name in {"startupProbe", "readinessProbe", "livenessProbe"} & container.keys():
            container[name] |= PROBE_DEFAULTS | container[name]
            container[name]["httpGet"].setdefault("scheme", "HTTP")


def _write_in_canonical_form(value: Item) -> None:
    for name in ("limits", "requests"):
        if isinstance(value.get(name), dict):
            value[name] = {key: QUANTITIES.get(str(text), text) for key, text in value[name].items()}
    for name in {"duration", "renewBefore"} & value.keys():
        value[name] = f"{value[name]}0m0s"
    for name in [key for key, item in value.items() if item == [] or item is None]:
        del value[name]  # an empty list is left out


QUANTITIES = {"1Gi": "1073741824", "512Mi": "536870912", "200m": "0.2", "100m": "0.1"}


@pytest.fixture(scope="module")
def bundle(made_bundle: MadeBundle, tmp_path_factory: pytest.TempPathFactory) -> tuple[FileBundle, Path]:
    made, folder = made_bundle("startup", "aws", "cloud-aws"), tmp_path_factory.mktemp("drift") / "bundle"
    write_bundle(made, folder, __version__)
    return made, folder


@pytest.fixture
def cluster(bundle: tuple[FileBundle, Path]) -> list[Item]:
    """The objects of the site, as the server answers them."""
    return [answer_as_server(item) for item in read_cluster(bundle[0], PurePosixPath(f"kubernetes/overlays/{SITE}"))]


Check = Callable[[Any], set[tuple[str, str, str]]]


@pytest.fixture
def check(bundle: tuple[FileBundle, Path], tmp_path: Path) -> Check:
    """Run drift on a state; return code, subject and field of each finding."""

    def run(state: Any) -> set[tuple[str, str, str]]:
        file = tmp_path / "state.json"
        file.write_text(json.dumps(state))
        report = api.drift(str(bundle[1]), state=str(file))
        assert report.compared > 10
        return {(one.code, one.subject, one.field) for one in report.findings}

    return run


def list_of(items: list[Item]) -> Item:
    return {"apiVersion": "v1", "kind": "List", "items": items}


def find(items: list[Item], kind: str, name: str) -> Item:
    return next(one for one in items if one["kind"] == kind and one["metadata"]["name"] == name)


def test_a_cluster_as_rendered_has_no_drift_in_spite_of_the_defaults(cluster: list[Item], check: Check) -> None:
    assert check(list_of(cluster)) == set()


def change_image(items: list[Item]) -> None:
    find(items, "StatefulSet", "gateway")["spec"]["template"]["spec"]["containers"][0]["image"] = "other:1"


def change_memory(items: list[Item]) -> None:
    pod = find(items, "StatefulSet", "gateway")["spec"]["template"]["spec"]
    pod["containers"][0]["resources"]["limits"]["memory"] = "1Ti"


def share_host_network(items: list[Item]) -> None:
    find(items, "StatefulSet", "gateway")["spec"]["template"]["spec"]["hostNetwork"] = True


def add_container(items: list[Item]) -> None:
    pod = find(items, "StatefulSet", "gateway")["spec"]["template"]["spec"]
    pod["containers"].append({"name": "shell", "image": "busybox"})


def add_variable(items: list[Item]) -> None:
    pod = find(items, "StatefulSet", "gateway")["spec"]["template"]["spec"]
    pod["containers"][0]["env"].append({"name": "DEBUG", "value": "1"})


def open_policy(items: list[Item]) -> None:
    """A policy without rules denies all; somebody adds a rule that admits all."""
    find(items, "NetworkPolicy", "default-deny")["spec"]["ingress"] = [{}]


def narrow_policy(items: list[Item]) -> None:
    find(items, "NetworkPolicy", "default-deny")["spec"]["podSelector"] = {"matchLabels": {"a": "b"}}


def edit_data(items: list[Item]) -> None:
    find(items, "ConfigMap", "gateway")["data"]["more.json"] = "{}"


def drop_label(items: list[Item]) -> None:
    del find(items, "Namespace", "archwright")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]


CONTAINER = "spec.template.spec.containers"


@pytest.mark.parametrize(
    ("change", "subject", "field"),
    [
        (change_image, "StatefulSet/gateway in archwright", f"{CONTAINER}[gateway].image"),
        (change_memory, "StatefulSet/gateway in archwright", f"{CONTAINER}[gateway].resources.limits.memory"),
        (share_host_network, "StatefulSet/gateway in archwright", "spec.template.spec.hostNetwork"),
        (add_container, "StatefulSet/gateway in archwright", f"{CONTAINER}[shell]"),
        (add_variable, "StatefulSet/gateway in archwright", f"{CONTAINER}[gateway].env[DEBUG]"),
        (open_policy, "NetworkPolicy/default-deny in archwright", "spec.ingress"),
        (narrow_policy, "NetworkPolicy/default-deny in archwright", "spec.podSelector.matchLabels"),
        (edit_data, "ConfigMap/gateway in archwright", "data.more.json"),
        (drop_label, "Namespace/archwright", "metadata.labels.pod-security.kubernetes.io/enforce"),
    ],
)
def test_an_edit_of_a_cluster_is_one_finding(
    cluster: list[Item], check: Check, change: Callable[[list[Item]], None], subject: str, field: str
) -> None:
    change(cluster)
    assert check(list_of(cluster)) == {("drift.changed", subject, field)}


def test_what_is_missing_and_what_is_extra_has_a_code_of_its_own(cluster: list[Item], check: Check) -> None:
    gone = find(cluster, "PodDisruptionBudget", "engine-support-chat")
    weights = next(one for one in cluster if one["kind"] == "Job")
    items = [one for one in cluster if one not in (gone, weights)]
    labels = {"app.kubernetes.io/part-of": "archwright"}

    def add(kind: str, name: str, namespace: str = "archwright", **metadata: Any) -> None:
        found = {"name": name, "namespace": namespace, "labels": labels, **metadata}
        items.append({"apiVersion": "v1", "kind": kind, "metadata": found})

    add("ConfigMap", "left-behind")
    add("ConfigMap", "of-others", labels={})
    add("ConfigMap", "elsewhere", namespace="archwright-prod")
    add("PersistentVolumeClaim", "home-gateway-0")
    add("Endpoints", "gateway")
    add("Pod", "gateway-0", ownerReferences=[{"kind": "StatefulSet"}])
    found = check(list_of(items))
    assert found == {
        ("drift.missing", "PodDisruptionBudget/engine-support-chat in archwright-engines", ""),
        ("drift.extra", "ConfigMap/left-behind in archwright", ""),
    }


def test_outputs_of_several_commands_may_follow_each_other(
    cluster: list[Item], bundle: tuple[FileBundle, Path], cli: CommandLine, tmp_path: Path
) -> None:
    file = tmp_path / "state.json"
    half = len(cluster) // 2
    file.write_text(f"{json.dumps(list_of(cluster[:half]))}\n{json.dumps(list_of(cluster[half:]))}\n")
    assert "no drift" in cli.text(f"drift {bundle[1]} --state {file}", 0)
    change_image(cluster)
    file.write_text(json.dumps(list_of(cluster)))
    text = cli.text(f"drift {bundle[1]} --state {file}", 3)
    assert "drift.changed" in text and "other:1" in text


def test_an_overlay_of_your_own_is_compared_as_it_was_built(
    cluster: list[Item], bundle: tuple[FileBundle, Path], tmp_path: Path
) -> None:
    host = "ai.example.org"
    gateway = find(cluster, "Gateway", "archwright")
    gateway["spec"]["listeners"][0]["hostname"] = host
    state, built = tmp_path / "state.json", tmp_path / "built.yaml"
    state.write_text(json.dumps(list_of(cluster)))
    assert len(api.drift(str(bundle[1]), state=str(state)).findings) == 1
    built.write_text(yaml.safe_dump_all(cluster))
    assert api.drift(str(bundle[1]), state=str(state), built=str(built)).findings == ()


def test_another_environment_of_the_cluster_is_not_extra(made_bundle: MadeBundle, tmp_path: Path) -> None:
    folder, state = tmp_path / "bundle", tmp_path / "state.json"
    items = []
    for environment in ("prod", "stage"):
        made = made_bundle("startup", "aws", "cloud-aws", environment=environment)
        items += [answer_as_server(item) for item in read_cluster(made, PurePosixPath(f"kubernetes/overlays/{SITE}"))]
    write_bundle(made, folder, __version__)
    state.write_text(json.dumps(list_of(items)))
    assert api.drift(str(folder), state=str(state)).findings == ()


# --- Terraform


def read_module(folder: Path) -> dict[str, Item]:
    """Return the resources of the root module by address."""
    found: dict[str, Item] = {}
    for path in sorted((folder / "terraform").glob("*.tf.json")):
        for kind, blocks in json.loads(path.read_text()).get("resource", {}).items():
            found |= {f"{kind}.{name}": block for name, block in blocks.items()}
    return found


def list_resources(folder: Path) -> Iterator[Item]:
    """Yield the resources of a state: expressions have values, blocks are lists, and providers add attributes."""
    for address, block in read_module(folder).items():
        kind, _, name = address.partition(".")
        arguments = {key: value for key, value in block.items() if key not in ("//", "depends_on", "lifecycle")}
        repeated = bool(arguments.keys() & {"for_each", "count"})
        values = {key: _evaluate(value) for key, value in arguments.items() if key not in ("for_each", "count")}
        yield {
            "address": f'{address}["a"]' if repeated else address,
            "mode": "managed",
            "type": kind,
            "name": name,
            "values": {**values, "id": "i-1", "arn": "arn", "tags_all": {}},
        }


def _evaluate(value: Any) -> Any:
    if isinstance(value, dict):
        return [{key: _evaluate(item) for key, item in value.items() if key != "depends_on"} | {"timeouts": None}]
    if isinstance(value, list):
        return [_evaluate(item) for item in value]
    if isinstance(value, str) and value.startswith("{") and "${" not in value:
        return json.dumps(json.loads(value), indent=1)
    return "evaluated" if isinstance(value, str) and "${" in value else value


def state_of(resources: list[Item]) -> Item:
    values = {"root_module": {"resources": [*resources, {"mode": "data", "type": "x", "name": "y", "address": "z"}]}}
    return {"format_version": "1.0", "terraform_version": "1.11.0", "values": values}


def test_terraform_as_applied_has_no_drift(bundle: tuple[FileBundle, Path], check: Check) -> None:
    assert check(state_of(list(list_resources(bundle[1])))) == set()


def test_edits_of_a_cloud_are_found(bundle: tuple[FileBundle, Path], check: Check) -> None:
    resources = {one["address"]: one for one in list_resources(bundle[1])}
    resources["aws_db_instance.gateway"]["values"]["publicly_accessible"] = True
    resources["aws_eks_cluster.main"]["values"]["vpc_config"][0]["endpoint_public_access"] = True
    del resources["aws_secretsmanager_secret.database"]
    left = {"address": "aws_instance.by_hand", "mode": "managed", "type": "aws_instance", "name": "by_hand"}
    assert check(state_of([*resources.values(), left])) == {
        ("drift.changed", "aws_db_instance.gateway", "publicly_accessible"),
        ("drift.changed", "aws_eks_cluster.main", "vpc_config.endpoint_public_access"),
        ("drift.missing", "aws_secretsmanager_secret.database", ""),
        ("drift.extra", "aws_instance.by_hand", ""),
    }


# --- input


@pytest.mark.parametrize(
    ("text", "site", "code"),
    [
        ("{", None, "AW-FILE-15"),
        ("[1]", None, "AW-FILE-15"),
        ('{"kind": "List", "items": [1]}', None, "AW-FILE-15"),
        ('{"kind": "List", "items": []}', "elsewhere", "AW-USE-99"),
    ],
)
def test_a_state_of_another_form_and_an_unknown_site_are_refused(
    bundle: tuple[FileBundle, Path], tmp_path: Path, text: str, site: str | None, code: str
) -> None:
    file = tmp_path / "state.json"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        api.drift(str(bundle[1]), state=str(file), site=site)
    assert caught.value.code == code
