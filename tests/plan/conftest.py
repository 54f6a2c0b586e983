"""Plans of real needs over the shipped catalog, on a machine whose rates are written down."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.examples import read_example

from archwright.catalog.catalog import Catalog
from archwright.catalog.load import load_catalog
from archwright.contract.estimate import within_factor
from archwright.contract.needs import Needs, NeedsSource
from archwright.contract.plan import MachineFacts, Option, Plan
from archwright.needs.reader import parse_needs
from archwright.needs.template import read_template
from archwright.plan.planner import make_plan

from ..planned import Planned
from ..sizing.conftest import ENGINE

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
MACHINE = MachineFacts(
    cores_usable=2,
    memory_bytes=8 << 30,
    memory_bandwidth_bytes_per_s=within_factor(9e9, 1.1, "bytes/s"),
    matmul_flops_per_s=within_factor(90e9, 1.1, "FLOP/s"),
    disk_write_bytes_per_s=within_factor(2e8, 1.2, "bytes/s"),
    disk_free_bytes=50 << 30,
    isa="avx512",
    gpus=(),
    probed_at=1.7e9,
    engine=ENGINE,
)
Change = Callable[[dict[str, Any]], None]
Read = Callable[..., tuple[Needs, NeedsSource]]
GONE = object()
# Templates that are no example.
ONLY_TEMPLATES = ("game-studio", "logistics", "public-administration", "publisher")


def edit(values: dict[str, Any], first: Change | None = None) -> Change:
    """A change that sets fields of a needs document by dotted paths (`*`: every item); GONE deletes a field."""

    def assign(target: Any, parts: list[str], value: Any) -> None:
        key: Any = int(parts[0]) if parts[0].isdigit() else parts[0]
        if key == "*":
            for item in target:
                assign(item, parts[1:], value)
        elif parts[1:]:
            assign(target[key], parts[1:], value)
        elif value is GONE:
            del target[key]
        else:
            target[key] = copy.deepcopy(value)

    def change(document: dict[str, Any]) -> None:
        if first is not None:
            first(document)
        for path, value in values.items():
            assign(document, path.split("."), value)

    return change


def only(*placements: str) -> Change:
    """A change that allows these placements alone, with one cloud."""
    return edit({"placement.allow": list(placements), "placement.clouds": ["aws"], "placement.prefer": None})


def keep_workloads(*names: str, first: Change | None = None) -> Change:
    def change(document: dict[str, Any]) -> None:
        if first is not None:
            first(document)
        document["workloads"] = [workload for workload in document["workloads"] if workload["name"] in names]

    return change


def scale_traffic(workload: int, mean: float, peak: float | None = None, first: Change | None = None) -> Change:
    def change(document: dict[str, Any]) -> None:
        if first is not None:
            first(document)
        rate = document["workloads"][workload]["traffic"]["requests_per_second"]
        rate.update(mean=rate["mean"] * mean, peak=rate["peak"] * (mean if peak is None else peak))

    return change


def option_of(plan: Plan, name: str) -> Option:
    """The option of this name, or the first of this placement."""
    return next(option for option in plan.options if name in (option.name, option.placement))


def missed(option: Option) -> set[str]:
    return {miss.constraint for miss in option.misses}


@pytest.fixture(scope="session")
def catalog() -> Catalog:
    return load_catalog()


@pytest.fixture(scope="session")
def needs_of(catalog: Catalog) -> Read:
    """A template's needs, changed as a document first, so that the lines and the checks stay real."""

    def read(name: str, change: Change | None = None) -> tuple[Needs, NeedsSource]:
        text = read_template(name) if name in ONLY_TEMPLATES else read_example(name)
        if change is not None:
            document = yaml.load(text, yaml.CSafeLoader)
            change(document)
            text = json.dumps(document, indent=1)
        return parse_needs(text.encode(), "needs.yaml", catalog)

    return read


@pytest.fixture(scope="session")
def plan_of(catalog: Catalog, needs_of: Read, planned: Planned) -> Callable[..., Plan]:
    """The plan of a template's needs, changed or not: made once for a run, or `anew`."""

    def make(
        name: str, change: Change | None = None, machine: MachineFacts | None = MACHINE, *, anew: bool = False
    ) -> Plan:
        needs, source = needs_of(name, change)

        def made() -> Plan:
            return make_plan(needs, source, catalog, machine, NOW)

        return made() if anew else planned.find(f"{source.digest} {machine} {NOW}", made, keep=change is None)

    return make


@pytest.fixture(scope="session")
def desk(plan_of: Callable[..., Plan]) -> Plan:
    return plan_of("desk")


@pytest.fixture(scope="session")
def startup(plan_of: Callable[..., Plan]) -> Plan:
    return plan_of("startup")


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    return tmp_path / "plan.json"
