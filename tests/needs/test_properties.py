"""Any bytes give Needs or NeedsError, and every line in the source is the line of its value."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from archwright.catalog.load import load_catalog
from archwright.errors import NeedsError
from archwright.needs.reader import parse_needs
from archwright.needs.template import TEMPLATES, read_template
from archwright.needs.yaml_tree import read_tree
from archwright.scalars import resolve_scalar

FILES = [read_template(name).encode() for name in TEMPLATES]
PIECES = [
    b"", b"\n", b"  ", b": ", b"- ", b"[", b"]", b"{", b"}", b"&a ", b"*a", b"!!str ", b"<<: *a", b"---\n", b"#", b'"',
    b"'", b"|", b">", b"%", b"\t", b"\0", b"\x1b", b"\xff", b"\xef\xbb\xbf", b"~", b".nan", b"-.inf", b"1e999", b"-1",
    b"NO", b"true", b"0x10", b"? ", b"\\", b",", b"name: ", b"kind: pretrain", b"\xe2\x80\xae", b"9" * 5000,
]  # fmt: skip


OTHERS = b"-1 0 1e30 .nan .inf [] {} [x] {a:1} ~ x true ''"


def answer(data: bytes) -> None:
    try:
        needs, source = parse_needs(data, "needs.yaml", load_catalog())
    except NeedsError as error:
        assert error.where.file == "needs.yaml" and error.code.startswith("AW-NEEDS-") and error.hint
        assert all(char.isprintable() or char == "\n" for char in error.lines())
    else:
        assert needs.workloads and source.lines


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_random_bytes(data: bytes) -> None:
    answer(data)


@settings(deadline=None, max_examples=200)
@given(
    st.sampled_from(FILES),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 30), st.sampled_from(PIECES)), max_size=5),
)
def test_mutations_of_a_good_file(data: bytes, cuts: list[tuple[float, int, bytes]]) -> None:
    for place, length, piece in cuts:
        at = int(place * len(data))
        data = data[:at] + piece + data[at + length :]
    answer(data)


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(FILES), st.data())
def test_values_of_another_kind(data: bytes, draw: st.DataObject) -> None:
    """One value of a good file replaced: reaches the types and the rules more often than broken YAML does."""
    values = list(re.finditer(rb"(?<=: )[\w.+-]+", data))
    match = draw.draw(st.sampled_from(values))
    other = draw.draw(st.sampled_from(OTHERS.split()))
    answer(data[: match.start()] + other + data[match.end() :])


NAMES = st.text("abcxyz_", min_size=1, max_size=6).filter(lambda name: isinstance(resolve_scalar(name), str))
SCALARS = (
    st.integers(0, 10**6) | st.booleans() | st.text("abc xyz", min_size=1, max_size=8).map(lambda text: f'"{text}"')
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, min_size=1, max_size=3) | st.dictionaries(NAMES, inner, min_size=1, max_size=3),
    max_leaves=15,
)


def write(value: object, path: str, indent: str, lines: list[str], due: dict[str, int]) -> None:
    """Block YAML, one entry a line, a comment after each container's head; notes the line of each scalar."""
    heads: list[tuple[str, str, object]] = []
    if isinstance(value, dict):
        heads = [(f"{name}:", f"{path}.{name}" if path else name, item) for name, item in value.items()]
    elif isinstance(value, list):
        heads = [("-", f"{path}[{index}]", item) for index, item in enumerate(value)]
    for head, below, item in heads:
        if isinstance(item, dict | list):
            lines += [indent + head, indent + "  # a comment", ""]
            write(item, below, indent + "  ", lines, due)
        else:
            text = str(item).lower() if isinstance(item, bool) else str(item)
            lines.append(f"{indent}{head} {text}")
            due[below] = len(lines)


@settings(deadline=None, max_examples=100)
@given(st.dictionaries(NAMES, TREES, min_size=1, max_size=4))
def test_every_scalar_has_its_line(value: dict[str, object]) -> None:
    lines: list[str] = []
    due: dict[str, int] = {}
    write(value, "", "", lines, due)
    tree = read_tree("\n".join(lines), "needs.yaml")
    assert due.items() <= tree.lines.items()
    assert max(tree.lines.values()) <= len(lines)


def test_lines_of_the_good_files() -> None:
    """Each text of a good file stands on the line that the source gives for it."""
    for name in TEMPLATES:
        rows = read_template(name).splitlines()
        tree = read_tree(read_template(name), "needs.yaml")
        for path, line in tree.lines.items():
            value = at(tree.value, path)
            if isinstance(value, str):
                assert value in rows[line - 1], path
            elif isinstance(value, int | float):
                assert any(resolve_scalar(word) == value for word in re.findall(r"[\w.+-]+", rows[line - 1])), path


def at(value: object, path: str) -> object:
    for step in re.findall(r"[^.\[\]]+", path):
        if isinstance(value, list):
            value = value[int(step)]
        elif isinstance(value, dict):
            value = value[step]
    return value
