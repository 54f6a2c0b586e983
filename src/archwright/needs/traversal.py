"""Traverses a Needs with the path of every value, so that a rule covers a field everywhere."""

from collections.abc import Iterator

from archwright.contract.record import Record, as_dict
from archwright.specfile import join_path


def iterate_children(value: object, path: str) -> Iterator[tuple[str, object]]:
    """Yield the values of a record, list or mapping, each with its path."""
    if isinstance(value, Record):
        value = as_dict(value)
    if isinstance(value, dict):
        for name, item in value.items():
            yield join_path(path, name), item
    elif isinstance(value, tuple | list):
        for index, item in enumerate(value):
            yield f"{path}[{index}]", item


def iterate_records(value: object, path: str = "") -> Iterator[tuple[str, Record]]:
    """Yield the record itself and all records below it, in the order of the contract."""
    if isinstance(value, Record):
        yield path, value
    for child_path, child in iterate_children(value, path):
        yield from iterate_records(child, child_path)


def iterate_texts(value: object, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield every text with its path; a key of a mapping has the path of its value."""
    if isinstance(value, str):
        yield path, value
    for child_path, child in iterate_children(value, path):
        if isinstance(value, dict):
            yield child_path, child_path.removeprefix(f"{path}.")
        yield from iterate_texts(child, child_path)
