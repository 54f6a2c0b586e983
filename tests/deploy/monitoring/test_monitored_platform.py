"""The desk's platform with the real small model behind Prometheus and Alertmanager, configured by its own bundle.

Engines run as in containers: llama.cpp's server on a port, with the gateway in front. A page with all panels is left in
the test's folder, as HTML and as a picture.
"""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.deploy.conftest import MadeBundle, MadePlan
from tests.deploy.monitoring.conftest import MadeMonitoring, Monitored
from tests.deploy.monitoring.dashboard_page import draw_page, query
from tests.deploy.monitoring.test_monitored_promtool import write_monitoring
from tests.deploy.monitoring.test_monitored_rules import find_names
from tests.deploy.tools import require_program
from tests.engines.conftest import SMALL_MODEL
from tests.operate.test_installed_server import SERVER, is_up
from tests.tools.checks import WAIT_S, until

from archwright import api
from archwright.api.external_engines import ExternalEngines
from archwright.errors import ArchwrightError
from archwright.home import Home
from archwright.operate.readiness_probe import find_free_port
from archwright.plan.plan_file import write_plan
from archwright.policy.usage_limits import UsageLimits

pytestmark = [pytest.mark.nightly, pytest.mark.enable_socket]
# Traffic before the checks: rates need two scrapes, and alerts some evaluations.
WARM_UP_S = 75.0
# Series that only show when something goes wrong, or that this platform does not have (TLS, a cache).
ABSENT = {"restarts", "tls_expiration", "fallbacks", "retries", "cache_lookups"}
# More than the engine has slots, so that requests wait.
ASKERS = 6


class Receiver(http.server.BaseHTTPRequestHandler):
    """Collects the alerts that Alertmanager posts."""

    alerts: list[dict[str, Any]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        for alert in json.loads(body)["alerts"]:
            self.alerts.append({**alert, "receiver": self.path.strip("/"), "at": time.time()})
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return


@contextmanager
def running(
    *command: str | Path, cwd: Path | None = None, stdin: int | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        list(map(str, command)), cwd=cwd, stdin=stdin, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield process
        finally:
            process.kill()


class Stack:
    """Addresses of the running platform, and the alerts that arrived. `engine` is llama.cpp's process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.alerts: list[dict[str, Any]] = []
        ports = ("engine", "prometheus", "alertmanager", "node")
        self.ports = {name: find_free_port("127.0.0.1") for name in ports}
        self.url = f"http://127.0.0.1:{self.ports['prometheus']}"
        self.started = 0.0
        self.engine: subprocess.Popen[bytes] | None = None

    def list_names(self) -> set[str]:
        return set(query(self.url, "label/__name__/values"))

    def find_alert(self, name: str, status: str = "firing", since: float = 0.0) -> dict[str, Any] | None:
        named = [one for one in self.alerts if one["labels"]["alertname"] == name and one["at"] > since]
        return next((one for one in named if one["status"] == status), None)

    def configure(self, gateway: int, key: str, receiver: int) -> None:
        """Put the addresses of this machine into the bundle's configuration; nothing else is changed."""
        path = self.folder / "prometheus.yml"
        config = yaml.load(path.read_text(), yaml.CSafeLoader)
        own = {
            "prometheus": self.ports["prometheus"],
            "archwright-gateway": gateway,
            "engine-assistant": self.ports["engine"],
            "node-exporter": self.ports["node"],
        }
        for job in config["scrape_configs"]:
            job["static_configs"][0]["targets"] = [f"127.0.0.1:{own.pop(job['job_name'])}"]
            if job["job_name"] == "archwright-gateway":
                job |= {"scheme": "http"}
                del job["tls_config"]
        assert not own
        config["alerting"]["alertmanagers"][0]["static_configs"] = [
            {"targets": [f"127.0.0.1:{self.ports['alertmanager']}"]}
        ]
        path.write_text(yaml.safe_dump(config))
        (self.folder / "secrets" / "gateway-key").write_text(key)
        for name in ("page", "ticket", "dead-man"):
            (self.folder / "secrets" / f"{name}-url").write_text(f"http://127.0.0.1:{receiver}/{name}")


@pytest.fixture(scope="module")
def stack(
    model_home: Home, made_plan: MadePlan, made_bundle: MadeBundle, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("monitoring")
    found = Stack(folder)
    write_monitoring(made_bundle("desk", "compose"), folder)
    write_plan(made_plan("desk"), folder / "plan.json")
    with ExitStack() as running_, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARCHWRIGHT_HOME", str(tmp_path_factory.mktemp("home")))
        model = model_home.model(SMALL_MODEL.sha256)
        port = found.ports["engine"]
        options = (f"--model={model}", "--alias=tiny", f"--port={port}", "--metrics", "--ctx-size=512")
        found.engine = running_.enter_context(running(sys.executable, SERVER, *options, stdin=subprocess.PIPE))
        until(lambda: is_up(port))
        elsewhere = ExternalEngines(engine=[f"assistant=llama-server:http://127.0.0.1:{port}/v1#tiny"])
        platform = running_.enter_context(api.up(str(folder / "plan.json"), detach=True, port=0, elsewhere=elsewhere))
        receiver = type("DeskReceiver", (Receiver,), {"alerts": found.alerts})
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), receiver)
        running_.callback(server.server_close)
        running_.callback(server.shutdown)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        gateway = int(platform.started.url.rpartition(":")[2])
        api.tenant.create("acme")
        api.tenant.limit("acme", limits=UsageLimits(budget_usd=5.0))
        found.configure(gateway, api.key.create(tenant="acme", role="monitor").key, server.server_address[1])
        _start_watchers(found, running_)
        found.started = time.time()
        stop = threading.Event()
        for _ in range(ASKERS):
            asking = threading.Thread(target=_ask, args=(stop,), daemon=True)
            asking.start()
            running_.callback(asking.join)
        running_.callback(stop.set)
        time.sleep(WARM_UP_S)
        yield found


def _ask(stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            list(api.ask("Name a river in France.", max_tokens=12))
        except ArchwrightError:  # a test kills the engine
            stop.wait(1)


def _start_watchers(found: Stack, running_: ExitStack) -> None:
    ports, folder = found.ports, found.folder
    node = require_program("prometheus-node-exporter")
    running_.enter_context(running(node, f"--web.listen-address=127.0.0.1:{ports['node']}"))
    alertmanager = require_program("prometheus-alertmanager")
    address = f"--web.listen-address=127.0.0.1:{ports['alertmanager']}"
    options = ("--config.file=alertmanager.yml", "--storage.path=alertmanager", "--cluster.listen-address=")
    running_.enter_context(running(alertmanager, address, *options, cwd=folder))
    prometheus = require_program("prometheus")
    address = f"--web.listen-address=127.0.0.1:{ports['prometheus']}"
    stored = ("--config.file=prometheus.yml", "--storage.tsdb.path=data")
    running_.enter_context(running(prometheus, address, *stored, cwd=folder))


@pytest.fixture(scope="module")
def made(monitored: MadeMonitoring) -> Monitored:
    return monitored("desk", "compose")


def list_series(panel: dict[str, Any]) -> set[str]:
    return {name for target in panel["targets"] for name in find_names(target["expr"])}


def list_absent(made: Monitored) -> set[str]:
    return {made.scope["m"][name] for name in ABSENT}  # type: ignore[index]


def test_every_series_exists_on_the_running_platform(stack: Stack, made: Monitored) -> None:
    names = stack.list_names()
    needed = {name for rule in made.rules for name in find_names(rule["expr"])}
    needed |= {name for panel in made.panels for name in list_series(panel)}
    assert needed - names <= list_absent(made)
    health = query(stack.url, "rules")["groups"]
    assert [rule["name"] for group in health for rule in group["rules"] if rule["health"] != "ok"] == []
    up = {one["labels"]["job"]: one["health"] for one in query(stack.url, "targets")["activeTargets"]}
    assert set(up.values()) == {"up"} and len(up) == 4, up


def test_every_panel_has_data_and_is_drawn(stack: Stack, made: Monitored, tmp_path: Path) -> None:
    dashboards = [one.model for one in made.monitoring.dashboards]
    page, empty = draw_page(stack.url, dashboards, stack.started, time.time())
    kept = Path(os.environ.get("ARCHWRIGHT_PICTURES", tmp_path))
    (kept / "dashboards.html").write_text(page)
    series = {panel["title"]: list_series(panel) for panel in made.panels}
    assert [title for title in empty if not series[title] & list_absent(made)] == []
    chromium = require_program("chromium")
    options = ("--headless", "--no-sandbox", "--hide-scrollbars", "--window-size=1320,6200")
    picture = kept / "dashboards.png"
    command = [str(chromium), *options, f"--screenshot={picture}", f"file://{kept / 'dashboards.html'}"]
    subprocess.run(command, check=True, capture_output=True, timeout=5 * WAIT_S)
    assert picture.stat().st_size > 50_000


def test_a_killed_engine_reaches_the_receiver_of_pages(stack: Stack) -> None:
    assert stack.find_alert("DeadMan") is not None and stack.find_alert("EngineDown") is None
    assert stack.engine is not None
    stack.engine.kill()
    until(lambda: stack.find_alert("EngineDown"), 5 * WAIT_S)
    found = stack.find_alert("EngineDown")
    assert found is not None and found["receiver"] == "page"
    assert found["labels"]["pool"] == "assistant"
    assert found["annotations"].keys() >= {"summary", "reason", "runbook"}
