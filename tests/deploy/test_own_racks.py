"""Own racks as a whole: one name for a host in all files, and every machine that the plan pays stands in a rack."""

from __future__ import annotations

import csv
import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from tests.plan.conftest import MACHINE, NOW

from archwright.catalog.catalog import Catalog
from archwright.deploy.deployment import Deployment, make_label
from archwright.deploy.rendering.bundle import FileBundle
from archwright.needs.reader import parse_needs
from archwright.needs.template import read_template
from archwright.plan.planner import make_plan

from .conftest import MadeBundle, MadePlan

EXAMPLES = ("clinic", "manufacturer")
TEMPLATES = ("insurer", "logistics", "public-administration", "research-laboratory")


def read_table(bundle: FileBundle, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(bundle.files[name].text.splitlines()))


def list_inventory(node: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each host of an Ansible inventory with its variables."""
    yield from (node.get("hosts") or {}).items()
    for child in (node.get("children") or {}).values():
        yield from list_inventory(child)


def read_inventory(bundle: FileBundle) -> dict[str, dict[str, Any]]:
    document = yaml.load(bundle.files["site/inventory.yaml"].text, yaml.CSafeLoader)
    return dict(list_inventory(document["all"]))


def list_labelled(bundle: FileBundle) -> set[str]:
    """Return the nodes that the scripts label or taint."""
    scripts = [file.text for path, file in bundle.files.items() if path.endswith("label-nodes.sh")]
    words = [shlex.split(line) for text in scripts for line in text.splitlines() if line.startswith("kubectl ")]
    return {word[3] for word in words}


def check_host_names(bundle: FileBundle) -> None:
    hosts, racked = read_inventory(bundle), read_table(bundle, "site/racks.csv")
    names = {row["host"] for row in racked}
    assert names == {name for name, host in hosts.items() if "rack" in host}
    assert len(racked) == len(names)
    assert {row["host"] for row in read_table(bundle, "site/switch-ports.csv")} == names
    assert {row["host"] for row in racked if row["role"] in ("accelerator", "processor")} <= list_labelled(bundle)
    assert list_labelled(bundle) <= names
    assert all(make_label(name) == name or len(name) <= 63 for name in hosts)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_host_has_one_name_in_all_files(name: str, made_bundle: MadeBundle) -> None:
    check_host_names(made_bundle(name, "onprem"))


@pytest.mark.nightly
@pytest.mark.parametrize("name", TEMPLATES)
def test_a_host_has_one_name_in_all_files_of_every_template(
    name: str, made_bundle: Callable[..., FileBundle], catalog: Catalog
) -> None:
    needs, source = parse_needs(read_template(name).encode(), "needs.yaml", catalog)
    check_host_names(made_bundle(make_plan(needs, source, catalog, MACHINE, NOW), "onprem"))


@pytest.mark.parametrize("name", EXAMPLES)
def test_servers_without_engines_stand_in_racks_and_in_prices(
    name: str, made_bundle: MadeBundle, made_deployment: Callable[..., Deployment]
) -> None:
    option, bundle = made_deployment(name, "onprem").option, made_bundle(name, "onprem")
    racked = read_table(bundle, "site/racks.csv")
    counts = Counter(row["role"] for row in racked)
    prices = [line.name for line in option.cost_lines if line.once and line.amount.value > 0]
    (platform,) = [line for line in prices if "small server" in line]
    (storage,) = [line for line in prices if line.startswith("storage servers")]
    assert f"{counts['platform']} x small server" in platform
    assert f", {counts['storage']} in " in storage
    assert counts["platform"] >= 3, "a cluster keeps its state when one of three servers is lost"
    assert counts["storage"] >= 3
    switches = sum(int(line.partition(", ")[2].split()[0]) for line in prices if "switches, " in line)
    assert option.rack_units == sum(int(row["units"]) for row in racked) + switches
    items = {row["item"]: row for row in read_table(bundle, "site/bill-of-materials.csv")}
    assert items[platform]["amount"] and items[storage]["amount"]
    assert "control-plane server" not in "".join(items)


def test_a_loss_of_a_rack_takes_one_of_the_servers_that_keep_state(made_bundle: MadeBundle) -> None:
    racked = read_table(made_bundle("manufacturer", "onprem"), "site/racks.csv")
    racks = {row["rack"] for row in racked}
    for role in ("platform", "storage"):
        taken = Counter(row["rack"] for row in racked if row["role"] == role)
        assert len(taken) == min(len(racks), taken.total()), role


def test_few_own_machines_keep_files_on_their_own_disks(made_plan: MadePlan) -> None:
    roles = {}
    for option in made_plan("clinic").options:
        own = {one.machine: one.peak for one in option.purchases if one.kind == "bought"}
        if own:
            roles[sum(own.values()) > 2] = {one.role for one in option.servers}
    assert roles == {False: {"platform"}, True: {"platform", "storage"}}
