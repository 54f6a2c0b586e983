"""What a cloud bundle renders and what the plan prices are one table: each kind that bills has a line in the plan."""

from __future__ import annotations

import json
import re

import pytest
from tests.deploy.conftest import MadeBundle, MadePlan
from tests.deploy.object_rules import read_objects

from archwright.catalog.catalog import Catalog
from archwright.contract.plan import Option
from archwright.deploy.rendering.bundle import FileBundle

PLACES = ("aws", "azure", "gcp")
# Kinds without a price of their own: rights, networks, settings; and what other lines of the plan pay for: buckets and
# their copies (storage), machines and their reservations (compute), system nodes (host). Alarms by e-mail are free.
FREE = re.compile(
    r"iam|_role|identity|federated|access_(entry|policy)|eks_addon|encryption|_tag$|policy|security_group|network_acl"
    r"|(vpc|virtual_network|compute_network|subnet|subnetwork|internet_gateway|route|route_table|router|firewall)$"
    r"|association|_link$|placement_group|launch_template|node_group|node_pool|reservation|s3_bucket|storage_|mount_target"
    r"|subnet_group|parameter_group|kms_alias|key_ring|profile|sns_|sqs_|event_|budget|action_group|notification"
    r"|prometheus_workspace|resource_group|disk_encryption_set|key_vault_secret|server_database|sql_(database|user)$"
    r"|secret_version|project_service|service_account|global_address|networking_connection|security_rule|audit_config"
    r"|extension|data_collection|service_identity|vault_access"
)


def list_resource_kinds(bundle: FileBundle) -> set[str]:
    files = [json.loads(file.text) for path, file in bundle.files.items() if path.endswith(".tf.json")]
    return {kind for file in files for kind in file.get("resource", {})}


def list_object_kinds(bundle: FileBundle) -> set[str]:
    texts = [file.text for path, file in bundle.files.items() if "overlays/" in path and path.endswith(".yaml")]
    return {str(one.get("kind")) for text in texts for one in read_objects(text)}


def find_option(made_plan: MadePlan, example: str, name: str) -> Option:
    return next(one for one in made_plan(example).options if one.name == name)


def is_priced(option: Option, item: str) -> bool:
    return any(line.name.startswith(f"{item}: ") and line.amount.value > 0 for line in option.cost_lines)


@pytest.mark.parametrize("place", PLACES)
def test_each_rendered_kind_that_bills_has_a_line(
    place: str, made_plan: MadePlan, made_bundle: MadeBundle, catalog: Catalog
) -> None:
    bundle, option = (
        made_bundle("startup", place, f"cloud-{place}"),
        find_option(made_plan, "startup", f"cloud-{place}"),
    )
    rows = {kind: [one for one in catalog.services_of(place) if kind in one.resources] for kind in list_kinds(bundle)}
    unknown = [kind for kind in list_resource_kinds(bundle) if not rows[kind] and not FREE.search(kind)]
    assert unknown == [], "add a row to cloud_services.csv, or say here why it costs nothing"
    for kind, found in rows.items():
        assert all(is_priced(option, row.item) for row in found), kind
    # Nothing is priced that no object of the bundle stands for.
    assert {row.id for row in catalog.services_of(place) if not set(row.resources) & rows.keys()} == set()


def list_kinds(bundle: FileBundle) -> set[str]:
    return list_resource_kinds(bundle) | list_object_kinds(bundle)


@pytest.mark.parametrize("place", PLACES)
def test_settings_and_counts_of_the_rows_are_rendered(place: str, made_bundle: MadeBundle, catalog: Catalog) -> None:
    bundle = made_bundle("startup", place, f"cloud-{place}")
    text = "".join(file.text for path, file in bundle.files.items() if path.endswith(".tf.json"))
    for row in catalog.services_of(place):
        assert all(re.search(rf"\b{re.escape(setting)}\b", text) for setting in row.settings), row.id


@pytest.mark.parametrize("place", PLACES)
def test_the_budget_alarm_is_the_sum_of_the_lines(place: str, made_plan: MadePlan, made_bundle: MadeBundle) -> None:
    option = find_option(made_plan, "startup", f"cloud-{place}")
    bundle = made_bundle("startup", place, f"cloud-{place}")
    variables = json.loads(bundle.files["terraform/variables.tf.json"].text)["variable"]
    (budget,) = (one["default"] for name, one in variables.items() if name.startswith("budget_") and "default" in one)
    assert option.cost_per_month is not None
    assert budget == pytest.approx(option.cost_per_month.value, rel=0.02)


@pytest.mark.parametrize("place", PLACES)
def test_the_system_nodes_are_the_machines_of_the_line(
    place: str, made_plan: MadePlan, made_bundle: MadeBundle
) -> None:
    option = find_option(made_plan, "startup", f"cloud-{place}")
    (line,) = (one.name for one in option.cost_lines if one.name.startswith("host of"))
    found = re.search(r": (\d+)(?: to \d+)? x (\S+) in ", line)
    assert found is not None and int(found[1]) >= 3, line
    text = "".join(
        file.text for path, file in made_bundle("startup", place, option.name).files.items() if ".tf." in path
    )
    assert f'"{found[2]}"' in text


def test_every_price_has_a_source_and_an_interval(catalog: Catalog) -> None:
    for row in catalog.cloud_services:
        band = catalog.parameter(row.id)
        assert row.source and 0 < band.low < band.value < band.high, row.id
        assert row.as_of or row.source.startswith("recalled"), row.id
