"""Jobs of the night in bundles: when they start, what stops for them, and that nobody is told about it."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import yaml
from tests.deploy.clusters import read_cluster
from tests.deploy.conftest import MadeBundle
from tests.deploy.object_rules import check_objects, read_objects
from tests.deploy.test_compose import read_compose, run_compose
from tests.deploy.test_systemd import MOST_EXPOSURE, UNITS, check_units, find_exposure, read_units, write_units
from tests.deploy.tools import require_program
from tests.plan.conftest import MACHINE, NOW
from tests.planned import Planned

from archwright.catalog.catalog import Catalog
from archwright.contract.job_window import JobWindow, format_hour
from archwright.contract.needs import Period
from archwright.contract.plan import Plan
from archwright.contract.record import replace
from archwright.deploy.rendering.bundle import FileBundle
from archwright.needs.reader import parse_needs
from archwright.plan.planner import make_plan

OFFICE = Path(__file__).parents[1] / "plan" / "sanity" / "needs" / "office.yaml"
ENGINE, JOB = "archwright-engine-assistant.service", "archwright-job-index.service"
TIMER = "archwright-job-index.timer"


@pytest.fixture(scope="module")
def office(planned: Planned, catalog: Catalog) -> Plan:
    """An office of 25 people: a chat by day and an index each week, on one machine."""
    needs, source = parse_needs(OFFICE.read_bytes(), "needs.yaml", catalog)
    return planned.find(f"sanity {source.digest}", lambda: make_plan(needs, source, catalog, MACHINE, NOW))


def change_window(plan: Plan, **fields: Any) -> Plan:
    """Return the plan with other fields in the window of its choice."""
    option = plan.chosen_option
    assert option is not None
    (window,) = option.windows
    changed = replace(option, windows=(replace(window, **fields),))
    return replace(plan, options=(changed,))


def find_window(plan: Plan) -> JobWindow:
    assert plan.chosen_option is not None
    return plan.chosen_option.windows[0]


def read_timer(bundle: FileBundle, path: str) -> str:
    (calendar,) = re.findall(r"^OnCalendar=(.+)$", bundle.files[path].text, re.MULTILINE)
    return str(calendar)


def test_a_unit_frees_the_accelerator_for_a_job_and_returns_it(office: Plan, made_bundle: MadeBundle) -> None:
    bundle = made_bundle(office, "systemd")
    unit = read_units(bundle)[JOB]
    assert unit.get("ExecStartPre") == f"+/usr/bin/systemctl stop {ENGINE}"
    assert ENGINE in read_units(bundle)
    after = unit.get("ExecStopPost")
    assert "is-active archwright.target && " in after and f"--no-block start {ENGINE}" in after
    assert unit.get("ExecStart") == '/opt/archwright/current/bin/archwright "data" "index" "files"'
    assert unit.seconds("TimeoutStartSec") == find_window(office).lasts_h * 3600
    assert unit.get("User") == "archwright" and unit.get("Type") == "oneshot" and not unit.all("Restart")
    assert unit.get("ProtectSystem") == "strict" and unit.get("NoNewPrivileges") == "yes" and unit.get("MemoryMax")
    assert unit.get("DeviceAllow").startswith("char-nvidia") and "CUDA_VISIBLE_DEVICES=0" in unit.all("Environment")
    assert "WantedBy=timers.target" in bundle.files[f"{UNITS}{TIMER}"].text
    read_me = bundle.files["README.md"].text
    assert "pip install 'archwright[local,lake,predict]==" in read_me
    assert "systemctl enable --now archwright-job-index.timer" in read_me


@pytest.mark.parametrize(
    ("every", "calendar", "cron"),
    [
        ("day", "*-*-* 18:30:00", "30 18 * * *"),
        ("week", "Sat *-*-* 18:30:00", "30 18 * * 6"),
        ("month", "*-*-01 18:30:00", "30 18 1 * *"),
        ("quarter", "*-01,04,07,10-01 18:30:00", "30 18 1 1,4,7,10 *"),
    ],
)
def test_all_clocks_say_the_same(
    office: Plan, made_bundle: MadeBundle, every: Period, calendar: str, cron: str
) -> None:
    plan = change_window(office, every=every, starts_h=18.5)
    for target, path in (("systemd", f"{UNITS}{TIMER}"), ("compose", f"timers/{TIMER}")):
        assert read_timer(made_bundle(plan, target), path) == f"{calendar} Europe/Berlin"
    (job,) = read_objects(made_bundle(plan, "kubernetes").files["jobs/de/index.yaml"].text)
    assert (job["kind"], job["spec"]["schedule"], job["spec"]["timeZone"]) == ("CronJob", cron, "Europe/Berlin")


@pytest.mark.nightly
@pytest.mark.parametrize("every", ["day", "week", "month", "quarter"])
def test_systemd_starts_a_timer_when_its_window_opens(office: Plan, made_bundle: MadeBundle, every: Period) -> None:
    calendar = read_timer(made_bundle(change_window(office, every=every), "systemd"), f"{UNITS}{TIMER}")
    command = [str(require_program("systemd-analyze")), "calendar", "--base-time=2026-12-03 12:00:00 UTC", calendar]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env={"TZ": "UTC", "LC_ALL": "C"})
    found = re.search(r"(?:Next elapse|\(in UTC\)): \w+ (\S+ \S+) UTC", run.stdout)
    assert found is not None, run.stdout
    start = datetime.fromisoformat(found[1]).replace(tzinfo=UTC).astimezone(ZoneInfo("Europe/Berlin"))
    assert format_hour(start.hour + start.minute / 60) == format_hour(find_window(office).starts_h)


def test_a_job_that_runs_once_has_no_clock(office: Plan, made_bundle: MadeBundle) -> None:
    plan = change_window(office, every=None)
    for target, path in (("systemd", f"{UNITS}{TIMER}"), ("compose", f"timers/{TIMER}")):
        bundle = made_bundle(plan, target)
        assert path not in bundle.files and path.replace(".timer", ".service") in bundle.files
        assert "systemctl start archwright-job-index" in bundle.files["README.md"].text
    (job,) = read_objects(made_bundle(plan, "kubernetes").files["jobs/de/index.yaml"].text)
    assert job["kind"] == "Job" and job["spec"]["activeDeadlineSeconds"] == find_window(office).lasts_h * 3600


def test_compose_runs_the_job_in_the_home_of_the_gateway(office: Plan, made_bundle: MadeBundle) -> None:
    bundle = made_bundle(office, "compose")
    services = read_compose(bundle)["services"]
    job, engine = services["job-index"], services["engine-assistant-0"]
    devices = [one["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"] for one in (job, engine)]
    assert devices == [["0"], ["0"]], "both need the accelerator, so the engine stops"
    assert job["profiles"] == ["jobs"] and job["restart"] == "no" and job["entrypoint"][:2] == ["archwright", "data"]
    assert "home:/var/lib/archwright" in job["volumes"] and "home:/var/lib/archwright" in services["gateway"]["volumes"]
    lines = bundle.files[f"timers/{JOB}"].text.splitlines()
    commands = [line for line in lines if line.startswith("Exec")]
    assert commands == [
        "ExecStartPre=/usr/bin/docker compose stop engine-assistant-0",
        "ExecStart=/usr/bin/docker compose run --rm --no-deps --name archwright-job-index job-index",
        "ExecStopPost=-/usr/bin/docker rm --force archwright-job-index",
        "ExecStopPost=/usr/bin/docker compose start engine-assistant-0",
    ]
    assert "archwright[lake,predict]==" in bundle.files["image/Containerfile.jobs"].text
    assert "archwright-jobs" in bundle.pins.images


def find_quota(objects: list[dict[str, Any]], queue: str) -> dict[str, str]:
    queues = {one["metadata"]["name"]: one for one in objects if one["kind"] == "ClusterQueue"}
    (group,) = queues[queue]["spec"]["resourceGroups"]
    (flavor,) = group["flavors"]
    return {one["name"]: str(one["nominalQuota"]) for one in flavor["resources"]}


def test_kueue_stops_the_engine_for_a_job_that_fits_into_its_quota(office: Plan, made_bundle: MadeBundle) -> None:
    bundle = made_bundle(office, "kubernetes")
    objects = read_cluster(bundle, PurePosixPath("overlays/de"))
    (job,) = read_objects(bundle.files["jobs/de/index.yaml"].text)
    assert check_objects([*objects, job]) == []
    run = job["spec"]["jobTemplate"]
    labels = run["metadata"]["labels"]
    engine = next(
        one for one in objects if one["metadata"]["name"] == "engine-assistant" and one["kind"] == "Deployment"
    )
    queue = labels["kueue.x-k8s.io/queue-name"]
    assert queue == engine["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]
    ranks = {one["metadata"]["name"]: one["value"] for one in objects if one["kind"] == "WorkloadPriorityClass"}
    name = "kueue.x-k8s.io/priority-class"
    assert ranks[labels[name]] > ranks[engine["metadata"]["labels"][name]]
    queues = {one["metadata"]["name"]: one["spec"] for one in objects if one["kind"] == "ClusterQueue"}
    assert queues[queue]["preemption"]["withinClusterQueue"] == "LowerPriority"
    (container,) = run["spec"]["template"]["spec"]["containers"]
    quota, asked = find_quota(objects, queue), container["resources"]
    assert int(asked["requests"]["cpu"]) <= int(quota["cpu"])
    assert int(asked["requests"]["memory"].removesuffix("Mi")) <= int(quota["memory"].removesuffix("Mi"))
    assert asked["limits"]["nvidia.com/gpu"] == quota["nvidia.com/gpu"] == "1"
    assert run["spec"]["suspend"] is True, "Kueue starts it"
    assert run["spec"]["activeDeadlineSeconds"] == find_window(office).lasts_h * 3600
    assert job["spec"]["concurrencyPolicy"] == "Forbid"


def test_a_job_beside_engines_asks_for_the_accelerators_that_they_leave(office: Plan, made_bundle: MadeBundle) -> None:
    plan = change_window(office, pauses=(), accelerators=0)
    (job,) = read_objects(made_bundle(plan, "kubernetes").files["jobs/de/index.yaml"].text)
    run = job["spec"]["jobTemplate"]
    assert run["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "jobs"
    (container,) = run["spec"]["template"]["spec"]["containers"]
    assert "nvidia.com/gpu" not in container["resources"]["limits"]
    unit = read_units(made_bundle(plan, "systemd"))[JOB]
    assert not unit.all("ExecStartPre") and unit.get("PrivateDevices") == "yes"


def is_muted(rows: list[dict[str, Any]], at: datetime) -> bool:
    """True if one of the times of Alertmanager contains an instant."""
    for row in rows:
        local = at.astimezone(ZoneInfo(row["location"]))
        now = f"{local:%H:%M}"
        in_time = any(one["start_time"] <= now < one["end_time"] for one in row["times"])
        if in_time and f"{local:%A}".lower() in row["weekdays"]:
            return True
    return False


@pytest.mark.parametrize("target", ["systemd", "compose"])
def test_nobody_is_told_that_an_engine_stops_for_a_job(office: Plan, made_bundle: MadeBundle, target: str) -> None:
    text = made_bundle(office, target).files["monitoring/alertmanager.yml"].text
    config = yaml.load(text, yaml.CSafeLoader)
    (times,) = config["time_intervals"]
    muted = [one for one in config["route"]["routes"] if "mute_time_intervals" in one]
    assert {one["receiver"] for one in muted} == {"page", "ticket"}
    assert all('pool=~"assistant"' in one["matchers"] for one in muted)
    assert all(one["mute_time_intervals"] == [times["name"]] for one in muted)
    places = [config["route"]["routes"].index(one) for one in muted]
    assert max(places) < len(config["route"]["routes"]) - 1, "before the route of all pages"
    zone = ZoneInfo("Europe/Berlin")
    saturday = [datetime(2027, month, day, tzinfo=zone) for month, day in ((1, 2), (7, 3))]
    for day in saturday:
        for hour, expected in ((17, False), (18, True), (23, True)):
            assert is_muted(times["time_intervals"], day.replace(hour=hour)) == expected
        sunday = day.replace(day=day.day + 1)
        for hour, minute, expected in ((0, 0, True), (7, 30, True), (8, 0, False), (18, 0, False)):
            assert is_muted(times["time_intervals"], sunday.replace(hour=hour, minute=minute)) == expected


def test_an_alert_in_the_cluster_waits_while_a_job_runs(office: Plan, made_bundle: MadeBundle) -> None:
    bundle = made_bundle(office, "kubernetes")
    objects = read_objects(bundle.files["base/monitoring.yaml"].text)
    groups = [one["spec"]["groups"][0] for one in objects if one["kind"] == "PrometheusRule"]
    rules = {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"] if "alert" in rule}
    running = 'kube_job_status_active{namespace="archwright-engines",job_name=~"index-.+"}'
    for name in ("EngineDown", "NoReadyReplica"):
        assert running in rules[name].partition(" unless on() ")[2]
    assert not [
        name for name, text in rules.items() if running in text and name not in ("EngineDown", "NoReadyReplica")
    ]
    plain = made_bundle(office, "systemd").files["monitoring/rules/engines.yml"].text
    assert "kube_job" not in plain


def test_a_plan_without_windows_has_no_trace_of_them(made_bundle: MadeBundle) -> None:
    for target in ("systemd", "compose"):
        bundle = made_bundle("desk", target)
        assert not [path for path in bundle.files if "job" in path]
        assert "mute_time_intervals" not in bundle.files["monitoring/alertmanager.yml"].text


@pytest.mark.nightly
def test_systemd_accepts_the_units_of_jobs(office: Plan, made_bundle: MadeBundle, tmp_path: Path) -> None:
    folder = write_units(made_bundle(office, "systemd"), tmp_path)
    assert check_units(folder) == []
    assert find_exposure(folder / JOB) < MOST_EXPOSURE


@pytest.mark.nightly
def test_docker_compose_accepts_the_jobs(office: Plan, made_bundle: Callable[..., FileBundle], tmp_path: Path) -> None:
    bundle = made_bundle(office, "compose")
    (tmp_path / "compose.yaml").write_text(bundle.files["compose.yaml"].text)
    run = run_compose(tmp_path, "--profile", "jobs", "config", "--format", "json")
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["services"]["job-index"]["entrypoint"][-1] == "files"
