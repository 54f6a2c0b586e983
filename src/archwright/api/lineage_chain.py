"""`lineage`: trace an answer, a model version, a run or a data set version to its source files."""

import difflib
from collections.abc import Iterable
from typing import get_args

from archwright.api.context import audit_read, open_home
from archwright.contract.lineage import LineageEdge, NodeKind, SourceFile, format_node
from archwright.contract.record import Record
from archwright.contract.served import request_received_at
from archwright.errors import ErrorLocation, ModelError
from archwright.home import Home
from archwright.lake.tables import version_index
from archwright.lake.tables.source_file_list import read_source_files
from archwright.lifecycle import model_registry
from archwright.monitor import lineage as edges_of
from archwright.monitor.wal.compaction import read_served
from archwright.store import Store
from archwright.training import training_runs

KINDS: tuple[NodeKind, ...] = ("model", "run", "dataset")
# The longest time between the arrival and the end of a request.
REQUEST_LIMIT_S = 86_400.0


class LineageChain(Record):
    """The origin of an artefact. `model` is a version's id, or the name of the plan's own model, which has no run.

    `dataset_versions` begin with the training data; `files` are the source files of the first one.
    """

    id: str
    answer: str | None
    model: str | None
    run: str | None
    dataset_versions: tuple[str, ...]
    files: tuple[SourceFile, ...]
    edges: tuple[LineageEdge, ...]


@audit_read("lineage", "id")
def lineage(id: str) -> LineageChain:  # noqa: A002 - the verb's word
    """Return the chain behind an id: an answer's request id ("aw-..."), a model version, a run, a data set version.

    If a model and a data set share a name, the model is used; "dataset:NAME@v1" selects the data set.
    Raises ModelError AW-MOD-11 for an unknown id.
    """
    with open_home() as (_settings, home, store):
        answer = _find_answer_edge(store, home, id)
        return build_chain(home, store, _find_start_node(store, id) if answer is None else answer.child, answer)


def build_chain(home: Home, store: Store, start: str, answer: LineageEdge | None = None) -> LineageChain:
    """Return the chain behind a node; for an answer, its edge to the model comes first."""
    kind, _, name = start.partition(":")
    found = edges_of.trace_ancestry(store, start if answer is None else answer.parent)
    if answer is not None:
        found.insert(0, answer)
    nodes = [start]
    if kind == "run" and not found:  # no model version exists yet
        nodes.append(format_node("dataset", training_runs.find_run(store, name).dataset_version))
        found = edges_of.trace_ancestry(store, nodes[-1])
    names: dict[str, dict[str, None]] = {kind: {} for kind in get_args(NodeKind)}
    for node in (*nodes, *(edge.parent for edge in found)):
        kind, _, known = node.partition(":")
        names[kind][known] = None
    return LineageChain(
        id=name,
        answer=next(iter(names["answer"]), None),
        model=next(iter(names["model"]), None),
        run=next(iter(names["run"]), None),
        dataset_versions=tuple(names["dataset"]),
        files=_collect_files(home, store, next(iter(names["dataset"]), None), names["file"]),
        edges=tuple(found),
    )


def _find_answer_edge(store: Store, home: Home, id: str) -> LineageEdge | None:  # noqa: A002
    """Return the edge from an answer to its model, from the request record at the time that the id holds."""
    name = id.removeprefix("answer:")
    began = request_received_at(name)
    if began is None:
        return None
    for one in read_served(store, home, (began - 1.0, began + REQUEST_LIMIT_S)):
        if one.request_id == name and one.version and not one.shadow:
            child, parent = format_node("answer", name), format_node("model", one.version)
            return LineageEdge(at=one.at, child=child, parent=parent, relation="answered-by")
    return None


def _collect_files(home: Home, store: Store, dataset: str | None, digests: Iterable[str]) -> tuple[SourceFile, ...]:
    """Return the files of the data set version, or of these digests if the version is not known here."""
    found = store.rows(version_index.VERSIONS, {"id": dataset}) if dataset else []
    files = read_source_files(home, found[0]) if found else ()
    return files or tuple(SourceFile(path="", sha256=digest, size_bytes=0, rows=0) for digest in digests)


def _find_start_node(store: Store, id: str) -> str:  # noqa: A002
    kind, colon, name = id.partition(":")
    for known in (known for known in KINDS if not colon or kind == known):
        found = _find_full_id(store, known, name if colon else id)
        if found is not None:
            return format_node(known, found)
    models, runs = model_registry.list_models(store), training_runs.list_runs(store)
    datasets = version_index.list_versions(store)
    names = [*(one.id for one in models), *(one.id for one in runs), *(one.id for one in datasets)]
    near = tuple(difflib.get_close_matches(id, names, 3, 0.5))
    message = f"{id!r} is no answer, model version, run or data set version"
    hint = "use the header x-request-id of an answer, or an id of archwright models list, runs list or data list"
    hint = f"nearest: {', '.join(near)}" if near else hint
    raise ModelError("AW-MOD-11", message, where=ErrorLocation(field=id), hint=hint, nearest=near)


def _find_full_id(store: Store, kind: NodeKind, name: str) -> str | None:
    """Return the full id, or None; a name without a version stands for its newest version."""
    if kind == "run":
        found = [run.id for run in training_runs.list_runs(store) if run.id == name]
    elif kind == "model":
        found = [version.id for version in model_registry.list_models(store) if name in (version.id, version.name)]
    else:
        found = [version.id for version in version_index.list_versions(store) if name in (version.id, version.dataset)]
    return found[-1] if found else None
