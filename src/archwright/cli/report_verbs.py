"""The verb that writes documents."""

from __future__ import annotations

from archwright.cli.grammar import Arg, Verb

REPORT_VERBS: tuple[Verb, ...] = (
    Verb(
        ("report",),
        "report",
        "write a plan as one document for business and engineers",
        (
            Arg("plan", "a plan.json", positional=True, required=True),
            Arg("output", "file to write: .html, .pdf or .xlsx", required=True, short="-o", metavar="FILE"),
        ),
        "path",
    ),
)
