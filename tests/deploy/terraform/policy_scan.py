"""Scans a Terraform plan by checkov. A failed check needs a waiver with owner and expiry in waivers.csv."""

from __future__ import annotations

import csv
import json
import os
import subprocess
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from tests.deploy.tools import require_environment

WAIVERS = Path(__file__).with_name("waivers.csv")
LIMIT_S = 300


@dataclass(frozen=True)
class Finding:
    """A failed check. `resource` is its address in the plan."""

    check: str
    resource: str
    title: str


@dataclass(frozen=True)
class Waiver:
    """Lets one check fail for one kind of resource until `expires`."""

    check: str
    resource: str
    reason: str
    owner: str
    expires: date

    def covers(self, finding: Finding, today: date) -> bool:
        kind = finding.resource.split(".")[0]
        return (self.check, self.resource) == (finding.check, kind) and today <= self.expires


def read_waivers() -> list[Waiver]:
    with WAIVERS.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    return [Waiver(**{**row, "expires": date.fromisoformat(row["expires"])}) for row in rows]  # type: ignore[arg-type]


def scan_plan(plan_json: str, scratch: Path) -> tuple[int, list[Finding]]:
    """Return the number of passed checks and the failed ones, for the output of `terraform show -json`."""
    python = require_environment("checkov")
    path = scratch / "plan.json"
    path.write_text(plan_json, encoding="utf-8")
    words = ["-f", str(path), "--framework", "terraform_plan", "--skip-download", "--compact", "--quiet", "-o", "json"]
    run = subprocess.run(
        [str(python), "-m", "checkov.main", *words],
        env={**os.environ, "LOG_LEVEL": "ERROR"},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert run.stdout.strip(), run.stderr
    report = json.loads(run.stdout)
    report = report[0] if isinstance(report, list) else report
    failed = [
        Finding(one["check_id"], one["resource"], one["check_name"]) for one in report["results"]["failed_checks"]
    ]
    return report["summary"]["passed"], failed


def list_open(findings: list[Finding], today: date) -> list[Finding]:
    """Return the findings without a valid waiver."""
    waivers = read_waivers()
    return [one for one in findings if not any(waiver.covers(one, today) for waiver in waivers)]
