"""The target compose: every service is closed, secrets are references, and Docker Compose accepts each file."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.deploy.conftest import MadeBundle, MadePlan
from tests.deploy.tools import require_program
from tests.tools.hub_server import HubServer

from archwright.contract.plan import Plan, Purchase
from archwright.contract.record import replace
from archwright.deploy.containers.engine_layout import list_engines
from archwright.deploy.rendering.bundle import FileBundle
from archwright.deploy.rendering.components import Pins

Compose = dict[str, Any]
VOLUME = re.compile(r"(\$\{[^}]*\}[^:]*|[^:]+):([^:]+)(?::(.+))?")
# The only variables that Compose may fill in; those without a default are secrets.
PUBLIC = {f"ARCHWRIGHT_{name}" for name in ("ADDRESS", "PORT", "MODELS", "BACKUPS", "BACKUP_TO")}


def read_compose(bundle: FileBundle) -> Compose:
    found: Compose = yaml.load(bundle.files["compose.yaml"].text, yaml.CSafeLoader)
    return found


@pytest.fixture(scope="module")
def gpu_plan(made_plan: MadePlan) -> Plan:
    """A plan whose choice is one machine with two accelerators: a pool of two engines."""
    plan = made_plan("clinic")
    option = next(one for one in plan.options if one.name == "on-premises")
    pool = next(one for one in option.pools if one.kind == "text" and one.accelerator)
    launch = replace(
        pool.launch, arguments=("--seed=7 --max-num-batched-tokens=2048", '--speculative-config={"model": "a b"}')
    )
    pool = replace(pool, replicas=2, launch=launch)
    bought = Purchase(pool=pool.name, machine=pool.machine, kind="bought", machines=1.0, peak=1)
    option = replace(option, pools=(pool,), purchases=(bought,))
    return replace(plan, chosen=option.name, options=(option,), pools=(pool,), upstreams=())


@pytest.fixture(params=["desk", "gpu"])
def bundle(request: pytest.FixtureRequest, made_bundle: MadeBundle, gpu_plan: Plan) -> FileBundle:
    return made_bundle("desk" if request.param == "desk" else gpu_plan, "compose")


def test_every_service_is_closed_and_bounded(bundle: FileBundle) -> None:
    compose = read_compose(bundle)
    for name, service in compose["services"].items():
        assert service["read_only"] is True and service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert int(service["user"].partition(":")[0]) > 0 and "privileged" not in service, name
        assert "@sha256:" in service["image"], name
        assert service["restart"] == ("no" if name.startswith("weights-") else "unless-stopped"), name
        assert service["logging"]["options"].keys() == {"max-size", "max-file"}, name
        assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory", "pids"}, name
        assert "healthcheck" in service, name
        inside = {one for one in service["networks"] if compose["networks"][one].get("internal")}
        assert inside or (name.startswith("weights-") and service["networks"] == ["outside"]), name
        for volume in service.get("volumes", ()):
            found = VOLUME.fullmatch(volume)
            assert found is not None, volume
            source, target, options = found.groups(default="")
            is_written = target == ("/var/backups/archwright" if name == "backup" else "/models")
            is_writer = is_written and (name == "backup" or name.startswith("weights-"))
            assert is_writer or "ro" in options.split(",") or not source.startswith((".", "/", "$")), name
            if source.startswith("./"):  # what is mounted is in the bundle
                assert any(path == source[2:] or path.startswith(f"{source[2:]}/") for path in bundle.files), source
            assert target.startswith("/"), name


def test_only_the_gateway_publishes_a_port_and_only_on_this_machine(bundle: FileBundle) -> None:
    services = read_compose(bundle)["services"]
    assert [name for name, one in services.items() if "ports" in one] == ["gateway"]
    assert services["gateway"]["ports"] == ["${ARCHWRIGHT_ADDRESS:-127.0.0.1}:${ARCHWRIGHT_PORT:-8470}:8470"]


def test_secrets_are_references_and_have_no_default(bundle: FileBundle) -> None:
    for path, file in bundle.files.items():
        assert not re.search(r"BEGIN [A-Z ]*PRIVATE KEY|\bsk-\w{8}", file.text), path
    text = bundle.files["compose.yaml"].text
    used = dict(re.findall(r"\$\{(\w+)(:[-?][^}]*)?\}", text))
    secrets = {name for name in used if name not in PUBLIC}
    assert secrets == {"ARCHWRIGHT_DATABASE_PASSWORD"}
    assert all(used[name].startswith(":?") for name in secrets)
    compose = read_compose(bundle)
    # Compose refuses other secrets for a service with a read-only root (docker/compose, issue 12303).
    assert all(one.keys() == {"file"} for one in compose["secrets"].values())
    example = bundle.files["env.example"].text
    assert all(f"\n{name}=\n" in example for name in secrets)


def test_an_engine_starts_after_its_weights_are_checked_and_ends_after_its_responses(
    made_bundle: MadeBundle, gpu_plan: Plan
) -> None:
    services = read_compose(made_bundle(gpu_plan, "compose"))["services"]
    engines = {name: one for name, one in services.items() if name.startswith("engine-")}
    assert len(engines) == 2
    devices = [one["deploy"]["resources"]["reservations"]["devices"][0] for one in engines.values()]
    assert [one["device_ids"] for one in devices] == [["0"], ["1"]] and devices[0]["capabilities"] == ["gpu"]
    gateway = services["gateway"]
    for name, engine in engines.items():
        pool = gpu_plan.pools[0].name
        assert engine["depends_on"] == {f"weights-{pool}": {"condition": "service_completed_successfully"}}
        assert gateway["depends_on"][name] == {"condition": "service_started"}
        assert seconds(engine["stop_grace_period"]) <= seconds(gateway["stop_grace_period"])
        assert seconds(engine["healthcheck"]["start_period"]) >= 60
        assert {"--seed=7", "--max-num-batched-tokens=2048", '--speculative-config={"model": "a b"}'} <= {
            *engine["command"]
        }


def seconds(text: str) -> int:
    return int(text.removesuffix("s"))


@pytest.mark.process
@pytest.mark.enable_socket
def test_weights_are_fetched_to_where_the_engine_reads_them(
    made_bundle: MadeBundle, gpu_plan: Plan, tmp_path: Path
) -> None:
    """The command of the service as it stands, against a hub; without a digest, or with another, it fails."""
    (pool,) = gpu_plan.pools
    repository = made_bundle(gpu_plan, "compose").pins.models[pool.name]
    (tmp_path / "hub" / repository.repository).mkdir(parents=True)
    (tmp_path / "hub" / repository.repository / "model.safetensors").write_bytes(CONTENT)
    right, wrong = {"model.safetensors": hashlib.sha256(CONTENT).hexdigest()}, {"model.safetensors": "0" * 64}
    with HubServer(tmp_path / "hub") as hub:
        for number, (files, status) in enumerate((({}, 1), (wrong, 1), (right, 0))):
            pins = Pins(models={pool.name: replace(repository, files=files)})
            services = run_loader(made_bundle(gpu_plan, "compose", pins=pins), tmp_path / str(number), hub.url, status)
            engine = next(one for name, one in services.items() if name.startswith("engine-"))
            (mount,) = (volume for volume in engine["volumes"] if volume.endswith(":/models:ro"))
            models = tmp_path / str(number) / mount.partition("}/")[2].removesuffix(":/models:ro")
            read = models / engine["command"][0].removeprefix("/models/") / "model.safetensors"
            assert read.is_file() == (status == 0), services


def run_loader(bundle: FileBundle, folder: Path, hub: str, status: int) -> Compose:
    """Run the service that loads weights with `folder` as the folder of all models; return all services."""
    services: Compose = read_compose(bundle)["services"]
    (service,) = (one for name, one in services.items() if name.startswith("weights-"))
    source = next(volume for volume in service["volumes"] if volume.startswith("./weights:"))
    assert source == "./weights:/etc/archwright/weights:ro"
    folder.mkdir()
    for path, file in bundle.files.items():
        if path.startswith("weights/"):
            (folder / Path(path).name).write_text(file.text, encoding="utf-8")
    *program, verb, file_name, target = service["entrypoint"]
    pool = next(volume for volume in service["volumes"] if volume.endswith(":/models")).partition("}/")[2]
    target = target.replace("/models", str(folder / pool.removesuffix(":/models")))
    command = [sys.executable, *program[1:], verb, str(folder / Path(file_name).name), target]
    env = {"PATH": os.environ["PATH"], "HF_ENDPOINT": hub, "HOME": str(folder)}
    run = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert (run.returncode != 0) == (status != 0), run.stderr
    return services


CONTENT = b"weights " * 1000


def test_a_file_of_this_machine_has_its_digest_and_no_repository(made_bundle: MadeBundle) -> None:
    files = made_bundle("desk", "compose").files
    (path,) = (path for path in files if path.startswith("weights/"))
    (weights,) = json.loads(files[path].text)
    assert weights["files"] and weights["repository"] == "", "the maker's repository has no such file"


def test_memory_is_limited_above_the_prediction(made_deployment: Callable[..., Any]) -> None:
    deployment = made_deployment("desk", "compose")
    pool = replace(deployment.pools[0], image="server@sha256:0")
    (site,) = deployment.sites
    (engine,) = list_engines(replace(deployment, sites=(replace(site, pools=(pool,)),)))
    promised = next(
        one for one in deployment.plan.predictions if one.id in engine.prediction_ids and "memory" in one.id
    )
    assert promised.estimate.high < engine.memory_bytes <= max(2**29, 1.6 * promised.estimate.high)
    assert engine.devices == () and engine.cpu == deployment.plan.machine.cores_usable


# --- Docker Compose


def run_compose(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    program = require_program("docker-compose")
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), "ARCHWRIGHT_DATABASE_PASSWORD": "x"}
    return subprocess.run([program, *words], cwd=folder, env=env, capture_output=True, text=True, check=False)


def write_files(bundle: FileBundle, folder: Path) -> Compose:
    (folder / "compose.yaml").write_text(bundle.files["compose.yaml"].text, encoding="utf-8")
    return read_compose(bundle)


@pytest.mark.nightly
def test_docker_compose_accepts_the_file(bundle: FileBundle, tmp_path: Path) -> None:
    compose = write_files(bundle, tmp_path)
    run = run_compose(tmp_path, "--profile", "monitoring", "config")
    assert run.returncode == 0, run.stderr
    assert yaml.load(run.stdout, yaml.CSafeLoader)["services"].keys() == compose["services"].keys()
    plain = run_compose(tmp_path, "config", "--services")
    assert "prometheus" not in plain.stdout.split() and "gateway" in plain.stdout.split()


MUTATIONS: dict[str, Callable[[Compose], object]] = {
    "an unknown service": lambda one: one["services"]["gateway"]["depends_on"].update(
        ghost={"condition": "service_started"}
    ),
    "an unknown condition": lambda one: one["services"]["gateway"]["depends_on"]["database"].update(
        condition="is_fine"
    ),
    "an unknown field": lambda one: one["services"]["gateway"].update(read_onIy=True),
    "an unknown network": lambda one: one["services"]["database"].update(networks=["nowhere"]),
    "an unknown secret": lambda one: one["services"]["database"].update(secrets=["nothing"]),
    "an unknown volume": lambda one: one["volumes"].pop("home"),
    "memory as a number": lambda one: one["services"]["weights-assistant"]["deploy"]["resources"]["limits"].update(
        memory=1
    ),
    "a device without capabilities": lambda one: one["services"]["weights-assistant"]["deploy"]["resources"].update(
        reservations={"devices": [{"driver": "nvidia", "device_ids": ["0"]}]}
    ),
}


@pytest.mark.nightly
@pytest.mark.parametrize("mutation", MUTATIONS)
def test_docker_compose_rejects_a_broken_file(made_bundle: MadeBundle, tmp_path: Path, mutation: str) -> None:
    compose = write_files(made_bundle("desk", "compose"), tmp_path)
    MUTATIONS[mutation](compose)
    (tmp_path / "compose.yaml").write_text(yaml.safe_dump(compose), encoding="utf-8")
    assert run_compose(tmp_path, "config", "-q").returncode != 0


@pytest.mark.nightly
def test_docker_compose_needs_the_secret(made_bundle: MadeBundle, tmp_path: Path) -> None:
    write_files(made_bundle("desk", "compose"), tmp_path)
    program = require_program("docker-compose")
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    run = subprocess.run([program, "config", "-q"], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert run.returncode != 0 and "ARCHWRIGHT_DATABASE_PASSWORD" in run.stderr
