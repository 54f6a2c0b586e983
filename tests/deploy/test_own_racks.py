"""Own racks as a whole: one name for a host in all files, and every machine that the plan pays stands in a rack."""

from __future__ import annotations

import csv
import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from ipaddress import IPv4Network
from pathlib import PurePosixPath
from typing import Any

import pytest
import yaml
from tests.plan.conftest import MACHINE, NOW

from archwright.catalog.catalog import Catalog
from archwright.contract.record import replace
from archwright.deploy.deployment import Deployment
from archwright.deploy.names import make_label
from archwright.deploy.rendering.bundle import FileBundle
from archwright.needs.reader import parse_needs
from archwright.needs.template import read_template
from archwright.plan.planner import make_plan

from .clusters import read_cluster
from .conftest import MadeBundle, MadePlan
from .object_rules import read_objects

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


def test_an_address_of_documentation_is_no_address_of_a_load_balancer(made_bundle: MadeBundle) -> None:
    """The list of what is open names it, so install.sh refuses the bundle, until somebody states another one."""
    bundle = made_bundle("clinic", "onprem")
    for stated in ("", "192.0.2.9/32", "10.0.0.7/32"):
        pins = replace(bundle.pins, load_balancers={"de": stated})
        made = made_bundle("clinic", "onprem", pins=pins)
        is_open = "load balancer de: " in made.files["unresolved.txt"].text
        assert is_open == (stated != "10.0.0.7/32")
        assert made.pins.load_balancers == {"de": stated}, "the next rendering keeps it"
    assert "- 10.0.0.7/32\n" in made.files["kubernetes/overlays/de/load-balancer.yaml"].text


def test_clients_reach_the_gateway_of_own_racks(made_bundle: MadeBundle) -> None:
    """The way in has an address that machines of the front network announce, and its machines may announce it."""
    bundle = made_bundle("clinic", "onprem")
    objects = {one["kind"]: one for one in read_objects(bundle.files["kubernetes/overlays/de/load-balancer.yaml"].text)}
    pool, announced = objects["IPAddressPool"], objects["L2Advertisement"]
    assert announced["spec"]["ipAddressPools"] == [pool["metadata"]["name"]]
    (address,) = pool["spec"]["addresses"]
    assert IPv4Network(address).subnet_of(IPv4Network("192.0.2.0/24")), "no network has it before the user states one"
    assert "`load_balancers` of `pins.json`" in bundle.files["kubernetes/README.md"].text
    script = bundle.files["kubernetes/platform/de/install.sh"].text
    assert script.index("helm upgrade --install metallb") > script.index("namespace metallb-system")
    assert bundle.pins.charts["metallb"].source.split()[-1] == bundle.components["metallb"]
    (chosen,) = announced["spec"]["nodeSelectors"]
    labels = bundle.files["kubernetes/overlays/de/label-nodes.sh"].text.splitlines()
    (label,) = chosen["matchLabels"].items()
    platform = [line for line in labels if "=".join(label) in line]
    assert len(platform) == 3
    assert all("node.kubernetes.io/exclude-from-external-load-balancers-" in line for line in platform)


def test_the_gateway_stands_on_the_servers_that_the_plan_buys_for_it(made_bundle: MadeBundle) -> None:
    objects = read_cluster(made_bundle("clinic", "kubernetes"), PurePosixPath("overlays/de"))
    wanted = {"archwright.dev/node-class": "platform"}
    gateway = next(one for one in objects if one["kind"] == "StatefulSet" and one["metadata"]["name"] == "gateway")
    assert gateway["spec"]["template"]["spec"]["nodeSelector"] == wanted
    database = next(one for one in objects if one["kind"] == "Cluster")
    assert (database["spec"]["instances"], database["spec"]["affinity"]["nodeSelector"]) == (3, wanted)


def test_a_rented_cluster_has_no_load_balancer_of_its_own(made_bundle: MadeBundle) -> None:
    bundle = made_bundle("startup", "kubernetes")
    assert "metallb" not in "".join(file.text for file in bundle.files.values()).lower()
