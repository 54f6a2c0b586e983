"""Check the controls that a plan predicts against the running platform, for `reconcile`.

Design: each check asks the platform itself and never reads its configuration files: every guarded route without a key,
the audit chain from its first record, the address of the gateway.
"""

import ipaddress
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import urlsplit

from archwright.access import audit_log
from archwright.contract.evidence import Measurement, Prediction
from archwright.contract.plan import Plan
from archwright.home import Home
from archwright.serving.process.route_table import Route
from archwright.serving.process.routes import ROUTES
from archwright.store import Store

CONTROL_METRIC = "control_held"
TIMEOUT_S = 5.0
# Stands for a name in a path.
PLACEHOLDER_NAME = "x"


class PlatformConnection(NamedTuple):
    """The gateway's URL, the authority of its certificate (None: not TLS), and its records."""

    url: str
    authority: str | None
    store: Store
    home: Home | None = None


class ControlCheckResult(NamedTuple):
    """How many checks passed, of how many, and the evidence."""

    held: int
    checked: int
    evidence: str


def control_measurements(plan: Plan, platform: PlatformConnection, now: float) -> list[Measurement]:
    """Return one measurement per predicted control; a control that cannot be checked now is left out."""
    found = []
    for prediction in plan.predictions:
        check = CHECKS.get(prediction.query.labels.get("control", "")) if prediction.metric == CONTROL_METRIC else None
        proof = check(platform) if check is not None else None
        if proof is not None and proof.checked:
            found.append(_build_measurement(plan, prediction, proof, now))
    return found


def _build_measurement(plan: Plan, prediction: Prediction, proof: ControlCheckResult, now: float) -> Measurement:
    return Measurement(
        plan_digest=plan.digest,
        prediction_id=prediction.id,
        at=now,
        source="supervisor",
        value=proof.held / proof.checked,
        unit=prediction.estimate.unit,
        statistic=prediction.query.statistic,
        samples=proof.checked,
        window_s=prediction.query.window_s,
        evidence=proof.evidence,
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
    request = urllib.request.Request(address, data=body, method=route.method, headers=headers)
    context = ssl.create_default_context(cafile=platform.authority) if platform.authority else None
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(request, timeout=TIMEOUT_S) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def _check_audit(platform: PlatformConnection) -> ControlCheckResult:
    found = audit_log.check_chain(platform.store, platform.home)
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


CHECKS: dict[str, Callable[[PlatformConnection], ControlCheckResult | None]] = {
    "platform.access-keys": _check_keys,
    "platform.audit": _check_audit,
    "platform.tls": _check_encryption,
}
