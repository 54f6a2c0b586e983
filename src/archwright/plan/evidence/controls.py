"""What regulations demand, and honestly which of it this release does.

A regulation's row says which feature answers a demand. The features that exist today are rows of guidance, by the
words the regulations' rows use; registers, templates and policies are organisational; all else comes later and says so.

Controls that a running platform can be asked about are promises as well: `reconcile` asks, and the share of the
questions that it answered as it should is held against 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.guidance_rows import read_features
from archwright.contract.estimate import exact_estimate
from archwright.contract.evidence import Control, Prediction, Query
from archwright.contract.needs import Needs, Placement
from archwright.contract.plan import Option
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.demand.data_residency import UNRESTRICTED

ControlStatus = Literal["built-in", "configured", "organisational", "later"]

# What `reconcile` asks the running platform, by control.
CHECKED_CONTROLS: dict[str, str] = {
    "platform.access-keys": "share of the guarded routes that refuse a request without a key",
    "platform.audit": "1 when every record of the audit fits the one before it, else 0",
    "platform.tls": "1 when the gateway is reached over TLS or on the loopback address alone, else 0",
}
PLATFORM = "platform"
CHECKED_PLACEMENT: Placement = "this-machine"
CHECK_WINDOW_S = 60.0
ORGANISATIONAL_PATTERN = re.compile(r"register|template|checklist|policy|assessment|contract", re.IGNORECASE)
SLUG_PATTERN = re.compile(r"[^a-z0-9]+")


def list_controls(needs: Needs, catalog: Catalog, ledger: PlanProvenance) -> tuple[Control, ...]:
    """Our own controls first, then each regulation's in the order of its text."""
    found = [*_list_default_controls(needs)]
    for name in needs.regulations:
        for rule in catalog.regulations[name].controls:
            status, evidence = _assess_feature(rule.feature)
            found.append(
                Control(
                    id=f"{name}.{SLUG_PATTERN.sub('-', rule.clause.lower()).strip('-')}",
                    demanded_by=f"{name} {rule.clause}",
                    demand=rule.demand,
                    feature=rule.feature,
                    evidence=evidence or rule.evidence or "",
                    status=status,
                )
            )
    later = sum(control.status == "later" for control in found)
    if later:
        ledger.add_not_sized(f"controls: {later} of {len(found)} demanded controls come with a later release")
    return tuple(found)


def _assess_feature(feature: str) -> tuple[ControlStatus, str]:
    """Done only when every part of the feature is; one missing part makes the whole demand wait."""
    parts = [part.strip() for part in feature.lower().split(",")]
    matches = [_match_feature(part) for part in parts]
    if all(matches):
        done = [match for match in matches if match]
        configured = any(status == "configured" for status, _ in done)
        return ("configured" if configured else "built-in"), "; ".join(dict.fromkeys(proof for _, proof in done))
    return ("organisational" if ORGANISATIONAL_PATTERN.search(feature) else "later"), ""


def _match_feature(part: str) -> tuple[str, str] | None:
    return next(((one.status, one.proof) for one in read_features() if re.fullmatch(one.words, part)), None)


def predict_controls(
    controls: Iterable[Control], option: Option | None, ledger: PlanProvenance
) -> tuple[Prediction, ...]:
    """One promise for each control that `reconcile` can ask the platform about: all of its checks hold. None where
    this release does not bring a platform up itself: nothing would answer.
    """
    if option is None or option.placement != CHECKED_PLACEMENT:
        return ()
    return tuple(
        Prediction(
            id=f"{control.id}.held",
            metric="control_held",
            workload=PLATFORM,
            estimate=exact_estimate(
                1.0, "share", ledger.create_basis(f"control.{control.id}", "formula", CHECKED_CONTROLS[control.id])
            ),
            query=Query(
                metric="control_held", labels={"control": control.id}, statistic="mean", window_s=CHECK_WINDOW_S
            ),
        )
        for control in controls
        if control.id in CHECKED_CONTROLS
    )


def _list_default_controls(needs: Needs) -> list[Control]:
    """Held by every plan, demanded or not."""
    kept = [
        Control(
            id="platform.access-keys",
            demanded_by="archwright",
            demand="every request is made by somebody known",
            feature="a key per caller, a permission per route",
            evidence="a request without a key answers 401; archwright reconcile asks every guarded route",
            status="built-in",
        ),
        Control(
            id="platform.audit",
            demanded_by="archwright",
            demand="every access decision leaves a record",
            feature="append-only audit with a hash chain",
            evidence="archwright audit verify: the chain is whole",
            status="built-in",
        ),
        Control(
            id="platform.tls",
            demanded_by="archwright",
            demand="no prompt crosses a network in the clear",
            feature="loopback only, unless a TLS certificate is configured",
            evidence="the gateway refuses another address without TLS",
            status="configured",
        ),
    ]
    places = sorted({place for data in needs.data for place in data.residency if place != UNRESTRICTED})
    if places:
        kept.append(
            Control(
                id="needs.residency",
                demanded_by="needs: data residency",
                demand=f"data stays in {', '.join(places)}",
                feature="residency is a hard constraint of every option",
                evidence="regions of the options in plan.json",
                status="built-in",
            )
        )
    return kept
