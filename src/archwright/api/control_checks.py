"""Check the controls that a plan predicts against the running platform, for `reconcile`.

Design: each check asks the platform itself and never reads its configuration files: every guarded route without a key,
the audit chain from its first record, the address of the gateway, the data sets and receipts of the home. A check
of residency, labels, retention or erasure without anything to look at has no samples: nothing was shown to hold.
"""

import ipaddress
import ssl
import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from archwright.access import audit_log
from archwright.access.audit_checkpoints import read_audit_start, read_signing_key
from archwright.contract.evidence import Measurement, Prediction
from archwright.contract.plan import Plan
from archwright.errors import DataError
from archwright.home import Home
from archwright.http_client.blocking_client import BlockingClient
from archwright.lake.erasure.receipt import list_receipts, verify_receipt
from archwright.lake.governance.policy import DatasetPolicy, is_inside_residency, read_policy
from archwright.lake.retention import find_expired_versions
from archwright.lake.tables import version_index
from archwright.serving.process.route_table import Route
from archwright.serving.process.routes import ROUTES
from archwright.store import Store

CONTROL_METRIC = "control_held"
TIMEOUT_S = 5.0
# Stands for a name in a path.
PLACEHOLDER_NAME = "x"


class PlatformConnection(NamedTuple):
    """The gateway's URL, the authority of its certificate (None: not TLS), its records, and the country of the home.

    `country`: alpha-2, "" if unknown.
    """

    url: str
    authority: str | None
    store: Store
    home: Home | None = None
    country: str = ""


class ControlCheckResult(NamedTuple):
    """How many checks passed, of how many, and the evidence."""

    held: int
    checked: int
    evidence: str


def control_measurements(plan: Plan, platform: PlatformConnection, now: float) -> list[Measurement]:
    """Return one measurement per predicted control; a control that cannot be checked now is left out.

    A measurement without samples says that there was nothing to check; `reconcile` does not judge it.
    """
    found = []
    for prediction in plan.predictions:
        check = CHECKS.get(prediction.query.labels.get("control", "")) if prediction.metric == CONTROL_METRIC else None
        proof = check(platform) if check is not None else None
        if proof is not None:
            found.append(_build_measurement(plan, prediction, proof, now))
    return found


def _build_measurement(plan: Plan, prediction: Prediction, proof: ControlCheckResult, now: float) -> Measurement:
    share = proof.held / proof.checked if proof.checked else 0.0
    evidence = proof.evidence if proof.checked else f"nothing to check: {proof.evidence}"
    return Measurement(
        plan_digest=plan.digest,
        prediction_id=prediction.id,
        at=now,
        source="supervisor",
        value=share,
        unit=prediction.estimate.unit,
        statistic=prediction.query.statistic,
        samples=proof.checked,
        window_s=prediction.query.window_s,
        evidence=evidence,
    )


def _check_keys(platform: PlatformConnection) -> ControlCheckResult | None:
    """Request every route but the probes without a key. None if the gateway does not answer."""
    guarded = [route for route in ROUTES if route.permission is not None]
    try:
        refused = sum(_request_status(platform, route) == HTTPStatus.UNAUTHORIZED for route in guarded)
    except OSError:
        return None
    evidence = f"{refused} of {len(guarded)} guarded routes answer 401 without a key"
    return ControlCheckResult(refused, len(guarded), evidence)


def _request_status(platform: PlatformConnection, route: Route) -> int:
    """Raises OSError if nothing answers."""
    path = route.path.replace("{}", PLACEHOLDER_NAME) + PLACEHOLDER_NAME * route.tail
    address = f"{platform.url}{path}"
    body, headers = b"{}" if route.method == "POST" else None, {"content-type": "application/json"}
    context = ssl.create_default_context(cafile=platform.authority) if platform.authority else None
    client = BlockingClient(TIMEOUT_S, tls=context)
    return client.send(route.method, address, headers=headers, body=body).status


def _check_audit(platform: PlatformConnection) -> ControlCheckResult:
    start = None
    if platform.home is not None:
        start = read_audit_start(platform.store, platform.home)
    found = audit_log.check_chain(platform.store, platform.home, start=start)
    if found.broken is not None:
        return ControlCheckResult(0, 1, f"archwright audit verify: broken at record {found.broken}")
    return ControlCheckResult(1, 1, f"archwright audit verify: {found.records} records, each linked to its predecessor")


def _check_encryption(platform: PlatformConnection) -> ControlCheckResult:
    """Accept TLS, or an address that only this machine reaches."""
    parts = urlsplit(platform.url)
    host = parts.hostname or ""
    try:
        here = ipaddress.ip_address(host).is_loopback
    except ValueError:
        here = host == "localhost"
    held = parts.scheme == "https" or here
    return ControlCheckResult(int(held), 1, f"the gateway is reached at {parts.scheme}://{host}")


def _check_residency(platform: PlatformConnection) -> ControlCheckResult:
    """Compare the country of the home with the residency of each data set that states one."""
    policies = [policy for policy in _list_policies(platform) if policy.residency]
    outside = sum(not is_inside_residency(platform.country, policy.residency) for policy in policies)
    place = platform.country or "an unknown country"
    evidence = f"{outside} of {len(policies)} data sets lie outside their residency; the home is in {place}"
    return ControlCheckResult(len(policies) - outside, len(policies), evidence)


def _check_labels(platform: PlatformConnection) -> ControlCheckResult:
    policies = _list_policies(platform)
    labelled = sum(bool(policy.classification) for policy in policies)
    evidence = f"{labelled} of {len(policies)} data sets have a classification"
    return ControlCheckResult(labelled, len(policies), evidence)


def _check_retention(platform: PlatformConnection) -> ControlCheckResult:
    limited = {policy.dataset for policy in _list_policies(platform) if policy.retention_days is not None}
    versions = version_index.list_versions(platform.store)
    kept = [version for version in versions if version.dataset in limited and version.dropped_at is None]
    expired = find_expired_versions(platform.store, time.time())
    evidence = f"{len(expired)} of {len(kept)} versions are older than their retention"
    return ControlCheckResult(len(kept) - len(expired), len(kept), evidence)


def _check_erasure(platform: PlatformConnection) -> ControlCheckResult | None:
    """Verify every receipt with the home's own key. None without a home."""
    if platform.home is None:
        return None
    own = read_signing_key(platform.home)
    keys = (own.public_key,) if own is not None else ()
    paths = list_receipts(platform.home)
    proven = sum(_is_erasure_proven(path, keys) for path in paths)
    evidence = f"{proven} of {len(paths)} erasure receipts are signed by this home and prove the erasure"
    return ControlCheckResult(proven, len(paths), evidence)


def _is_erasure_proven(path: Path, keys: tuple[str, ...]) -> bool:
    try:
        return verify_receipt(path, keys).proven
    except DataError:
        return False


def _list_policies(platform: PlatformConnection) -> list[DatasetPolicy]:
    """The policies in force of the data sets that hold a version."""
    versions = version_index.list_newest_versions(platform.store)
    return [read_policy(platform.store, version.dataset) for version in versions if version.dropped_at is None]


CHECKS: dict[str, Callable[[PlatformConnection], ControlCheckResult | None]] = {
    "platform.access-keys": _check_keys,
    "platform.audit": _check_audit,
    "platform.tls": _check_encryption,
    "platform.residency": _check_residency,
    "platform.labels": _check_labels,
    "platform.retention": _check_retention,
    "platform.erasure": _check_erasure,
}
