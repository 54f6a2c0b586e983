"""The result of a run: the gateway as its tester states it, the suite by version and digest, and the cases."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from . import __version__
from .budget_cases import CaseResult

FOLDER = Path(__file__).parent
PASSED = ("ok", "skipped")
NOT_STATED = "not stated"
HEADINGS = ("case", "sent", "answered", "budget", "recorded", "counted", "overspent", "verdict")


@dataclass(frozen=True, kw_only=True)
class GatewayUnderTest:
    """The gateway under test, as the tester states it. `changes`: what differs from its release and its defaults."""

    name: str = ""
    version: str = ""
    command: str = ""
    changes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SuiteIdentity:
    """The suite that ran. `digest`: SHA-256 over the names and the contents of its source files."""

    version: str
    digest: str


@dataclass(frozen=True, kw_only=True)
class ConformanceReport:
    """`price`: as given, in USD per million tokens; `started_at`: in UTC."""

    url: str
    model: str
    price: str
    requests: int
    started_at: str
    gateway: GatewayUnderTest
    suite: SuiteIdentity
    cases: tuple[CaseResult, ...] = ()
    overspent_usd: float = 0.0

    @property
    def failures(self) -> tuple[CaseResult, ...]:
        return tuple(case for case in self.cases if case.verdict not in PASSED)


def identify_suite(folder: Path = FOLDER) -> SuiteIdentity:
    """Return version and digest of the suite in `folder`. Raises OSError if its source files cannot be read."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode())
        digest.update(content)
    return SuiteIdentity(version=__version__, digest=digest.hexdigest())


def describe_setting(report: ConformanceReport) -> Iterator[str]:
    """Yield the lines that say what was tested, and with what."""
    gateway = report.gateway
    yield f"gateway: {gateway.name or NOT_STATED}, version {gateway.version or NOT_STATED}"
    yield f"command: {gateway.command or NOT_STATED}"
    yield f"changes: {'; '.join(gateway.changes) or 'none stated'}"
    yield f"suite: {report.suite.version}, sha256 {report.suite.digest}"
    yield f"run: {report.started_at}, {report.requests} requests, price {report.price} USD per million tokens"


def write_text(report: ConformanceReport) -> str:
    """Return the report as a table, with its notes."""
    rows = [HEADINGS, *(_list_cells(case) for case in report.cases)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    notes = [f"  {case.case}: {case.note}" for case in report.cases if case.note]
    title = f"Budgets of {report.url}, model {report.model}, in USD"
    lines = [title, *describe_setting(report), "", *table, *notes, f"{report.overspent_usd:.6f} USD overspent"]
    return "\n".join(lines)


def _list_cells(case: CaseResult) -> tuple[str, ...]:
    sums = (case.budget_usd, case.recorded_usd, case.counted_usd, case.overspent_usd)
    cells = ("-" if usd is None else f"{usd:.6f}" for usd in sums)
    return (case.case, str(case.sent), str(case.answered), *cells, case.verdict)
