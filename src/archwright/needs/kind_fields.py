"""Fields that a workload of each kind must have and may have; any other field is an error."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

from archwright.contract.needs import Modality, Needs, Traffic, Workload
from archwright.contract.record import Record
from archwright.needs.needs_problem import NeedsCode, NeedsProblem, last_field_name
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
    """Required fields of the workload (`needs`) and its traffic (`traffic`).

    All others are optional. `load`: the fields of the traffic of which exactly one states the load.
    `modalities`: what a request may hold.
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
    path = Path(__file__).parent / "kind_fields.yaml"
    fields: dict[str, KindFields] = {}
    for row in read_packaged_yaml(path, list[KindFields]):
        fields.update(dict.fromkeys(row.kinds, row))
    return fields


def check_kind_fields(needs: Needs, lines: Mapping[str, int]) -> Iterator[NeedsProblem]:
    for index, workload in enumerate(needs.workloads):
        path = f"workloads[{index}]"
        checker = _KindChecker(workload.kind, lines)
        yield from checker.check_workload(workload, path)


class _KindChecker:
    """Checks the fields of workloads of one kind; `lines` has the fields that the file sets."""

    def __init__(self, kind: str, lines: Mapping[str, int]) -> None:
        self._kind = kind
        self._lines = lines
        self._fields = fields_by_kind()[kind]

    def check_workload(self, workload: Workload, path: str) -> Iterator[NeedsProblem]:
        allowed = self._fields.of_workload
        yield from self._list_surplus(workload, path, allowed)
        yield from self._list_missing(workload, path, self._fields.needs)
        yield from self._check_modalities(workload, path)
        if "slo" in allowed:
            yield from self._list_surplus(workload.slo, join_path(path, "slo"), self._fields.slo)
        if workload.traffic is not None and "traffic" in allowed:
            yield from self._check_traffic(workload.traffic, join_path(path, "traffic"))

    def _check_traffic(self, traffic: Traffic, path: str) -> Iterator[NeedsProblem]:
        yield from self._list_surplus(traffic, path, self._fields.of_traffic)
        yield from self._list_missing(traffic, path, self._fields.traffic)
        yield from self._check_load(traffic, path)
        yield from _check_companions(traffic, path)

    def _list_surplus(
        self,
        record: Record,
        path: str,
        allowed: Collection[str],
    ) -> Iterator[NeedsProblem]:
        """Yield fields that the file sets and the kind does not have.

        An explicit null sets nothing.
        """
        for name in record.__struct_fields__:
            field_path = join_path(path, name)
            if name in allowed or field_path not in self._lines:
                continue
            if getattr(record, name) is not None:
                yield self._wrong_for_kind(field_path, name, allowed)

    def _wrong_for_kind(self, path: str, name: str, allowed: Collection[str]) -> NeedsProblem:
        parent_path = path.removesuffix(f".{name}")
        takes = f"takes no {last_field_name(parent_path)}"
        if allowed:
            takes = f"takes: {', '.join(allowed)}"
        kinds = ", ".join(_list_kinds_with(name))
        return NeedsProblem(
            NeedsCode.WRONG_FOR_KIND,
            path,
            f"kind {self._kind} has no field {name}",
            hint=f"delete it; a workload of kind {self._kind} {takes}; {name} is for {kinds}",
        )

    def _list_missing(
        self,
        record: Record,
        path: str,
        required: Iterable[str],
    ) -> Iterator[NeedsProblem]:
        for name in required:
            if getattr(record, name) is None:
                yield NeedsProblem(
                    NeedsCode.MISSING_FIELD,
                    join_path(path, name),
                    f"the field {name} is missing",
                    hint=f"add it: a workload of kind {self._kind} needs {', '.join(required)}",
                    missing=True,
                )

    def _check_modalities(self, workload: Workload, path: str) -> Iterator[NeedsProblem]:
        allowed = self._fields.modalities
        if not allowed:
            return
        for index, modality in enumerate(workload.modalities):
            if modality not in allowed:
                kinds = " or ".join(_list_kinds_holding(modality))
                yield NeedsProblem(
                    NeedsCode.WRONG_FOR_KIND,
                    f"{path}.modalities[{index}]",
                    f"a workload of kind {self._kind} holds no {modality}",
                    hint=f"add a workload of kind {kinds}",
                )
                return

    def _check_load(self, traffic: Traffic, path: str) -> Iterator[NeedsProblem]:
        """Check that exactly one field states the load.

        An embedding has online requests, a corpus that is embedded (again every `refresh`), or
        both.
        """
        load_fields = self._fields.load
        if not load_fields and self._kind == "embedding":
            load_fields = ("requests_per_second", "users")
        stated_fields = [name for name in load_fields if getattr(traffic, name) is not None]

        if len(stated_fields) > 1:
            first, second = stated_fields[:2]
            message = f"{second} stands beside {first}, and both state the load"
            yield NeedsProblem(
                NeedsCode.CONTRADICTION,
                join_path(path, second),
                message,
                hint="delete one of the two",
            )
        if load_fields and not stated_fields:
            yield from self._check_missing_load(traffic, path, load_fields)
        if "documents" in stated_fields:
            yield from self._list_missing(traffic, path, ("refresh",))

    def _check_missing_load(
        self,
        traffic: Traffic,
        path: str,
        load_fields: tuple[str, ...],
    ) -> Iterator[NeedsProblem]:
        """Yield a problem unless the load is a corpus that is embedded."""
        if self._kind == "embedding":
            if traffic.documents is not None:
                return
            load_fields = (*load_fields, "documents")
        yield NeedsProblem(
            NeedsCode.MISSING_FIELD,
            join_path(path, load_fields[0]),
            "the traffic states no load",
            hint=f"add {' or '.join(load_fields)}",
            missing=True,
        )


def _check_companions(traffic: Traffic, path: str) -> Iterator[NeedsProblem]:
    """Check that no field of the traffic stands without a field that it belongs to."""
    for name, owners in _BESIDE.items():
        if getattr(traffic, name) is None:
            continue
        if all(getattr(traffic, owner) is None for owner in owners):
            owner = owners[0]
            yield NeedsProblem(
                NeedsCode.CONTRADICTION,
                join_path(path, name),
                f"{name} stands without {owner}",
                hint=f"add {owner}, or delete {name}",
            )


def _list_kinds_with(field: str) -> Iterator[str]:
    """Yield the kinds of workload that have this field."""
    for kind, row in fields_by_kind().items():
        if field in row.of_traffic or field in row.of_workload or field in row.slo:
            yield kind


def _list_kinds_holding(modality: Modality) -> Iterator[str]:
    """Yield the kinds of workload whose requests may hold this modality."""
    for kind, row in fields_by_kind().items():
        if modality in row.modalities:
            yield kind
