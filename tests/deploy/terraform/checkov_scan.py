"""Findings of checkov on a plan of Terraform, and the waivers for them."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import yaml
from tests.deploy.tools import require_environment

WAIVERS = Path(__file__).with_name("waivers.yaml")
LIMIT_S = 300


class Waiver(msgspec.Struct, frozen=True):
    check: str
    target: str
    resource: str
    reason: str
    owner: str
    expires: date

    def covers(self, finding: Finding) -> bool:
        return self.check == finding.check and re.fullmatch(self.resource, finding.resource) is not None


class Finding(NamedTuple):
    check: str
    name: str
    resource: str


def read_waivers(path: Path = WAIVERS) -> tuple[Waiver, ...]:
    return msgspec.convert(yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader), tuple[Waiver, ...])


def judge_findings(
    findings: Sequence[Finding], waivers: Sequence[Waiver], today: date, *, scanned: bool = True
) -> list[str]:
    """Return what is wrong: findings without a waiver, waivers that are expired, and those that nothing needs."""
    wrong = [f"{one.check} {one.name}: {one.resource}" for one in findings if not any(w.covers(one) for w in waivers)]
    wrong += [f"the waiver of {one.check} expired on {one.expires}" for one in waivers if one.expires < today]
    unused = [one for one in waivers if not any(one.covers(finding) for finding in findings)]
    return wrong + [f"nothing needs the waiver of {one.check}" for one in unused if scanned]


def scan_plan(plan: str, scratch: Path) -> list[Finding]:
    """Return the failed checks on a plan (the output of `terraform show -json`). Fails the test if nothing passed."""
    path = scratch / "scan" / "plan.json"
    path.parent.mkdir()
    path.write_text(plan, encoding="utf-8")
    words = ["-m", "checkov.main", "-f", str(path), "--framework", "terraform_plan"]
    run = subprocess.run(
        [require_environment("checkov"), *words, "--skip-download", "--compact", "--quiet", "-o", "json"],
        cwd=path.parent,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert run.stdout, run.stderr
    report: dict[str, Any] = json.loads(run.stdout)
    assert report["summary"]["passed"] > 50, report["summary"]
    return [Finding(one["check_id"], one["check_name"], one["resource"]) for one in report["results"]["failed_checks"]]
