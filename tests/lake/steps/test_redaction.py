"""Personal data in columns is replaced and counted."""

from __future__ import annotations

from archwright.lake.steps.redaction import Redact

from .step_runner import run_step


def test_redact_counts_every_change() -> None:
    run = run_step(
        Redact(kinds=("email", "ip")),
        a=["a@b.example", "x", None, "call 12 34"],
        b=["203.0.113.9", "c@d.example", "x", None],
    )
    assert run["a"] == ["<EMAIL>", "x", None, "call 12 34"]
    assert run["b"] == ["<IP>", "<EMAIL>", "x", None]
    assert run.changes == {"email": 2, "ip": 1}
    assert not run.dropped
