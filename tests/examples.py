"""The needs files of the examples folder; `desk` pins the small model, and the built-in template does not."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent.parent / "examples"


def read_example(name: str) -> str:
    return (FOLDER / name / "needs.yaml").read_text(encoding="utf-8")
