"""Files broken in form: encoding, YAML, types. Each error names file, line and field."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest

from archwright.errors import NeedsError
from archwright.needs.template import read_template

DESK, STARTUP, CLINIC, PLANT = (read_template(name) for name in ("desk", "startup", "clinic", "manufacturer"))


class Broken(NamedTuple):
    """A file, and the answer that is due."""

    data: bytes
    code: int
    line: int | None
    field: str | None
    part: str
    nearest: str = ""


def whole(text: str | bytes, code: int, line: int | None, field: str | None, part: str) -> Broken:
    return Broken(text if isinstance(text, bytes) else text.encode(), code, line, field, part)


def edit(old: str, new: str, answer: tuple[int, int, str, str], nearest: str = "", file: str = DESK) -> Broken:
    """A good file with one place changed."""
    assert old in file, old
    code, line, field, part = answer
    return Broken(file.replace(old, new, 1).encode(), code, line, field, part, nearest)


BOMB = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))

FORM: dict[str, Broken] = {
    "empty": whole("", 7, 1, None, "empty"),
    "only a comment": whole("# nothing\n", 7, 1, None, "empty"),
    "only a marker": whole("---\n", 7, 1, None, "empty"),
    "a list": whole("- version: 1\n", 7, 1, None, "not a mapping"),
    "a scalar": whole("version 1\n", 7, 1, None, "not a mapping"),
    "not UTF-8": whole(b"version: 1\norganisation: {name: M\xfcller}\n", 3, 2, None, "byte 0xfc"),
    "UTF-16": whole("version: 1\n".encode("utf-16"), 3, 1, None, "UTF-8"),
    "NUL": whole("version: 1\nname: a\0b\n", 3, 2, None, "U+0000"),
    "escape character": whole("version: 1\r\nname: a\x1b[31m\r\n", 3, 2, None, "U+001B"),
    "escape character, written out": edit("Desk", '"\\e[31mred"', (13, 3, "organisation.name", "U+001B")),
    "text that turns round": edit("name: Desk", "name: a\u202eb", (13, 3, "organisation.name", "U+202E")),
    "second byte order mark": whole(b"\xef\xbb\xbf\xef\xbb\xbfversion: 1\n", 3, 1, None, "U+FEFF"),
    "too large": whole("#" * (256 * 1024 + 1), 2, None, None, "262,145 bytes"),
    "open bracket": whole("version: 1\nworkloads: [\n", 4, 3, "workloads[0]", "not YAML"),
    "tab for indentation": whole("version: 1\nbudget:\n\tcurrency: EUR\n", 4, 3, "budget", "not YAML"),
    "colon too many": whole("version: 1\nbudget: currency: EUR\n", 4, 2, None, "mapping values"),
    "unclosed quote": whole('version: 1\nbudget: "EUR\n', 4, 3, "budget", "not YAML"),
    "alias bomb": whole(BOMB, 5, 1, "a", "anchors"),
    "alias": whole("version: 1\nbudget: *money\n", 5, 2, "budget", "aliases"),
    "merge key": whole("version: 1\nbudget:\n  <<: {a: 1}\n", 5, 3, "budget", "merge keys"),
    "Python tag": whole("version: 1\nbudget: !!python/object:os.system x\n", 5, 2, "budget", "tags"),
    "text tag": whole("version: !!str 1\n", 5, 1, "version", "tags"),
    "bare tag": whole("version: ! 1\n", 5, 1, "version", "tags"),
    "tagged list": whole("version: 1\nworkloads: !x\n  - a\n", 5, 2, "workloads", "tags"),
    "tag directive": whole("%TAG !e! tag:x,2000:\n---\nversion: 1\n", 5, 1, None, "%TAG"),
    "two documents": whole(DESK + "---\nversion: 1\n", 5, 21, None, "more than one"),
    "number as field name": whole("1: 2\n", 5, 1, None, '"1" is not a text'),
    "list as field name": whole("[a]: 2\n", 5, 1, None, "a list or a mapping"),
    "mapping as field name": whole("? {a: 1}\n: 2\n", 5, 1, None, "a list or a mapping"),
    "null as field name": whole("~: 2\n", 5, 1, None, "is not a text"),
    "empty field name": whole('"": 2\n', 13, 1, None, "not usable"),
    "long field name": whole("a" * 200 + ": 2\n", 13, 1, None, "not usable"),
    "escape in a field name": whole('"\\e[2J": 2\n', 13, 1, None, "\\u001b[2J"),
    "duplicate key": edit("kind: chat", "kind: chat\n    kind: rag", (6, 9, "workloads[0].kind", "first is on line 8")),
    "duplicate at the top": whole(DESK + "version: 1\n", 6, 21, "version", "first is on line 2"),
    "duplicate in braces": edit(
        "mean: 0.1,",
        "mean: 0.1, mean: 0.2,",
        (6, 11, "workloads[0].traffic.requests_per_second.mean", "second time"),
    ),
    "duplicate by another spelling": edit("version: 1", 'version: 1\n"version": 1', (6, 3, "version", "second time")),
    "5,000 brackets": whole("version: 1\nworkloads: " + "[" * 5000, 5, 2, "workloads[0]", "nested too deeply"),
    "5,000 closed brackets": whole("a: " + "[" * 5000 + "]" * 5000, 5, 1, "a[0]", "nested too deeply"),
    "5,000 braces": whole("{a: " * 5000, 5, 1, ".".join(["a"] * 32), "nested too deeply"),
    "5,000 dashes": whole("- " * 5000, 5, 1, "[0]" * 32, "nested too deeply"),
    "500 indented levels": whole("".join(" " * n + "a:\n" for n in range(500)), 5, 33, ".".join(["a"] * 32), "nested"),
    "100,000 keys": whole("{" + ",".join(f"{n:05}:" for n in range(100_000)) + "}", 2, None, None, "bytes"),
    "many keys": whole("\n".join(f"k{n}: " for n in range(20_000)), 2, 10_000, "k9999", "20000 entries"),
    "many items": whole("a: [" + "x," * 130_000 + "]", 2, 1, "a[19997]", "20000 entries"),
    "long scalar": edit("name: Desk", f"name: {'x' * 250_000}", (13, 3, "organisation.name", "250,000 characters")),
    "long quoted scalar": edit(
        "name: Desk", f'name: "{"x " * 120_000}"', (13, 3, "organisation.name", "240,000 characters")
    ),
}

TYPES: dict[str, Broken] = {
    "unknown field at the top": edit("budget:", "budgett:", (8, 20, "budgett", '"budgett"'), "budget"),
    "unknown field of a workload": edit("    model:", "    modle:", (8, 9, "workloads[0].modle", "no field"), "model"),
    "unknown field in braces": edit(
        "ttft_p95_s:", "tft_p95_s:", (8, 14, "workloads[0].slo.tft_p95_s", "no field"), "ttft_p95_s"
    ),
    "unknown field unlike any": edit("version: 1", "version: 1\nzzz: 1", (8, 3, "zzz", "no field")),
    "no version": edit("version: 1\n", "", (9, 2, "version", "version is missing")),
    "no organisation": whole(
        "version: 1\nworkloads: []\nbudget: {currency: EUR, horizon_months: 1}", 9, 1, "organisation", "missing"
    ),
    "no country": edit("country: DE, ", "", (9, 3, "organisation.country", "missing")),
    "no budget": whole(DESK[: DESK.index("budget:")], 9, 2, "budget", "budget is missing"),
    "no kind": edit("    kind: chat\n", "", (9, 7, "workloads[0].kind", "kind is missing")),
    "no peak": edit(", peak: 0.3", "", (9, 11, "workloads[0].traffic.requests_per_second.peak", "missing")),
    "version 2": edit("version: 1", "version: 2", (11, 2, "version", "cannot be the number 2")),
    "version true": edit("version: 1", "version: true", (11, 2, "version", "cannot be true")),
    "version as text": edit("version: 1", 'version: "1"', (11, 2, "version", 'the text "1"')),
    "unknown kind": edit("kind: chat", "kind: chta", (11, 8, "workloads[0].kind", '"chta"'), "chat"),
    "kind a list": edit("kind: chat", "kind: [chat]", (11, 8, "workloads[0].kind", "a list")),
    "unknown sensitivity": edit("personal", "persona", (11, 17, "data[0].sensitivity", "persona"), "personal"),
    "unknown placement": edit(
        "[this-machine]", "[this-machin]", (11, 19, "placement.allow[0]", "this-machin"), "this-machine"
    ),
    "text for a number": edit("size_gib: 0.1", 'size_gib: "0.1"', (10, 17, "data[0].size_gib", "must be a number")),
    "number with underscore": edit("per_month: 60", "per_month: 60_000", (10, 20, "budget.per_month", '"60_000"')),
    "number with unit": edit("size_gib: 0.1", "size_gib: 10 GiB", (10, 17, "data[0].size_gib", '"10 GiB"')),
    "truth for a number": edit("size_gib: 0.1", "size_gib: true", (10, 17, "data[0].size_gib", "not true")),
    "number for a text": edit("name: Desk", "name: 12", (10, 3, "organisation.name", "must be a text")),
    "truth for a text": edit("name: Desk", "name: false", (10, 3, "organisation.name", "not false")),
    "list for a mapping": edit(
        "budget: {currency: EUR, per_month: 60, horizon_months: 36}",
        "budget: [1]",
        (10, 20, "budget", "must be a mapping"),
    ),
    "mapping for a list": edit(
        "workloads:\n  - name", "workloads:\n    name", (10, 6, "workloads", "must be a list, not a mapping")
    ),
    "number for a mapping": edit(
        "{mean: 0.1, peak: 0.3}", "3", (10, 11, "workloads[0].traffic.requests_per_second", "(mean, peak)")
    ),
    "text for a list": edit("data: [notes]", "data: notes", (10, 15, "workloads[0].data", "must be a list")),
    "yes is a text": edit("allow: [this-machine]", "spot: yes", (10, 19, "placement.spot", '"yes"')),
    "empty mapping": edit(
        "slo: {ttft_p95_s: 8.0, tpot_p95_s: 0.15, availability: 0.99}",
        "slo:",
        (10, 14, "workloads[0].slo", "not empty"),
    ),
    "empty text": edit("name: Desk,", "name: ,", (10, 3, "organisation.name", "not empty")),
    "quality as a number": edit(
        "quality: {mmlu_pro: 0.45}", "quality: 0.45", (10, 9, "workloads[0].quality", "a mapping"), "", STARTUP
    ),
    "half a month": edit(
        "horizon_months: 36", "horizon_months: 36.5", (10, 20, "budget.horizon_months", "a whole number")
    ),
}

BROKEN = {**FORM, **TYPES}


@pytest.mark.parametrize("name", list(BROKEN))
def test_broken_file(name: str, refused: Callable[[bytes], NeedsError]) -> None:
    case = BROKEN[name]
    error = refused(case.data)
    found = (error.code, error.where.line, error.where.field)
    assert found == (f"AW-NEEDS-{case.code:02d}", case.line, case.field), error.lines()
    assert case.part in error.message
    assert not case.nearest or case.nearest in error.nearest
