"""Fields that a workload of each kind must have and may have; any other field is an error."""

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

from archwright.contract.needs import Needs, Traffic, Workload
from archwright.contract.record import Record
from archwright.needs.needs_problem import NeedsCode, NeedsProblem
from archwright.specfile import join_path, read_packaged_yaml

_ALWAYS = ("name", "kind", "data")
_ONLINE = ("requests_per_second", "input_tokens", "output_tokens")
_CORPUS = ("documents", "tokens_per_document")


class KindFields(Record):
    """Required fields of the workload (`needs`) and its traffic (`traffic`); all others are optional."""

    kinds: tuple[str, ...]
    needs: tuple[str, ...] = ("traffic",)
    also: tuple[str, ...] = ()
    traffic: tuple[str, ...] = ()
    traffic_also: tuple[str, ...] = ()
    slo: tuple[str, ...] = ()


@cache
def fields_by_kind() -> Mapping[str, KindFields]:
    rows = read_packaged_yaml(Path(__file__).parent / "kind_fields.yaml", list[KindFields])
    return {kind: row for row in rows for kind in row.kinds}


def check_kind_fields(needs: Needs, lines: Mapping[str, int]) -> Iterator[NeedsProblem]:
    for index, workload in enumerate(needs.workloads):
        path, fields = f"workloads[{index}]", fields_by_kind()[workload.kind]
        allowed = (*_ALWAYS, *fields.needs, *fields.also)
        yield from _surplus_fields(workload, path, allowed, workload.kind, lines)
        yield from _missing_fields(workload, path, fields.needs, workload.kind)
        if "slo" in allowed:
            yield from _surplus_fields(workload.slo, join_path(path, "slo"), fields.slo, workload.kind, lines)
        if workload.traffic is not None and "traffic" in allowed:
            path, allowed = join_path(path, "traffic"), (*fields.traffic, *fields.traffic_also)
            yield from _surplus_fields(workload.traffic, path, allowed, workload.kind, lines)
            yield from _missing_fields(workload.traffic, path, fields.traffic, workload.kind)
            if workload.kind == "embedding":
                yield from _check_embedding(workload.traffic, path, workload)


def _surplus_fields(
    record: Record, path: str, allowed: Iterable[str], kind: str, lines: Mapping[str, int]
) -> Iterator[NeedsProblem]:
    """Yield fields that the file sets and the kind does not have; an explicit null sets nothing."""
    known = list(allowed)
    for name in record.__struct_fields__:
        field = join_path(path, name)
        if field in lines and name not in known and getattr(record, name) is not None:
            hint = f"delete it; a workload of kind {kind} takes: {', '.join(known)}"
            yield NeedsProblem(NeedsCode.WRONG_FOR_KIND, field, f"kind {kind} has no field {name}", hint)


def _missing_fields(record: Record, path: str, required: Iterable[str], kind: str) -> Iterator[NeedsProblem]:
    for name in required:
        if getattr(record, name) is None:
            hint = f"add it: a workload of kind {kind} needs {', '.join(required)}"
            message = f"the field {name} is missing"
            yield NeedsProblem(NeedsCode.MISSING_FIELD, join_path(path, name), message, hint, missing=True)


def _check_embedding(traffic: Traffic, path: str, workload: Workload) -> Iterator[NeedsProblem]:
    """Require online requests, a corpus that is embedded (again every `refresh`), or both."""
    corpus = [name for name in (*_CORPUS, "refresh") if getattr(traffic, name) is not None]
    online = [name for name in _ONLINE if getattr(traffic, name) is not None]
    if corpus:
        yield from _missing_fields(traffic, path, _CORPUS, workload.kind)
    if online:
        yield from _missing_fields(traffic, path, _ONLINE[:2], workload.kind)
    if not corpus and not online:
        hint = "add documents and tokens_per_document for a corpus, or requests_per_second and input_tokens"
        message = "neither documents nor requests_per_second is given"
        yield NeedsProblem(NeedsCode.MISSING_FIELD, join_path(path, "documents"), message, hint, missing=True)
