"""A changed plan reaches the running gateway: by its mounted folder, or by a restart that the objects ask for."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.tools.checks import until

from archwright.contract.plan import QueueTimeouts
from archwright.contract.record import replace
from archwright.deploy.containers.gateway_container import GatewayContainer, build_gateway
from archwright.deploy.deployment import Deployment
from archwright.deploy.render import find_target
from archwright.deploy.rendering.bundle import FileBundle
from archwright.home import Home
from archwright.operate.readiness_probe import find_free_port
from archwright.serving.process.config_reload import read_served_revision

from .clusters import list_overlays, read_cluster
from .conftest import MadeBundle, MadePlan
from .object_rules import Item, find_pods

CONFIG = "/etc/archwright/config"
MadeDeployment = Callable[..., Deployment]


def build(deployment: Deployment) -> GatewayContainer:
    return build_gateway(deployment, find_target("kubernetes").engine_url, {})


def change_waits(deployment: Deployment) -> Deployment:
    """Return the deployment with another queue time at each endpoint, as a new plan has."""
    waits = QueueTimeouts(wait_s=7.5, overflow_s=7.5, source="test")
    workloads = tuple(replace(one, waits=waits) for one in deployment.plan.workloads)
    return replace(deployment, plan=replace(deployment.plan, workloads=workloads))


def mount(folder: Path, name: str, text: str) -> None:
    """Write a volume of a ConfigMap as the kubelet does: a new folder, and one rename of the link to it."""
    version = folder / f"..{name}"
    version.mkdir(parents=True)
    (version / "gateway.json").write_text(text, encoding="utf-8")
    link = folder / "..data_tmp"
    link.symlink_to(version.name)
    link.rename(folder / "..data")
    file = folder / "gateway.json"
    if not file.is_symlink():
        file.symlink_to("..data/gateway.json")


@pytest.mark.nightly
@pytest.mark.process
@pytest.mark.enable_socket
def test_a_gateway_follows_a_changed_config_map_without_a_restart(
    made_deployment: MadeDeployment, tmp_path: Path
) -> None:
    deployment = made_deployment("startup", "kubernetes")
    before, after = build(deployment), build(change_waits(deployment))
    assert before.restart_digest == after.restart_digest, "queue times restart nothing"
    own = {"host": "127.0.0.1", "port": find_free_port("127.0.0.1"), "admin_port": None, "store_url": ""}
    own |= {"tls_certificate": None, "tls_key": None, "workers": 1}
    folder, home = tmp_path / "config", Home(tmp_path / "home")
    mount(folder, "first", json.dumps({**json.loads(before.config), **own}))
    command = [sys.executable, "-P", "-m", "archwright.serving", str(home.root), str(folder / "gateway.json")]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as gateway:
        try:
            until(lambda: find_revision(home) == read_revision(before))
            mount(folder, "second", json.dumps({**json.loads(after.config), **own}))
            until(lambda: find_revision(home) == read_revision(after))
            assert gateway.poll() is None
        finally:
            gateway.terminate()


def find_revision(home: Home) -> int:
    note = read_served_revision(home)
    return note.revision if note is not None else -1


def read_revision(gateway: GatewayContainer) -> int:
    return int(json.loads(gateway.config)["revision"])


def test_the_gateway_of_a_cluster_mounts_the_folder(made_bundle: MadeBundle) -> None:
    bundle = made_bundle("startup", "kubernetes")
    items = read_cluster(bundle, list_overlays(bundle)[0])
    for item in items:
        for pod in find_pods(item):
            mounts = [one for part in pod.spec["containers"] for one in part.get("volumeMounts", ())]
            assert not [one for one in mounts if "subPath" in one], "kubelet never updates a part of a volume"
    container = find_gateway(items)["spec"]["containers"][0]
    assert container["command"][-1] == f"{CONFIG}/gateway.json"
    assert {"name": "config", "mountPath": CONFIG, "readOnly": True} in container["volumeMounts"]
    assert not [one for one in container["volumeMounts"] if one["mountPath"].startswith(f"{CONFIG}/")]


def find_gateway(items: list[Item]) -> Any:
    return next(one for one in items if one["kind"] == "StatefulSet")["spec"]["template"]


def test_a_setting_that_needs_a_restart_makes_another_pod(made_deployment: MadeDeployment) -> None:
    deployment = made_deployment("startup", "kubernetes")
    more = replace(deployment, plan=replace(deployment.plan, gateway_workers=deployment.plan.gateway_workers + 1))
    assert build(more).restart_digest != build(deployment).restart_digest


def test_a_new_plan_with_the_same_settings_restarts_nothing(made_bundle: MadeBundle, made_plan: MadePlan) -> None:
    plan = made_plan("startup")
    other = replace(plan, needs_digest="0" * 64)
    assert other.digest != plan.digest
    templates = [find_gateway(read_items(made_bundle(one, "kubernetes"))) for one in (plan, other)]
    assert templates[0] == templates[1]


def read_items(bundle: FileBundle) -> list[Item]:
    return read_cluster(bundle, list_overlays(bundle)[0])


def test_compose_mounts_the_folder_and_makes_another_container_for_other_settings(made_bundle: MadeBundle) -> None:
    bundle = made_bundle("desk", "compose")
    service = yaml.safe_load(bundle.files["compose.yaml"].text)["services"]["gateway"]
    assert f"./config:{CONFIG}:ro" in service["volumes"]
    assert "config/gateway.json" in bundle.files
    assert service["labels"].keys() == {"dev.archwright.settings"}
    assert f'"{CONFIG}/gateway.json"' in bundle.files["image/Containerfile"].text
