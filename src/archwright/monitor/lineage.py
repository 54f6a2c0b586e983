"""Lineage edges in the store: append edges, read parents and children, trace an ancestry."""

from collections.abc import Sequence

from archwright.contract.lineage import LineageEdge
from archwright.store import RecordTable, Store

EDGES = RecordTable("lineage", LineageEdge, index=("child", "parent"))


def append_edges(store: Store, edges: Sequence[LineageEdge]) -> None:
    store.append(EDGES, edges)


def read_parents(store: Store, child: str) -> list[LineageEdge]:
    """Return the edges to the parents of `child` ("model:NAME@v1"), in order of arrival."""
    return store.rows(EDGES, {"child": child})


def read_children(store: Store, parent: str) -> list[LineageEdge]:
    return store.rows(EDGES, {"parent": parent})


def trace_ancestry(store: Store, start: str) -> list[LineageEdge]:
    """Return every edge from `start` up to the source files, nearest first, each once."""
    edges: dict[tuple[str, str], LineageEdge] = {}
    seen = {start}
    waiting = [start]
    while waiting:
        child = waiting.pop(0)
        for edge in read_parents(store, child):
            edges.setdefault((edge.child, edge.parent), edge)
            if edge.parent not in seen:
                seen.add(edge.parent)
                waiting.append(edge.parent)
    return list(edges.values())
