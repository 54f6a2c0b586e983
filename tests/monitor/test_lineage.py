"""Lineage edges are appended, and traced to the sources."""

from __future__ import annotations

from archwright.contract.lineage import LineageEdge, format_node
from archwright.home import Home
from archwright.monitor import lineage
from archwright.store import Store


def edge(child: str, parent: str) -> LineageEdge:
    return LineageEdge(at=1.0, child=child, parent=parent, relation="produced-by")


def test_a_walk_to_the_sources_takes_each_edge_once(home: Home) -> None:
    store = Store(home.store_url)
    answer, model, run = format_node("answer", "aw-1"), format_node("model", "m@v1"), format_node("run", "r-1")
    data, files = format_node("dataset", "d@v2"), [format_node("file", "a"), format_node("file", "b")]
    edges = [edge(data, file) for file in files]
    edges += [edge(answer, model), edge(model, run), edge(model, data), edge(run, data), edge(data, data)]
    lineage.append_edges(store, edges)
    walked = lineage.trace_ancestry(store, answer)
    assert {(e.child, e.parent) for e in walked} == {(e.child, e.parent) for e in edges}
    assert [e.parent for e in walked][:2] == [model, run]
    assert [e.child for e in lineage.read_children(store, data)] == [model, run, data]
    assert lineage.trace_ancestry(store, files[0]) == []
    store.close()
