"""One machine from the units of a bundle: real processes as their users, restarts, an upgrade under load."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.deploy.conftest import MadeBundle, MadePlan
from tests.deploy.gateway_client import CertificatePair, GatewayClient, Load, make_pair
from tests.deploy.readme_steps import read_commands
from tests.deploy.unit_runner import CODE, UnitRunner, running_units, wait_until_ready
from tests.serving.conftest import free_port
from tests.small_plans import OPTION, PLAN, POOL
from tests.tools.checks import until

from archwright import __version__
from archwright.catalog.load import load_catalog
from archwright.contract.plan import Plan, WorkloadPlan
from archwright.contract.record import replace
from archwright.deploy.rendering.bundle import write_bundle
from archwright.home import Home
from archwright.plan.plan_file import write_plan

pytestmark = pytest.mark.enable_socket
GATEWAY, SUPERVISOR, ENGINE = "archwright-gateway", "archwright-supervisor", "archwright-engine-assistant"
OLD, NEW = 'json_reply({"status": "ok"})', 'json_reply({"status": "new"})'


class Machine(GatewayClient):
    """The running units with a key; `readme` of their bundle."""

    def __init__(self, runner: UnitRunner, port: int, readme: str = "") -> None:
        super().__init__(port)
        self.runner = runner
        self.readme = readme
        self.root = runner.root
        self.home = self.root / "var/lib/archwright/home"
        self.tls = self.root / "etc/archwright/tls"

    def run_as(self, service: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command as the user of a service, with the settings of its unit."""
        environment = {"ARCHWRIGHT_HOME": str(self.home), "PATH": "/usr/bin:/bin"}
        ids = self.runner.ids(self.runner.services[service])
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, errors="replace", cwd="/", **ids
        )

    @property
    def user(self) -> int:
        """The number of the gateway's user."""
        return int(self.runner.ids(self.runner.services[GATEWAY]).get("user", os.getuid()))

    def open(self) -> None:
        """Wait until requests are served, and make a key as the README says."""
        wait_until_ready(self.runner, GATEWAY)
        made = self.run_as(GATEWAY, self.runner.python, "-P", "-m", "archwright", "key", "create", "--json")
        assert made.returncode == 0, made.stderr
        self.key = json.loads(made.stdout)["key"]
        until(lambda: self.get("/readyz")[0] == 200)

    def state(self) -> dict[str, object]:
        found: dict[str, object] = json.loads((self.home / "run/state.json").read_bytes())
        return found

    def restart(self, name: str, works: Callable[[], object]) -> None:
        """Kill a service, and wait until it works again after one start."""
        service = self.runner.services[name]
        starts = service.starts
        self.runner.kill(name)
        until(lambda: service.starts > starts and service.ready.is_set() and works())
        assert service.starts == starts + 1, f"{name} was started {service.starts - starts} times"


@contextmanager
def start_machine(
    plan: Plan, made_bundle: MadeBundle, folder: Path, share: Callable[[Path], None]
) -> Iterator[Machine]:
    bundle, file, port = folder / "bundle", folder / "plan.json", free_port()
    write_bundle(made_bundle(plan, "systemd"), bundle, __version__)
    write_plan(plan, file)

    def prepare(root: Path) -> None:
        (root / "etc/archwright/archwright.env").write_text(f"ARCHWRIGHT_PORT={port}\n")
        share(root / "var/lib/archwright/engines/models")

    with running_units(bundle, file, prepare) as runner:
        machine = Machine(runner, port, (bundle / "README.md").read_text())
        try:
            machine.open()
            yield machine
        finally:
            for name in runner.services:
                print(f"--- {name}\n{runner.log(name)[-3000:]}")


@pytest.fixture(scope="module")
def machine(made_bundle: MadeBundle, tmp_path_factory: pytest.TempPathFactory, processes: None) -> Iterator[Machine]:
    """A machine with the null engine, which the tests share."""
    workloads = (WorkloadPlan(name="assistant", model="null-model", pools=("assistant",)),)
    plan = replace(PLAN, chosen=OPTION.name, options=(OPTION,), workloads=workloads, pools=(POOL,))
    with start_machine(plan, made_bundle, tmp_path_factory.mktemp("machine"), lambda _models: None) as made:
        yield made


def test_doctor_fails_nothing_on_a_machine_that_serves(machine: Machine) -> None:
    """The models of units lie in the home of the engines, which is not the home of the gateway."""
    assert machine.ask() == ""
    until(lambda: all(one["ready"] for one in machine.state()["processes"]))  # type: ignore[attr-defined]
    done = machine.run_as(GATEWAY, machine.runner.python, "-P", "-m", "archwright", "doctor", "--json")
    checks = {one["name"]: one for one in json.loads(done.stdout)}
    assert {one["state"] for one in checks.values()} == {"ok"}
    assert done.returncode == 0
    assert "null-model" in checks["model"]["detail"]


def test_a_deep_doctor_says_nothing_false_on_a_machine_that_serves(machine: Machine) -> None:
    """The engines have another user, and only the units know the settings of the services."""
    assert machine.ask() == ""
    until(lambda: all(one["ready"] for one in machine.state()["processes"]))  # type: ignore[attr-defined]
    command = (machine.runner.python, "-P", "-m", "archwright", "doctor", "--deep", "--json")
    done = machine.run_as(GATEWAY, *command)
    checks = {one["name"]: one for one in json.loads(done.stdout)}
    assert [one for one in checks.values() if one["state"] == "failure"] == []
    assert done.returncode == 1
    warnings = {name for name, one in checks.items() if one["state"] == "warning"}
    assert warnings - {"clock", "disk encryption"} == {"backup", "second place"}, "nobody set these up here"
    assert checks["sandbox of engine-assistant"]["state"] == "ok"
    assert checks["pepper"]["detail"] == "it verifies 1 row(s) of keys"


def test_the_units_serve_and_a_killed_process_is_back(machine: Machine) -> None:
    assert machine.ask() == ""
    until(lambda: all(one["ready"] for one in machine.state()["processes"]))  # type: ignore[attr-defined]
    state = machine.state()
    pids = {one["name"]: one["pid"] for one in state["processes"]}  # type: ignore[attr-defined]
    assert pids == {
        "engine-assistant": machine.runner.services[ENGINE].pid,
        "gateway": machine.runner.services[GATEWAY].pid,
    }
    assert state["managed"] and state["supervisor_pid"] == machine.runner.services[SUPERVISOR].pid

    def supervises() -> bool:
        return machine.state()["supervisor_pid"] == machine.runner.services[SUPERVISOR].pid

    machine.restart(SUPERVISOR, supervises)
    assert machine.runner.services[GATEWAY].pid == pids["gateway"], "the gateway does not end with the supervisor"
    machine.restart(GATEWAY, lambda: machine.ask() == "")
    machine.restart(ENGINE, lambda: machine.ask() == "")


def test_a_backup_of_the_units_is_restored_as_the_readme_says(machine: Machine, tmp_path: Path) -> None:
    """The jobs of the timers run with their own command lines; a drill starts the restored home and asks it."""
    runner, restored = machine.runner, tmp_path / "restored"
    make_key = next(one for one in read_commands(machine.readme, "Apply") if "backup.key" in one)
    subprocess.run(["sh", "-ec", runner.relocate(make_key)], check=True)
    for job in ("archwright-backup", "archwright-backup-drill"):
        status, log = runner.run(job)
        assert status == 0, log
    records = (machine.home / "backups/drills.jsonl").read_text().splitlines()
    assert [json.loads(line)["passed"] for line in records] == [True]
    assert machine.run_as(GATEWAY, "/bin/cat", str(machine.root / "etc/archwright/backup.key")).returncode != 0

    _stop, restore, _start = read_commands(machine.readme, "Restore")
    before, _, restore = restore.partition(" -- ")  # a real systemd runs it in the nightly test
    assert "EnvironmentFile=/etc/archwright/archwright.env" in before, "the database is named there"
    restore = restore.replace("/var/lib/archwright/home", str(restored))
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "ARCHWRIGHT_AUDIT_SECOND_PLACE": "none"}
    subprocess.run(["sh", "-ec", runner.relocate(restore)], env=environment, check=True)
    for name in ("secrets/pepper", "secrets/audit-signing-key"):
        assert (restored / name).read_bytes() == (machine.home / name).read_bytes(), name
    environment["ARCHWRIGHT_HOME"] = str(restored)
    verify = [runner.python, "-P", "-m", "archwright", "audit", "verify"]
    subprocess.run(verify, env=environment, check=True, capture_output=True)


@pytest.mark.nightly
def test_an_upgrade_under_load_loses_no_request(machine: Machine) -> None:
    gateway, supervisor = (machine.runner.services[name] for name in (GATEWAY, SUPERVISOR))
    before, current = (gateway.pid, gateway.starts), machine.root / "opt/archwright/current"
    starts = supervisor.starts
    release = machine.root / "opt/archwright/next"
    shutil.copytree(CODE / "archwright", release / "lib/archwright", ignore=shutil.ignore_patterns("__pycache__"))
    routes = release / "lib/archwright/serving/process/routes.py"
    assert OLD in routes.read_text()
    routes.write_text(routes.read_text().replace(OLD, NEW))
    with Load(machine) as load:
        until(lambda: load.done > 20)
        (current / "next").symlink_to(release / "lib")
        os.replace(current / "next", current / "lib")
        machine.runner.reload(GATEWAY)
        until(lambda: "new" in machine.get("/healthz")[1])
        machine.runner.kill(SUPERVISOR)
        until(lambda: supervisor.starts > starts and supervisor.ready.is_set())
        asked = load.done
        until(lambda: load.done > asked + 40)
    assert load.failed == [] and load.done > 60
    assert (gateway.pid, gateway.starts) == before, "systemd sees no restart"


def test_an_engine_reads_neither_the_keys_nor_the_store(machine: Machine) -> None:
    assert machine.runner.switches_user, "run as root, with an interpreter that other users can run (python3.11)"
    secrets = [machine.home / "secrets/pepper", machine.home / "archwright.db", machine.home / "run/gateway.json"]
    for path in secrets:
        assert machine.run_as(GATEWAY, "/bin/cat", str(path)).returncode == 0
        assert machine.run_as(ENGINE, "/bin/cat", str(path)).returncode != 0
        assert machine.run_as(ENGINE, "/bin/ls", str(path.parent)).returncode != 0
    settings = machine.root / "etc/archwright/archwright.env"
    assert machine.run_as(ENGINE, "/bin/cat", str(settings)).returncode != 0
    assert machine.run_as(GATEWAY, "/bin/cat", str(settings)).returncode != 0, "systemd reads it as root"
    status = Path(f"/proc/{machine.runner.services[ENGINE].pid}/status").read_text()
    environment = Path(f"/proc/{machine.runner.services[ENGINE].pid}/environ").read_bytes()
    ids = machine.runner.ids(machine.runner.services[ENGINE])
    assert f"Uid:\t{ids['user']}\t" in status and ids["user"] != 0 and "NoNewPrivs:\t1" in status
    assert b"ARCHWRIGHT_PORT" not in environment


PROMOTE = """
import hashlib, sys, time
from archwright.contract.lineage import ModelVersion
from archwright.home import Home
from archwright.lifecycle import model_registry
from archwright.store import Store
home = Home(sys.argv[1])
store, data = Store(home.store_url), b"adapter"
made = ModelVersion(
    id="assistant@v1", name="assistant", version=1, at=time.time(), task="text-lora", format="gguf",
    sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data), run="r", dataset_version="d@v1", base="null-model",
)
home.model(made.sha256).write_bytes(data)
home.model(made.sha256).chmod(0o600)
store.append(model_registry.MODELS, [made])
model_registry.append_promotion(store, [], "promote", ("assistant", made.id), "local")
"""


@pytest.mark.nightly
def test_a_promoted_version_gets_a_unit_of_its_own(machine: Machine) -> None:
    """The supervisor may only ask for it. The engine runs as the engines' user, and reads the file by its group."""
    unit = "archwright-engine@engine-assistant.v1"
    with Load(machine, 3) as load:
        until(lambda: load.done > 5)
        made = machine.run_as(SUPERVISOR, machine.runner.python, "-c", PROMOTE, str(machine.home))
        assert made.returncode == 0, made.stderr
        wait_until_ready(machine.runner, unit)
        until(lambda: machine.state()["endpoints"][0]["version"] == "assistant@v1")  # type: ignore[index]
        killed = machine.runner.kill(SUPERVISOR)
        until(lambda: machine.runner.services[SUPERVISOR].pid != killed)
        until(lambda: machine.state()["supervisor_pid"] == machine.runner.services[SUPERVISOR].pid)
        until(lambda: machine.state()["endpoints"])
        assert machine.state()["endpoints"][0]["version"] == "assistant@v1"  # type: ignore[index]
        asked = load.done
        until(lambda: load.done > asked + 5)
    assert machine.runner.services[unit].starts == 1, "it does not end with the supervisor"
    state = {one["name"]: one for one in machine.state()["processes"]}  # type: ignore[attr-defined]
    assert state["engine-assistant.v1"]["pid"] == machine.runner.services[unit].pid
    back = "model_registry.append_promotion(store, model_registry.promotion_history(store, 'assistant'), 'rollback', "
    undo = PROMOTE[: PROMOTE.index("made =")] + back + "('assistant', None), 'local')"
    with load:
        machine.runner.kill(SUPERVISOR)
        assert machine.run_as(SUPERVISOR, machine.runner.python, "-c", undo, str(machine.home)).returncode == 0
        until(lambda: not machine.runner.services[unit].wanted)
        assert machine.ask() == ""
    assert load.failed == [], "the engine ends after the gateway has released it"


@pytest.mark.nightly
@pytest.mark.model
def test_a_real_model_answers_from_the_units(
    made_plan: MadePlan, made_bundle: MadeBundle, model_home: Home, tmp_path: Path
) -> None:
    artefact = load_catalog().artefacts["SmolLM2-135M-Instruct"]
    plan = made_plan("desk")
    pool = replace(plan.pools[0], artefact=artefact)
    option = replace(plan.options[0], pools=(pool,))
    plan = replace(plan, pools=(pool,), options=(option, *plan.options[1:]))

    def share(models: Path) -> None:
        file = models / f"{artefact.sha256}.gguf"
        shutil.copyfile(model_home.model(artefact.sha256), file)
        shutil.chown(file, models.stat().st_uid, models.stat().st_gid)
        file.chmod(0o640)

    with start_machine(plan, made_bundle, tmp_path, share) as machine:
        assert machine.ask() == ""
        machine.restart(GATEWAY, lambda: machine.get("/healthz")[0] == 200)
        until(lambda: machine.get("/readyz")[0] == 200)
        assert machine.ask() == ""


@pytest.mark.nightly
def test_a_gateway_that_stands_still_is_restarted_by_its_watchdog(machine: Machine) -> None:
    service = machine.runner.services[GATEWAY]
    starts = service.starts
    os.kill(service.pid, signal.SIGSTOP)
    until(lambda: service.starts > starts and service.ready.is_set())
    until(lambda: machine.ask() == "")


def test_the_command_line_knows_who_runs_the_platform(machine: Machine) -> None:
    down = machine.run_as(GATEWAY, machine.runner.python, "-P", "-m", "archwright", "down")
    assert down.returncode != 0 and "AW-OPS-34" in down.stderr
    until(
        lambda: "running" in machine.run_as(GATEWAY, machine.runner.python, "-P", "-m", "archwright", "status").stdout
    )
    second = machine.run_as(
        SUPERVISOR,
        machine.runner.python,
        *("-P", "-m", "archwright.operate", str(machine.home), "--managed"),
        *(str(machine.root / "etc/archwright" / name) for name in ("bundle.json", "plan.json")),
    )
    assert second.returncode != 0 and "AW-OPS-30" in second.stderr


@pytest.fixture
def own_pair(machine: Machine, tmp_path: Path) -> Iterator[CertificatePair]:
    """The gateway with this certificate; after the test it serves without one again."""
    pair, settings = make_pair(tmp_path / "old"), machine.root / "etc/archwright/archwright.env"
    pair.install(machine.tls, machine.user)
    before, files = settings.read_text(), machine.tls
    settings.write_text(f"{before}ARCHWRIGHT_TLS_CERTIFICATE={files}/tls.crt\nARCHWRIGHT_TLS_KEY={files}/tls.key\n")
    machine.trust(pair)
    machine.restart(SUPERVISOR, lambda: True)  # it writes the gateway's configuration
    machine.restart(GATEWAY, lambda: machine.ask() == "")
    yield pair
    settings.write_text(before)
    machine.trust()
    machine.restart(SUPERVISOR, lambda: True)
    machine.restart(GATEWAY, lambda: machine.ask() == "")


@pytest.mark.nightly
def test_a_renewed_certificate_is_shown_without_a_restart(
    machine: Machine, own_pair: CertificatePair, tmp_path: Path
) -> None:
    new, gateway = make_pair(tmp_path / "new"), machine.runner.services[GATEWAY]
    before = gateway.pid, gateway.starts
    assert machine.show_certificate() == own_pair.pem
    machine.trust(own_pair, new)
    with Load(machine, 1) as load:
        new.install(machine.tls, machine.user)
        until(lambda: machine.show_certificate() == new.pem)
        asked = load.done
        until(lambda: load.done > asked + 2)
    assert load.failed == []
    assert (gateway.pid, gateway.starts) == before
