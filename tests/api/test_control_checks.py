"""The checks of predicted controls against the running platform."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from archwright.access.audit_log import AuditEvent, AuditLog
from archwright.api.control_checks import CHECKS, PlatformConnection, control_measurements
from archwright.catalog.load import load_catalog
from archwright.catalog.tables.guidance_rows import read_features
from archwright.contract.evidence import Control, Measurement
from archwright.contract.plan import Plan
from archwright.contract.record import replace
from archwright.home import Home
from archwright.lake.erasure.file_scan import ScanResult
from archwright.lake.erasure.receipt import ErasureReceipt, FoundPlace, receipt_path, sign_receipt
from archwright.lake.governance.policy import DatasetPolicy, append_policy
from archwright.lake.tables import version_index
from archwright.monitor.wal import writer as wal_writer
from archwright.monitor.wal.compaction import BLOCKS
from archwright.needs.reader import parse_needs
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.evidence.controls import list_controls, predict_controls
from archwright.reconcile.deviations import reconcile_plan, select_measurements
from archwright.serving.process.routes import ROUTES
from archwright.store import Store

from ..examples import read_example
from ..tools.dataset_versions import VERSION

RECEIPT = ErasureReceipt(
    id="erasure-0123456789abcdef",
    at=1.0,
    program="archwright",
    subject="0" * 64,
    found=(FoundPlace(store="table", place="notes@v1", count=1),),
    before={},
    after={},
    models=(),
    proven=True,
    scan=ScanResult(files=1, decoded=1, size_bytes=1, hits=(), not_proven=()),
)
GUARDED = [route for route in ROUTES if route.permission is not None]
HERE = "http://127.0.0.1:1"


class Gateway(BaseHTTPRequestHandler):
    """A gateway that answers 401, and 200 on `open_paths`."""

    open_paths: frozenset[str] = frozenset()
    asked: list[tuple[str, str, str | None]] = []

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self.asked.append((self.command, self.path, self.headers.get("authorization")))
        self.send_response(200 if self.path in self.open_paths else 401)
        self.send_header("content-length", "0")
        self.end_headers()

    do_POST = do_DELETE = do_GET

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        return None


@pytest.fixture
def gateway(socket_enabled: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(Gateway, "asked", [])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Gateway)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(f"sqlite:///{tmp_path / 'records.sqlite'}")
    yield made
    made.close()


@pytest.fixture
def plan(null_plan: Plan) -> Plan:
    ledger = PlanProvenance()
    controls = tuple(
        Control(
            id=name, demanded_by="archwright", demand="d", feature="f", evidence="e", status="built-in", checks=(name,)
        )
        for name in CHECKS
    )
    promised = predict_controls(controls, null_plan.options[0], ledger)
    return replace(null_plan, controls=controls, predictions=promised, bases=ledger.collect_bases(promised))


def measured(plan: Plan, platform: PlatformConnection) -> dict[str, Measurement]:
    found = control_measurements(plan, platform, 1000.0)
    return {measurement.prediction_id.removesuffix(".held"): measurement for measurement in found}


def test_every_prediction_has_an_address_to_measure_it(plan: Plan) -> None:
    assert {feature.check for feature in read_features() if feature.check} == set(CHECKS)
    assert {prediction.query.labels["control"] for prediction in plan.predictions} == set(CHECKS)
    assert {prediction.estimate.basis for prediction in plan.predictions} == {basis.id for basis in plan.bases}
    assert all(prediction.estimate.low == prediction.estimate.high == 1.0 for prediction in plan.predictions)


def test_nothing_is_predicted_without_a_platform_of_ours(plan: Plan) -> None:
    away = replace(plan.options[0], placement="cloud")
    assert (
        predict_controls(plan.controls, away, PlanProvenance())
        == predict_controls(plan.controls, None, PlanProvenance())
        == ()
    )


@pytest.mark.process
def test_every_guarded_route_is_asked_without_a_key(plan: Plan, gateway: str, store: Store) -> None:
    keys = measured(plan, PlatformConnection(gateway, None, store))["platform.access-keys"]
    assert (keys.value, keys.samples, keys.unit) == (1.0, len(GUARDED), "share")
    assert {(method, path) for method, path, _ in Gateway.asked} == {
        (route.method, route.template.replace("{}", "x")) for route in GUARDED
    }
    assert {key for _, _, key in Gateway.asked} == {None}


@pytest.mark.process
def test_one_open_route_fails_the_control(
    plan: Plan, gateway: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Gateway, "open_paths", frozenset({"/metrics"}))
    found = control_measurements(plan, PlatformConnection(gateway, None, store), 1000.0)
    deviations = {
        deviation.prediction_id: deviation for deviation in reconcile_plan(plan, select_measurements(found)).deviations
    }
    keys = deviations["platform.access-keys.held"]
    assert keys.verdict == "worse" and keys.measured is not None
    assert keys.measured.value == pytest.approx((len(GUARDED) - 1) / len(GUARDED))
    assert keys.measured.samples == len(GUARDED) and keys.measured.statistic == "mean"
    assert keys.evidence == f"{len(GUARDED) - 1} of {len(GUARDED)} guarded routes answer 401 without a key"
    assert deviations["platform.audit.held"].verdict == deviations["platform.tls.held"].verdict == "within"


@pytest.mark.process
def test_a_gateway_that_does_not_answer_proves_nothing(plan: Plan, store: Store, socket_enabled: None) -> None:
    found = measured(plan, PlatformConnection(HERE, None, store))
    assert "platform.access-keys" not in found


@pytest.mark.process
def test_a_platform_without_data_sets_and_receipts_shows_nothing(
    plan: Plan, home: Home, store: Store, socket_enabled: None
) -> None:
    found = measured(plan, PlatformConnection(HERE, None, store, home, "DE"))
    data_controls = {"platform.residency", "platform.labels", "platform.retention", "platform.erasure"}
    assert {name for name, measurement in found.items() if not measurement.samples} == data_controls
    reconciled = reconcile_plan(plan, {measurement.prediction_id: measurement for measurement in found.values()})
    deviations = {deviation.prediction_id.removesuffix(".held"): deviation for deviation in reconciled.deviations}
    for name in data_controls:
        assert (deviations[name].measured, deviations[name].verdict) == (None, "unknown"), name
        assert deviations[name].evidence.startswith("nothing to check: 0 of 0 "), name


def deny(number: int) -> AuditEvent:
    return AuditEvent(
        at=float(number), tenant="t", key_id="k", action="a", permission="p", effect="deny", resource=str(number)
    )


@pytest.mark.process
def test_a_record_put_in_breaks_the_audit(plan: Plan, store: Store, home: Home, socket_enabled: None) -> None:
    ledger = wal_writer.WalWriter(store, home)
    log = AuditLog(ledger)
    for number in range(3):
        log.record(deny(number))
        ledger.flush()
        ledger.compact()
    whole = measured(plan, PlatformConnection(HERE, None, store, home))["platform.audit"]
    ledger.close()
    assert whole.value == 1.0 and "3 records" in whole.evidence
    row = store.rows(BLOCKS["audit"])[1]
    store.append(BLOCKS["audit"], [replace(row, number=7)])
    broken = measured(plan, PlatformConnection(HERE, None, store))["platform.audit"]
    assert broken.value == 0.0 and "broken at record 4" in broken.evidence


@pytest.mark.parametrize(
    ("url", "held"),
    [
        ("http://127.0.0.1:8470", 1.0),
        ("http://[::1]:8470", 1.0),
        ("http://localhost:8470", 1.0),
        ("https://10.0.0.1:8470", 1.0),
        ("http://10.0.0.1:8470", 0.0),
        ("http://gateway.example.org:8470", 0.0),
    ],
)
def test_in_the_clear_only_on_the_loopback_address(url: str, held: float, store: Store) -> None:
    proof = CHECKS["platform.tls"](PlatformConnection(url, None, store))
    assert proof is not None and proof.held / proof.checked == held


class Platform:
    """A home and a gateway, of which each fixture makes one control hold or fail."""

    def __init__(self, home: Home, store: Store, gateway: str) -> None:
        self.home, self.store, self.gateway, self.url, self.country = home, store, gateway, gateway, "DE"

    def connect(self) -> PlatformConnection:
        return PlatformConnection(self.url, None, self.store, self.home, self.country)

    def add_version(self, policy: DatasetPolicy, at: float) -> None:
        append_policy(self.store, policy)
        version = replace(VERSION, id=f"{policy.dataset}@v1", dataset=policy.dataset, at=at)
        self.store.append(version_index.VERSIONS, [version])


def hold_keys(platform: Platform) -> None: ...


def break_keys(platform: Platform) -> None:
    Gateway.open_paths = frozenset({"/metrics"})


def write_audit(platform: Platform) -> None:
    ledger = wal_writer.WalWriter(platform.store, platform.home)
    log = AuditLog(ledger)
    for number in range(3):
        log.record(deny(number))
        ledger.flush()
        ledger.compact()
    ledger.close()


def break_audit(platform: Platform) -> None:
    write_audit(platform)
    row = platform.store.rows(BLOCKS["audit"])[1]
    platform.store.append(BLOCKS["audit"], [replace(row, number=7)])


def break_tls(platform: Platform) -> None:
    platform.url = "http://10.0.0.1:8470"


def hold_residency(platform: Platform) -> None:
    platform.add_version(DatasetPolicy(dataset="notes", residency=("DE", "FR")), time.time())


def break_residency(platform: Platform) -> None:
    hold_residency(platform)
    platform.country = "US"


def hold_labels(platform: Platform) -> None:
    platform.add_version(DatasetPolicy(dataset="notes", classification="restricted"), time.time())


def break_labels(platform: Platform) -> None:
    hold_labels(platform)
    platform.add_version(DatasetPolicy(dataset="other"), time.time())


def hold_retention(platform: Platform) -> None:
    platform.add_version(DatasetPolicy(dataset="notes", retention_days=30), time.time())


def break_retention(platform: Platform) -> None:
    hold_retention(platform)
    platform.add_version(DatasetPolicy(dataset="old", retention_days=30), time.time() - 31 * 86_400)


def hold_erasure(platform: Platform) -> None:
    platform.home.folder("lake", "erasures")
    sign_receipt(platform.home, RECEIPT)


def break_erasure(platform: Platform) -> None:
    hold_erasure(platform)
    path = receipt_path(platform.home, RECEIPT.id)
    path.write_text(path.read_text().replace('"rows":1', '"rows":0').replace('"count": 1', '"count": 0'))


Fixture = Callable[[Platform], None]
# Of each check: a platform on which it passes, and one on which it fails.
FIXTURES: dict[str, tuple[Fixture, Fixture]] = {
    "platform.access-keys": (hold_keys, break_keys),
    "platform.audit": (write_audit, break_audit),
    "platform.tls": (hold_keys, break_tls),
    "platform.residency": (hold_residency, break_residency),
    "platform.labels": (hold_labels, break_labels),
    "platform.retention": (hold_retention, break_retention),
    "platform.erasure": (hold_erasure, break_erasure),
}


@pytest.mark.process
@pytest.mark.parametrize("name", CHECKS)
def test_each_check_passes_on_one_platform_and_fails_on_another(
    tmp_path: Path, name: str, gateway: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Gateway, "open_paths", frozenset())
    for number, (fixture, holds) in enumerate(zip(FIXTURES[name], (True, False), strict=True)):
        home = Home(tmp_path / f"home{number}")
        home.folder()
        with closing(Store(home.store_url)) as store:
            platform = Platform(home, store, gateway)
            fixture(platform)
            result = CHECKS[name](platform.connect())
        assert result is not None and result.checked > 0
        assert (result.held == result.checked) is holds, result.evidence


def test_an_unproven_erasure_fails_its_check(home: Home, store: Store) -> None:
    home.folder("lake", "erasures")
    sign_receipt(home, replace(RECEIPT, proven=False))
    result = CHECKS["platform.erasure"](PlatformConnection(HERE, None, store, home))
    assert result is not None and (result.held, result.checked) == (0, 1)


def test_no_regulation_claims_more_than_a_check_can_show() -> None:
    """A control that claims to be built in names its checks, each with a failing fixture; all others are tasks."""
    assert FIXTURES.keys() == CHECKS.keys()
    catalog = load_catalog()
    clinic, _source = parse_needs(read_example("clinic").encode(), "needs.yaml", catalog)
    needs = replace(clinic, regulations=tuple(catalog.regulations))
    controls = list_controls(needs, catalog, PlanProvenance())
    assert len(controls) == 4 + sum(len(one.controls) for one in catalog.regulations.values())
    for control in controls:
        claims = control.status in ("built-in", "configured")
        assert claims is bool(control.checks) is not control.is_task, control.id
        assert set(control.checks) <= FIXTURES.keys(), control.id
        assert control.owner, control.id
        assert control.missing or control.evidence, control.id


def test_other_predictions_are_left_alone(null_plan: Plan, store: Store) -> None:
    assert control_measurements(null_plan, PlatformConnection(HERE, None, store), 1.0) == []
