"""The files of target systemd: what the units say, and what systemd's own tools say about them."""

from __future__ import annotations

import re
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import msgspec
import pytest
from tests.deploy.conftest import MadeBundle, MadePlan
from tests.deploy.tools import require_program
from tests.deploy.unit_runner import Unit, parse_unit
from tests.small_plans import OPTION, PLAN, POOL
from tests.tools.checks import refuses

from archwright.contract.plan import Bundle, Launch, Plan, Purchase
from archwright.contract.record import replace
from archwright.deploy.rendering.bundle import FileBundle
from archwright.engines.engine_config import EngineConfig
from archwright.serving.settings.config import GatewayConfig

UNITS = "root/etc/systemd/system/"
PYTHON = "/opt/archwright/current/bin/python"
# What systemd-analyze may find at most; 10 is no protection at all.
MOST_EXPOSURE = 2.0


@pytest.fixture(scope="session")
def owned() -> Plan:
    """A plan for one owned machine with four accelerators: two pools, one with two replicas."""
    launch = Launch(engine="vllm", arguments=("--kv-cache-dtype=fp8", '--speculative-config={"method": "m 100%"}'))
    fields = {"placement": "on-premises", "provider": "own", "machine": "4x-a100-80gb-pcie", "launch": launch}
    fields |= {"accelerator": "a100-80gb-pcie", "accelerator_count": 1, "model": "Qwen3-8B", "quantisation": "bf16"}
    pools = (
        replace(POOL, name="chat", workloads=("chat",), replicas=2, **fields),
        replace(POOL, name="mail", workloads=("mail",), **fields),
    )
    bought = [Purchase(pool=one.name, machine=one.machine, kind="owned", machines=1.0, peak=1) for one in pools]
    shared = tuple(replace(one, shared_with=tuple({"chat", "mail"} - {one.pool})) for one in bought)
    place = {"name": "on-premises", "placement": "on-premises", "provider": "own"}
    option = replace(OPTION, **place, pools=pools, purchases=shared)
    return replace(PLAN, chosen=option.name, options=(option,), pools=pools)


@pytest.fixture(params=["desk", "owned"])
def bundle(request: pytest.FixtureRequest, made_bundle: MadeBundle, owned: Plan) -> FileBundle:
    return made_bundle(owned if request.param == "owned" else request.param, "systemd")


def read_units(bundle: FileBundle) -> dict[str, Unit]:
    files = {path.removeprefix(UNITS): one.text for path, one in bundle.files.items() if path.startswith(UNITS)}
    return {name: parse_unit(text) for name, text in files.items() if name.endswith(".service")}


def test_every_service_is_restarted_watched_limited_and_closed(bundle: FileBundle) -> None:
    limits = msgspec.convert(read_gateway(bundle), GatewayConfig).limits
    grace_s = limits.drain_s
    assert limits.request_s >= max(600, grace_s), "the gateway ends no response that the plan predicts"
    for name, unit in read_units(bundle).items():
        assert unit.all("StartLimitIntervalSec", "Unit") == ["0"], name
        assert unit.get("User") in ("archwright", "archwright-engine") and int(unit.get("UMask"), 8) & 0o77 == 0o77
        assert unit.get("MemoryMax") and unit.get("LogNamespace") == "archwright", name
        assert unit.get("ProtectSystem") == "strict" and unit.get("NoNewPrivileges") == "yes", name
        assert unit.all("CapabilityBoundingSet") == [""] and unit.get("RestrictAddressFamilies"), name
        if "backup" in name:  # its timer starts it
            assert (unit.get("Type"), unit.get("Restart")) == ("oneshot", "")
            continue
        most_s = 2.0 if "engine" in name else 0.25
        assert unit.get("Restart") == "always" and unit.seconds("RestartSec") <= most_s, name
        assert unit.get("Type") == "exec" or unit.seconds("WatchdogSec") > 0, name
    assert read_units(bundle)["archwright-gateway.service"].seconds("TimeoutStopSec") >= grace_s
    text = "".join(one.text for one in bundle.files.values())
    assert "BEGIN" not in text and "PASSWORD=" not in text


def test_the_target_starts_a_timer_for_each_job_of_backups(bundle: FileBundle) -> None:
    target = parse_unit(bundle.files[f"{UNITS}archwright.target"].text)
    wanted = " ".join(target.all("Wants", "Unit")).split()
    timers = [name for name in wanted if name.endswith(".timer")]
    assert timers == ["archwright-backup.timer", "archwright-backup-drill.timer"]
    for name in timers:
        timer = parse_unit(bundle.files[f"{UNITS}{name}"].text)
        assert timer.all("OnCalendar", "Timer") and timer.all("Persistent", "Timer") == ["yes"]
        unit = read_units(bundle)[name.replace(".timer", ".service")]
        assert unit.get("LoadCredential") == "backup-key:/etc/archwright/backup.key", "the gateway cannot read the key"
    assert read_units(bundle)["archwright-backup.service"].get("ExecStart").endswith("backup --keep 30")


def read_gateway(bundle: FileBundle) -> dict[str, object]:
    read = msgspec.json.decode(bundle.files["root/etc/archwright/bundle.json"].text, type=Bundle)
    return read.processes[-1].config


def test_the_engine_of_this_machine_follows_the_plan(made_bundle: MadeBundle, made_plan: MadePlan) -> None:
    bundle, plan = made_bundle("desk", "systemd"), made_plan("desk")
    unit = read_units(bundle)["archwright-engine-assistant.service"]
    peak = next(one for one in plan.predictions if one.metric == "peak_memory_bytes").estimate
    assert peak.high < int(unit.get("MemoryMax")) < 2 * peak.high
    header = bundle.files[f"{UNITS}archwright-engine-assistant.service"].text.splitlines()[0]
    assert header.startswith("# 1 x ") and "assistant.peak_memory_bytes.max" in header
    assert unit.get("PrivateNetwork") == "yes" and unit.get("PrivateDevices") == "yes"
    config = bundle.files["root/etc/archwright/engines/engine-assistant.json"].text
    read = msgspec.json.decode(config, type=EngineConfig)
    assert plan.pools[0].artefact is not None and read.model_sha256 == plan.pools[0].artefact.sha256
    assert read_gateway(bundle)["pools"][0]["addresses"] == ["unix:engine-assistant"]  # type: ignore[index]


def test_the_engines_of_an_owned_machine_have_ports_and_accelerators_of_their_own(
    made_bundle: MadeBundle, owned: Plan
) -> None:
    bundle = made_bundle(owned, "systemd")
    units = {name: unit for name, unit in read_units(bundle).items() if re.search("engine-(chat|mail)", name)}
    lines = [unit.get("ExecStart") for unit in units.values()]
    assert len(units) == 3 and len({line.split("--port=")[1][:4] for line in lines}) == 3
    assert {unit.all("Environment")[-2] for unit in units.values()} == {f"CUDA_VISIBLE_DEVICES={n}" for n in range(3)}
    assert all('"--speculative-config={\\"method\\": \\"m 100%%\\"}"' in line for line in lines)
    assert all("--host=127.0.0.1" in line and "/var/lib/archwright/engines/models/" in line for line in lines)
    assert all(unit.get("DeviceAllow").startswith("char-nvidia") for unit in units.values())
    pools = {one["name"]: one["addresses"] for one in read_gateway(bundle)["pools"]}  # type: ignore[attr-defined]
    ports = [re.search(r"--port=(\d+)", line) for line in lines]
    urls = {f"http://127.0.0.1:{found[1]}/v1" for found in ports if found is not None}
    assert {url for found in pools.values() for url in found} == urls and len(pools["chat"]) == 2


def test_an_option_elsewhere_is_refused_with_those_that_can_be_rendered(made_bundle: MadeBundle) -> None:
    with refuses("AW-PLAN-22"):
        made_bundle("startup", "systemd")


@pytest.mark.nightly
def test_systemd_accepts_the_units_and_finds_them_closed(bundle: FileBundle, tmp_path: Path) -> None:
    folder = write_units(bundle, tmp_path)
    assert check_units(folder) == []
    for path in folder.glob("*.service"):
        assert find_exposure(path) < MOST_EXPOSURE, path.name
    open_unit = folder / "archwright-gateway.service"
    kept = [line for line in open_unit.read_text().splitlines() if not re.match("Protect|Restrict|System|Cap", line)]
    open_unit.write_text("\n".join(kept))
    assert find_exposure(open_unit) > MOST_EXPOSURE, "the check can fail"


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("WatchdogSec=", "WatchdogSeconds=", "Unknown key"),
        ("/usr/bin/true", "/opt/missing", "is not executable"),
        ("Restart=always", "Restart=sometimes", "Failed to parse"),
        ("TimeoutStopSec=", "TimeoutStopSec=soon ", "Failed to parse"),
    ],
)
def test_systemd_rejects_a_broken_unit(made_bundle: MadeBundle, tmp_path: Path, old: str, new: str, said: str) -> None:
    folder = write_units(made_bundle("desk", "systemd"), tmp_path)
    unit = folder / "archwright-supervisor.service"
    assert old in unit.read_text()
    unit.write_text(unit.read_text().replace(old, new))
    assert any(said in line for line in check_units(folder))


def write_units(bundle: FileBundle, folder: Path) -> Path:
    """Write the units. Their programs are not installed here; a program of this machine takes their place."""
    for path, one in bundle.files.items():
        if path.startswith(UNITS):
            text = re.sub(r"^(Exec\w+)=/opt/\S+", r"\1=/usr/bin/true", one.text, flags=re.MULTILINE)
            (folder / path.removeprefix(UNITS)).write_text(text)
    return folder


def check_units(folder: Path) -> list[str]:
    """Return what `systemd-analyze verify` says."""
    command = [str(require_program("systemd-analyze")), "verify", "--man=no", *map(str, sorted(folder.iterdir()))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return [line for line in done.stderr.splitlines() if "archwright" in line]


def find_exposure(unit: Path) -> float:
    command = [str(require_program("systemd-analyze")), "security", "--offline=true", "--no-pager", str(unit)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"Overall exposure level for .*: ([\d.]+)", shown)
    assert found is not None, shown
    return float(found[1])


def test_the_documented_removal_covers_every_file_of_the_bundle(bundle: FileBundle) -> None:
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```sh\n(rm -r /etc/archwright .*?)```", page, re.DOTALL)
    removed = [word for line in block.splitlines() if line.startswith("rm ") for word in line.split()[1:]]
    installed = [f"/{path.removeprefix('root/')}" for path in bundle.files if path.startswith("root/")]
    assert len(installed) > 8
    removed.append("/etc/archwright/*")  # `rm -r` of the folder
    left = [path for path in installed if not any(fnmatch(path, pattern) for pattern in removed)]
    assert left == []
