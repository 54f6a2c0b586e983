"""Small YAML files become records, or an error that names the line."""

from __future__ import annotations

from pathlib import Path

import pytest

from archwright import specfile
from archwright.contract.record import Record
from archwright.errors import ArchwrightError, ErrorLocation, UsageError


class Inner(Record):
    columns: tuple[str, ...] = ()


class Spec(Record):
    name: str
    steps: int = 1
    country: str = ""
    inner: Inner = Inner()


def refuse(message: str, where: ErrorLocation) -> ArchwrightError:
    return UsageError("AW-USE-99", message, where=where)


def read(folder: Path, text: str | bytes) -> Spec:
    path = folder / "spec.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return specfile.read_spec(path, Spec, refuse)


def test_a_good_file(tmp_path: Path) -> None:
    found = read(tmp_path, "name: a\nsteps: 0x10\ncountry: NO\ninner:\n  columns: [x, '1']\n")
    assert found == Spec(name="a", steps=16, country="NO", inner=Inner(columns=("x", "1")))


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("name: a\nsteps: many\n", 2, "int"),
        ("name: a\nstepz: 1\n", 1, "stepz"),
        ("steps: 1\n", 1, "name"),
        ("name: a\ninner:\n  columns:\n  - 1\n", 4, "str"),
        ("name: a\ninner:\n  colums: [a]\n", 2, "colums"),
        ("name: a\nname: b\n", 2, "second time"),
        ("a: &x 1\nb: 2\n", 1, "anchors"),
        ("a: 1\nb: *x\n", 2, "aliases"),
        ("name: !!python/name:os.system x\n", 1, "tags"),
        ("<<: {name: a}\n", 1, "merge"),
        ("? [a]\n: b\n", 1, "text"),
        ("name: a\n---\nname: b\n", 2, "document"),
        ("name: [\n", 2, "YAML"),
        ("- a\n", 1, "mapping"),
        ("", 1, "mapping"),
        ("name: " + "[" * 40 + "]" * 40, 1, "deep"),
        ("name: " + "[" * 20_000, 1, "deep"),
        (b"name: \xff\n", None, "UTF-8"),
        ("name: " + "a" * 70_000, None, "larger"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, text: str | bytes, line: int | None, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(tmp_path, text)
    assert says in caught.value.message
    assert caught.value.where.line == line


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot open"):
        specfile.read_spec(tmp_path / "no.yaml", Spec, refuse)
