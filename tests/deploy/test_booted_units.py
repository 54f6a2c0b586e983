"""The README of target systemd, followed step by step on a machine whose process 1 is a real systemd.

The machine is a new Debian with its own Python, our wheel and the real small model. The tests share it, in their order:
the last one takes the platform down.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.deploy.booted_machine import PYTHON, BootedMachine, booted_machine
from tests.deploy.conftest import MadeBundle, MadePlan
from tests.deploy.gateway_client import GatewayClient, Load, make_pair
from tests.deploy.readme_steps import read_commands
from tests.deploy.tools import ROOT
from tests.deploy.wheels import collect_wheels
from tests.serving.conftest import free_port
from tests.tools.checks import until

from archwright import __version__
from archwright.catalog.load import load_catalog
from archwright.contract.plan import Plan
from archwright.contract.record import replace
from archwright.deploy.rendering.bundle import write_bundle
from archwright.home import Home
from archwright.plan.plan_file import write_plan

pytestmark = [pytest.mark.nightly, pytest.mark.enable_socket]
TARGET, GATEWAY, SUPERVISOR = "archwright.target", "archwright-gateway.service", "archwright-supervisor.service"
ENGINE = "archwright-engine-assistant.service"
SERVICES = (SUPERVISOR, ENGINE, GATEWAY)
HOME = "/var/lib/archwright/home"
# In the machine, the folder of its user root.
OWN = "/" + "root"
BUNDLE, MODEL, WHEELS = f"{OWN}/bundle", f"{OWN}/model.gguf", f"{OWN}/wheels"
OLD, NEW = 'json_reply({"status": "ok"})', 'json_reply({"status": "new"})'
USERS = "-user archwright -o -user archwright-engine"


class Platform(GatewayClient):
    """The platform on a booted machine; `readme` of its bundle."""

    def __init__(self, machine: BootedMachine, readme: str, port: int) -> None:
        super().__init__(port)
        self.machine = machine
        self.readme = readme

    def follow(self, section: str, **values: str) -> None:
        """Run the commands of a section of the README, with values for its words."""
        for command in read_commands(self.readme, section):
            for name, value in values.items():
                command = command.replace(name, value)
            self.machine.read(command, folder=BUNDLE)

    def apply(self, settings: str) -> None:
        """Follow the section "Apply", and keep the key that it makes. Its fourth step writes the settings."""
        *install, enable, create_key = read_commands(self.readme, "Apply")
        for command in install:
            self.machine.read(command.replace("FILE", MODEL), folder=BUNDLE)
        self.machine.read(f"echo '{settings}' > /etc/archwright/archwright.env && {enable}", folder=BUNDLE)
        self.key = self.machine.read(create_key, folder=BUNDLE).split()[1]

    def main_pid(self, unit: str) -> int:
        return int(self.machine.show(unit, "MainPID"))

    def is_active(self, *units: str) -> bool:
        return self.machine.run(f"systemctl is-active --quiet {' '.join(units)}").returncode == 0

    def is_ready(self) -> bool:
        return self.get("/readyz")[0] == 200

    def find_processes(self) -> str:
        """Return the processes of the platform's users, a line each."""
        return self.machine.read(rf"find /proc -maxdepth 1 -regex '/proc/[0-9]+' \( {USERS} \)")


def use_small_model(plan: Plan) -> Plan:
    """Return the plan with the small model as the model of its only pool."""
    artefact = load_catalog().artefacts["SmolLM2-135M-Instruct"]
    pool = replace(plan.pools[0], artefact=artefact)
    option = replace(plan.options[0], pools=(pool,))
    return replace(plan, pools=(pool,), options=(option, *plan.options[1:]))


@pytest.fixture(scope="module")
def platform(
    made_plan: MadePlan, made_bundle: MadeBundle, model_home: Home, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Platform]:
    """The platform after the sections "Before you apply" and "Apply"."""
    plan, port = use_small_model(made_plan("desk")), free_port()
    artefact = plan.pools[0].artefact
    assert artefact is not None
    bundle, wheels = tmp_path_factory.mktemp("bundle") / "bundle", tmp_path_factory.mktemp("wheels")
    write_bundle(made_bundle(plan, "systemd"), bundle, __version__)
    write_plan(plan, bundle / "plan.json")
    collect_wheels(wheels, ROOT / "constraints.txt", python=PYTHON, extras="local")
    with booted_machine() as machine:
        shutil.copytree(bundle, f"{machine.root}{BUNDLE}")
        shutil.copytree(wheels, f"{machine.root}{WHEELS}")
        shutil.copyfile(model_home.model(artefact.sha256), f"{machine.root}{MODEL}")
        (machine.root / "etc/pip.conf").write_text(f"[global]\nno-index = true\nfind-links = {WHEELS}\n")
        platform = Platform(machine, (bundle / "README.md").read_text(), port)
        try:
            platform.follow("Before you apply")
            platform.apply(f"ARCHWRIGHT_PORT={port}")
            until(platform.is_ready)
            yield platform
        finally:
            print(machine.run("systemctl --no-pager status 'archwright*'").stdout)
            print(machine.run("journalctl --no-pager --namespace archwright | tail -60").stdout)


def test_the_platform_of_the_readme_serves(platform: Platform) -> None:
    machine = platform.machine
    assert platform.is_active(TARGET, *SERVICES)
    assert platform.ask() == ""
    before, verify, show_log, ask = read_commands(platform.readme, "Verify")[:4]
    assert before == "archwright verify .", "for the machine that rendered the bundle"
    assert machine.read(f"{verify} 2>&1 | grep archwright || true") == ""
    assert "archwright" in machine.read(show_log)
    assert '"ready":true' in machine.read(ask.replace("8470", str(platform.port)))
    assert [machine.show(unit, "NRestarts") for unit in SERVICES] == ["0", "0", "0"]
    assert machine.read("stat --format=%a:%U /etc/archwright/archwright.env") == "600:root"


def test_systemd_closes_what_the_units_close(platform: Platform) -> None:
    machine = platform.machine
    engine, gateway = platform.main_pid(ENGINE), platform.main_pid(GATEWAY)
    for pid in (engine, gateway, platform.main_pid(SUPERVISOR)):
        status = machine.read(f"cat /proc/{pid}/status").splitlines()
        fields = dict(line.split(":\t") for line in status if ":\t" in line)
        assert (fields["NoNewPrivs"], fields["Seccomp"], int(fields["CapBnd"], 16)) == ("1", "2", 0)
        inside = f"nsenter --target={pid} --mount"
        assert machine.run(f"{inside} touch /etc/archwright/new").returncode != 0, "the root is read-only"
        assert machine.run(f"{inside} ls {WHEELS}").stdout == "", "ProtectHome"
    assert machine.run(f"nsenter --target={gateway} --mount cat {HOME}/secrets/pepper").returncode == 0
    for path in (f"{HOME}/secrets/pepper", "/etc/archwright/archwright.env"):
        assert machine.run(f"nsenter --target={engine} --mount cat {path}").stdout == "", "not even for root"
    links = machine.read(f"nsenter --target={engine} --net ls /sys/class/net; cat /proc/{engine}/net/dev | tail -n +3")
    assert [line.split(":")[0].strip() for line in links.splitlines() if ":" in line] == ["lo"]


def test_polkit_lets_the_supervisor_start_engines_and_nothing_else(platform: Platform) -> None:
    """The instance that it starts here has no model, so only the answer of systemd counts."""
    instance, machine = "archwright-engine@none.service", platform.machine
    as_supervisor = "sudo -u archwright systemctl --no-block --no-ask-password"
    machine.read(f"{as_supervisor} start {instance} && {as_supervisor} stop {instance}")
    for verb, unit in (("restart", instance), ("stop", GATEWAY), ("start", "systemd-tmpfiles-clean.service")):
        refused = machine.run(f"{as_supervisor} {verb} {unit}")
        assert refused.returncode != 0 and "authentication" in refused.stderr, f"{verb} {unit}"
    engines = "sudo -u archwright-engine systemctl --no-block --no-ask-password"
    assert machine.run(f"{engines} start {instance}").returncode != 0
    until(lambda: not platform.is_active(instance))


@pytest.mark.parametrize("unit", [SUPERVISOR, GATEWAY, ENGINE])
def test_a_killed_process_is_back(platform: Platform, unit: str) -> None:
    pids = {name: platform.main_pid(name) for name in SERVICES}
    restarts = int(platform.machine.show(unit, "NRestarts"))
    platform.machine.read(f"systemctl kill --kill-whom=main --signal=KILL {unit}")
    until(lambda: int(platform.machine.show(unit, "NRestarts")) > restarts and platform.is_active(unit))
    until(lambda: platform.is_ready() and platform.ask() == "")
    assert int(platform.machine.show(unit, "NRestarts")) == restarts + 1
    others = set(SERVICES) - {unit}
    assert {name: platform.main_pid(name) for name in others} == {name: pids[name] for name in others}


def test_a_reload_under_load_drops_nothing(platform: Platform) -> None:
    before = platform.main_pid(GATEWAY)
    with Load(platform, 3) as load:
        until(lambda: load.done > 5)
        platform.machine.read(f"systemctl reload {GATEWAY}")
        asked = load.done
        until(lambda: load.done > asked + 10)
    assert load.failed == []
    assert platform.main_pid(GATEWAY) == before


def test_an_upgrade_and_the_way_back_lose_no_request(platform: Platform) -> None:
    machine, before = platform.machine, platform.main_pid(GATEWAY)
    supervisor = platform.main_pid(SUPERVISOR)
    for command in read_commands(platform.readme, "Before you apply"):
        if command.startswith(("python3 -m venv", "/opt/archwright")):
            machine.read(command.replace(f"/opt/archwright/{__version__}", "/opt/archwright/new"))
    (routes,) = Path(f"{machine.root}/opt/archwright/new").glob(
        "lib/*/site-packages/archwright/serving/process/routes.py"
    )
    assert OLD in routes.read_text()
    routes.write_text(routes.read_text().replace(OLD, NEW))
    with Load(platform, 3) as load:
        until(lambda: load.done > 5)
        platform.follow("Upgrade", NEW="new")
        until(lambda: "new" in platform.get("/healthz")[1])
        assert platform.main_pid(SUPERVISOR) != supervisor
        asked = load.done
        until(lambda: load.done > asked + 5)
        platform.follow("Upgrade", NEW=__version__)
        until(lambda: "ok" in platform.get("/healthz")[1])
        asked = load.done
        until(lambda: load.done > asked + 5)
    assert load.failed == []
    assert platform.main_pid(GATEWAY) == before, "systemd sees no restart"


def test_a_backup_is_restored_as_the_readme_says(platform: Platform) -> None:
    machine, before = platform.machine, platform.main_pid(GATEWAY)
    machine.read("systemctl start archwright-backup.service")
    machine.read("archwright-run key create --name later")
    platform.follow("Restore")
    until(lambda: platform.is_ready() and platform.ask() == "")
    assert platform.main_pid(GATEWAY) != before
    assert "later" not in machine.read("archwright-run key list")
    # Its status says that the machine has no second place.
    assert '"whole": true' in machine.run("archwright-run audit verify --json").stdout


def test_a_renewed_certificate_is_shown_without_a_restart(platform: Platform, tmp_path: Path) -> None:
    """After it the platform serves by TLS."""
    machine, old, new = platform.machine, make_pair(tmp_path / "old"), make_pair(tmp_path / "new")
    folder, user = Path(f"{machine.root}/etc/archwright/tls"), int(machine.read("id --user archwright"))
    old.install(folder, user)
    files = "ARCHWRIGHT_TLS_CERTIFICATE=/etc/archwright/tls/tls.crt\nARCHWRIGHT_TLS_KEY=/etc/archwright/tls/tls.key"
    machine.read(f"printf '{files}\\n' >> /etc/archwright/archwright.env")
    machine.read(f"systemctl restart {SUPERVISOR} && systemctl restart {GATEWAY}")
    platform.trust(old, new)
    until(lambda: platform.ask() == "")
    assert platform.show_certificate() == old.pem
    before = platform.main_pid(GATEWAY)
    with Load(platform, 3) as load:
        new.install(folder, user)
        until(lambda: platform.show_certificate() == new.pem)
        asked = load.done
        until(lambda: load.done > asked + 5)
    assert load.failed == []
    assert platform.main_pid(GATEWAY) == before


def test_the_platform_is_back_after_a_reboot(platform: Platform) -> None:
    platform.machine.reboot()
    until(lambda: platform.is_active(TARGET, *SERVICES) and platform.is_ready())
    assert platform.ask() == ""


def test_taken_down_nothing_runs_and_the_data_stay(platform: Platform) -> None:
    """Last, since nothing serves after it."""
    assert platform.find_processes() != ""
    platform.follow("Take down")
    until(lambda: platform.find_processes() == "")
    assert platform.get("/healthz")[0] == 0
    assert platform.machine.run(f"systemctl is-enabled {TARGET}").stdout.strip() == "disabled"
    assert os.path.exists(f"{platform.machine.root}{HOME}/secrets/pepper")
