"""Texts of computed lines: each is used, and fills all of its values."""

from __future__ import annotations

from pathlib import Path

from archwright.plan.sections import guidance
from archwright.plan.sections.guidance import fill_line, read_line_templates


def test_every_template_of_a_computed_line_is_used() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in Path(guidance.__file__).parent.glob("*.py"))
    names = {name if not name.startswith("storage.item.") else "storage.item." for name in read_line_templates()}
    assert {name for name in names if f'"{name}"' not in code} == set()


def test_fields_replace_the_texts_of_a_template() -> None:
    line = fill_line("storage.local", {"size": 2.0}, proof="a command")
    assert (line.choice, line.proof) == ("2 GiB on this machine's disk", "a command")
