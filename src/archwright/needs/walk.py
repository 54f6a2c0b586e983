"""Every record of a Needs with its path, so that a rule is written once for a field wherever the field occurs."""

from __future__ import annotations

from collections.abc import Iterator

from archwright.contract.record import Record, asdict
from archwright.needs.problem import join


def records(value: object, path: str = "") -> Iterator[tuple[str, Record]]:
    """The record itself and all records below it, in the order of the contract."""
    if isinstance(value, Record):
        yield path, value
        for name, item in asdict(value).items():
            yield from records(item, join(path, name))
    elif isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from records(item, f"{path}[{index}]")
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from records(item, join(path, name))


def texts(value: object, path: str = "") -> Iterator[tuple[str, str]]:
    """Every text with its path; the keys of a mapping count as texts at the path of their value."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Record):
        for name, item in asdict(value).items():
            yield from texts(item, join(path, name))
    elif isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from texts(item, f"{path}[{index}]")
    elif isinstance(value, dict):
        for name, item in value.items():
            yield join(path, name), name
            yield from texts(item, join(path, name))
