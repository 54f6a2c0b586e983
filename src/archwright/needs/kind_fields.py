"""Fields that a workload of each kind must have and may have; any other field is an error."""

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

from archwright.contract.needs import Modality, Needs, Traffic, Workload
from archwright.contract.record import Record
from archwright.needs.needs_problem import NeedsCode, NeedsProblem
from archwright.specfile import join_path, read_packaged_yaml

_ALWAYS = ("name", "kind", "data")
# A field of the traffic, and the fields of which it needs one beside it.
_BESIDE: Mapping[str, tuple[str, ...]] = {
    "requests_per_user_day": ("users",),
    "refresh": ("documents",),
    "tokens_per_document": ("documents",),
    "deadline_h": ("documents", "gib_per_day"),
}


class KindFields(Record):
    """Required fields of the workload (`needs`) and its traffic (`traffic`); all others are optional.

    `load`: the fields of the traffic of which exactly one states the load. `modalities`: what a request may hold.
    """

    kinds: tuple[str, ...]
    needs: tuple[str, ...] = ("traffic",)
    also: tuple[str, ...] = ()
    load: tuple[str, ...] = ()
    traffic: tuple[str, ...] = ()
    traffic_also: tuple[str, ...] = ()
    slo: tuple[str, ...] = ()
    modalities: tuple[Modality, ...] = ()

    @property
    def of_workload(self) -> tuple[str, ...]:
        return (*_ALWAYS, *self.needs, *self.also)

    @property
    def of_traffic(self) -> tuple[str, ...]:
        return (*self.load, *self.traffic, *self.traffic_also)


@cache
def fields_by_kind() -> Mapping[str, KindFields]:
    rows = read_packaged_yaml(Path(__file__).parent / "kind_fields.yaml", list[KindFields])
    return {kind: row for row in rows for kind in row.kinds}


def check_kind_fields(needs: Needs, lines: Mapping[str, int]) -> Iterator[NeedsProblem]:
    for index, workload in enumerate(needs.workloads):
        path, fields = f"workloads[{index}]", fields_by_kind()[workload.kind]
        yield from _surplus_fields(workload, path, fields.of_workload, workload.kind, lines)
        yield from _missing_fields(workload, path, fields.needs, workload.kind)
        yield from _check_modalities(workload, path, fields.modalities)
        if "slo" in fields.of_workload:
            yield from _surplus_fields(workload.slo, join_path(path, "slo"), fields.slo, workload.kind, lines)
        if workload.traffic is not None and "traffic" in fields.of_workload:
            path = join_path(path, "traffic")
            yield from _surplus_fields(workload.traffic, path, fields.of_traffic, workload.kind, lines)
            yield from _missing_fields(workload.traffic, path, fields.traffic, workload.kind)
            yield from _check_load(workload.traffic, path, workload.kind)


def _surplus_fields(
    record: Record, path: str, allowed: Iterable[str], kind: str, lines: Mapping[str, int]
) -> Iterator[NeedsProblem]:
    """Yield fields that the file sets and the kind does not have; an explicit null sets nothing."""
    known = list(allowed)
    for name in record.__struct_fields__:
        field = join_path(path, name)
        if field in lines and name not in known and getattr(record, name) is not None:
            rows = fields_by_kind().items()
            others = [one for one, row in rows if name in (*row.of_traffic, *row.of_workload, *row.slo)]
            takes = f"takes: {', '.join(known)}" if known else f"takes no {path.rpartition('.')[2]}"
            hint = f"delete it; a workload of kind {kind} {takes}; {name} is for {', '.join(others)}"
            yield NeedsProblem(NeedsCode.WRONG_FOR_KIND, field, f"kind {kind} has no field {name}", hint)


def _missing_fields(record: Record, path: str, required: Iterable[str], kind: str) -> Iterator[NeedsProblem]:
    for name in required:
        if getattr(record, name) is None:
            hint = f"add it: a workload of kind {kind} needs {', '.join(required)}"
            message = f"the field {name} is missing"
            yield NeedsProblem(NeedsCode.MISSING_FIELD, join_path(path, name), message, hint, missing=True)


def _check_modalities(workload: Workload, path: str, known: tuple[Modality, ...]) -> Iterator[NeedsProblem]:
    for index, one in enumerate(workload.modalities if known else ()):
        if one not in known:
            message = f"a workload of kind {workload.kind} holds no {one}"
            kinds = (kind for kind, row in fields_by_kind().items() if one in row.modalities)
            hint = f"add a workload of kind {' or '.join(kinds)}"
            yield NeedsProblem(NeedsCode.WRONG_FOR_KIND, f"{path}.modalities[{index}]", message, hint)
            return


def _check_load(traffic: Traffic, path: str, kind: str) -> Iterator[NeedsProblem]:
    """Check that one field states the load, and that no field stands without the field that it belongs to.

    An embedding has online requests, a corpus that is embedded (again every `refresh`), or both.
    """
    load = fields_by_kind()[kind].load or (("requests_per_second", "users") if kind == "embedding" else ())
    stated = [name for name in load if getattr(traffic, name) is not None]
    if len(stated) > 1:
        message = f"{stated[1]} stands beside {stated[0]}, and both state the load"
        yield NeedsProblem(NeedsCode.CONTRADICTION, join_path(path, stated[1]), message, "delete one of the two")
    corpus = kind == "embedding" and traffic.documents is not None
    if load and not stated and not corpus:
        every = (*load, "documents") if kind == "embedding" else load
        message, hint = "the traffic states no load", f"add {' or '.join(every)}"
        yield NeedsProblem(NeedsCode.MISSING_FIELD, join_path(path, every[0]), message, hint, missing=True)
    if "documents" in stated:
        yield from _missing_fields(traffic, path, ("refresh",), kind)
    for name, owners in _BESIDE.items():
        if getattr(traffic, name) is not None and all(getattr(traffic, owner) is None for owner in owners):
            message, hint = f"{name} stands without {owners[0]}", f"add {owners[0]}, or delete {name}"
            yield NeedsProblem(NeedsCode.CONTRADICTION, join_path(path, name), message, hint)
