"""Lineage edges in the store: append, and walk from a thing to what it was made of or to what was made of it."""

from __future__ import annotations

from collections.abc import Sequence

from archwright.contract.lineage import Edge
from archwright.store import Store, Table

EDGES = Table("lineage", Edge, index=("child", "parent"))


def append(store: Store, edges: Sequence[Edge]) -> None:
    store.append(EDGES, edges)


def parents(store: Store, child: str) -> list[Edge]:
    """What `child` ("model:NAME@v1") was made of, in order of arrival."""
    return store.rows(EDGES, {"child": child})


def children(store: Store, parent: str) -> list[Edge]:
    return store.rows(EDGES, {"parent": parent})


def ancestry(store: Store, start: str) -> list[Edge]:
    """Every edge on the way from `start` up to the source files, nearest first, each once."""
    found: dict[tuple[str, str], Edge] = {}
    seen, waiting = {start}, [start]
    while waiting:
        for edge in parents(store, waiting.pop(0)):
            found.setdefault((edge.child, edge.parent), edge)
            if edge.parent not in seen:
                seen.add(edge.parent)
                waiting.append(edge.parent)
    return list(found.values())
