"""Google Cloud sites: what the plan decides, the traps of this cloud, and what every Terraform module must hold."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.deploy.conftest import MadeBundle, MadePlan

from archwright.catalog.catalog import Catalog
from archwright.deploy.deployment import Deployment
from archwright.deploy.rendering.bundle import FileBundle

from .cloud_sites import (
    Break,
    Configuration,
    Files,
    apply_site,
    check_rejection,
    find_faults,
    judge_site,
    render_options,
    render_without_gateway,
    scan_broken,
)
from .configuration_rules import select_files
from .terraform_core import merge_configuration

# What an engineer gives at the prompt.
VALUES = {
    "project_id": "example-project",
    "project_number": "987654321098",
    "billing_account": "01ABCD-234567-89ABCD",
    "admin_group": "platform@example.org",
    "name_suffix": "ab12",
    "owner": "platform",
    "alert_email": "platform@example.org",
    "network_cidr": "10.60.0.0/16",
    "operator_ip_ranges": '["10.0.0.0/8"]',
    "reserved_zone": "us-east4-a",
    "database_password": "not-a-password-but-long-enough",
}


@pytest.fixture(scope="module")
def bundles(made_plan: MadePlan, made_bundle: MadeBundle) -> dict[str, FileBundle]:
    return render_options("gcp", made_plan, made_bundle)


@pytest.fixture(scope="module")
def rendered(bundles: dict[str, FileBundle]) -> dict[str, Files]:
    return {name: select_files(bundle) for name, bundle in bundles.items()}


@pytest.fixture(scope="module")
def startup(rendered: dict[str, Files]) -> Configuration:
    return merge_configuration(rendered["startup/cloud-gcp"])


def _cluster(module: Configuration) -> Configuration:
    found: Configuration = module["resource"]["google_container_cluster"]["site"]
    return found


def test_every_option_renders_files_that_hold_together(rendered: dict[str, Files]) -> None:
    assert len(rendered) >= 7
    for name, files in rendered.items():
        assert find_faults(files) == [], name
        labels = merge_configuration(files)["locals"]["labels"]
        assert {"owner", "archwright-tenant", "archwright-option", "archwright-site"} <= labels.keys()


def test_account_values_have_no_default(startup: Configuration) -> None:
    open_values = {name for name, one in startup["variable"].items() if "default" not in one}
    assert open_values == VALUES.keys()
    assert startup["variable"]["database_password"]["sensitive"]


FAULTS: dict[str, Break] = {
    "local.place": lambda m: m["resource"]["google_kms_key_ring"]["site"].update(location="${local.place}"),
    "google_gone.b": lambda m: _cluster(m)["depends_on"].append("google_gone.b"),
    "archwright.password": lambda m: m["resource"]["google_sql_user"]["archwright"].update(password="x"),
    "project_id has no validation": lambda m: m["variable"]["project_id"].pop("validation"),
    "has no reason": lambda m: m["resource"]["google_compute_network"]["site"].update({"//": ""}),
    "nothing uses local.spare": lambda m: m["locals"].update(spare="x"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(fault: str, rendered: dict[str, Files]) -> None:
    broken = copy.deepcopy(merge_configuration(rendered["startup/cloud-gcp"]))
    FAULTS[fault](broken)
    files = {"main.tf.json": json.dumps(broken, indent=2, sort_keys=True, ensure_ascii=False) + "\n"}
    assert any(fault in one for one in find_faults(files))


def test_every_resource_with_a_bill_has_the_labels(startup: Configuration) -> None:
    resources = startup["resource"]
    billed = {
        "google_container_cluster": "resource_labels",
        "google_storage_bucket": "labels",
        "google_kms_crypto_key": "labels",
        "google_secret_manager_secret": "labels",
        "google_compute_global_address": "labels",
    }
    for kind, word in billed.items():
        assert all(one[word] == "${local.labels}" for one in resources[kind].values()), kind
    assert resources["google_sql_database_instance"]["site"]["settings"]["user_labels"] == "${local.labels}"
    for pool in resources["google_container_node_pool"].values():
        assert pool["node_config"]["resource_labels"] == "${local.labels}"
    for text in startup["locals"]["labels"].values():
        assert re.fullmatch(r"[a-z0-9_-]{1,63}", text) or text == "${var.owner}"


def test_committed_machines_use_their_own_reservation(startup: Configuration, made_deployment: Any) -> None:
    deployment: Deployment = made_deployment("startup", "gcp", "cloud-gcp")
    groups = [one for one in deployment.main_site.machines if one.kind.startswith("commit") and int(one.mean)]
    reservations = startup["resource"]["google_compute_reservation"]
    assert groups and set(reservations) == {one.name for one in groups}
    for one in groups:
        specific = reservations[one.name]["specific_reservation"]
        assert (specific["count"], specific["instance_properties"]["machine_type"]) == (int(one.mean), one.machine)
        assert reservations[one.name]["specific_reservation_required"]
        pool = startup["resource"]["google_container_node_pool"][one.name]
        affinity = pool["node_config"]["reservation_affinity"]
        assert affinity["consume_reservation_type"] == "SPECIFIC_RESERVATION"
        assert affinity["values"] == [f"${{google_compute_reservation.{one.name}.name}}"]
        assert pool["node_count"] == int(one.mean) and "autoscaling" not in pool
        assert len(pool["name"]) <= 40 and re.fullmatch(r"[a-z][a-z0-9-]*", pool["name"])


def test_jobs_on_demand_wait_for_free_machines(rendered: dict[str, Files], made_deployment: Any) -> None:
    pools = {}
    for name, files in rendered.items():
        example, option = name.split("/")
        deployment: Deployment = made_deployment(example, "gcp", option)
        named = merge_configuration(files)["resource"]["google_container_node_pool"]
        for site in deployment.sites:
            for one in site.machines:
                if one.is_job and one.kind == "on-demand" and one.vendor and not site.is_own:
                    pools[one.name] = (named[one.name], one)
    assert pools, "no example has such a job"
    for pool, group in pools.values():
        config = pool["node_config"]
        assert config["flex_start"] and config["max_run_duration"] == "604800s"
        assert config["reservation_affinity"] == {"consume_reservation_type": "NO_RESERVATION"}
        assert pool["autoscaling"]["total_min_node_count"] == 0
        assert pool["autoscaling"]["total_max_node_count"] == group.peak
        assert pool["management"]["auto_repair"] is False


def test_limits_of_node_provisioning_are_the_plans_peaks(startup: Configuration, made_deployment: Any) -> None:
    deployment: Deployment = made_deployment("startup", "gcp", "cloud-gcp")
    wanted = sum(one.peak * one.accelerator_count for one in deployment.main_site.machines)
    scaling = _cluster(startup)["cluster_autoscaling"]
    limits = {one["resource_type"]: one["maximum"] for one in scaling["resource_limits"]}
    assert limits['${local.accelerators["L4"]}'] == wanted
    assert limits["cpu"] >= sum(one.peak * one.vcpu for one in deployment.main_site.machines)
    defaults = scaling["auto_provisioning_defaults"]
    assert defaults["service_account"] and defaults["boot_disk_kms_key"]


def test_every_accelerator_that_is_sold_here_has_a_type(startup: Configuration, catalog: Catalog) -> None:
    sold = {one.accelerator for one in catalog.offers_of("gcp") if one.accelerator}
    gpus = {name for name in sold if catalog.accelerators[name].vendor.lower() == "nvidia"}
    assert gpus - set(startup["locals"]["accelerators"]) == set()


def test_the_traps_of_the_cluster(startup: Configuration) -> None:
    cluster = _cluster(startup)
    assert cluster["private_cluster_config"]["enable_private_endpoint"]
    assert cluster["networking_mode"] == "VPC_NATIVE" and cluster["datapath_provider"] == "ADVANCED_DATAPATH"
    assert cluster["location"] == "${local.region}"  # a zone would have one control plane
    assert cluster["workload_identity_config"]["workload_pool"] and cluster["gateway_api_config"]["channel"]
    assert cluster["release_channel"]["channel"] == "REGULAR"
    (exclusion,) = cluster["maintenance_policy"]["maintenance_exclusion"]
    assert exclusion["exclusion_options"]["scope"] == "NO_MINOR_OR_NODE_UPGRADES"
    assert {"DCGM", "SYSTEM_COMPONENTS"} <= set(cluster["monitoring_config"]["enable_components"])
    assert cluster["monitoring_config"]["managed_prometheus"]["enabled"]
    assert cluster["database_encryption"]["state"] == "ENCRYPTED" and cluster["enable_shielded_nodes"]
    # The default pool would run with the account of Compute Engine until it is removed.
    assert cluster["remove_default_node_pool"] and cluster["node_config"]["service_account"]
    assert "google_kms_crypto_key_iam_member.site" in cluster["depends_on"]
    # Regional load balancers of the Gateway API need a subnet for their proxies.
    subnets = startup["resource"]["google_compute_subnetwork"]
    assert subnets["proxies"]["purpose"] == "REGIONAL_MANAGED_PROXY" and subnets["proxies"]["role"] == "ACTIVE"


def test_the_node_image_brings_the_driver(startup: Configuration) -> None:
    pools = startup["resource"]["google_container_node_pool"]
    for name, pool in pools.items():
        config = pool["node_config"]
        assert config["image_type"] == "COS_CONTAINERD" and config["boot_disk_kms_key"]
        assert config["workload_metadata_config"]["mode"] == "GKE_METADATA"
        if name != "system":
            (accelerator,) = config["guest_accelerator"]
            assert accelerator["gpu_driver_installation_config"]["gpu_driver_version"] == "DEFAULT"
            taints = {one["key"]: one["value"] for one in config["taint"]}
            assert taints.pop("nvidia.com/gpu") == "present"
            # GKE scales a pool for a ComputeClass only with this label and taint.
            assert taints == {"cloud.google.com/compute-class": config["labels"]["cloud.google.com/compute-class"]}


def test_data_stay_private_and_encrypted(startup: Configuration) -> None:
    resources = startup["resource"]
    bucket = resources["google_storage_bucket"]["site"]
    assert bucket["uniform_bucket_level_access"] and bucket["public_access_prevention"] == "enforced"
    assert bucket["versioning"]["enabled"] and bucket["encryption"]["default_kms_key_name"]
    assert bucket["location"] == "${local.region}"
    database = resources["google_sql_database_instance"]["site"]
    address = database["settings"]["ip_configuration"]
    assert not address["ipv4_enabled"] and address["ssl_mode"] == "ENCRYPTED_ONLY"
    assert database["deletion_protection"] and database["encryption_key_name"]
    assert database["settings"]["backup_configuration"]["point_in_time_recovery_enabled"]
    # Without the peering, the instance would fail to get an address.
    assert "google_service_networking_connection.services" in database["depends_on"]
    user = resources["google_sql_user"]["archwright"]
    assert "password" not in user and "password_wo" in user
    assert resources["google_kms_crypto_key"]["site"]["lifecycle"]["prevent_destroy"]


def test_names_fit_the_limits_of_the_cloud(startup: Configuration) -> None:
    longest = startup["locals"]["name"].replace("${var.name_suffix}", "x" * 8)
    for one in startup["resource"]["google_service_account"].values():
        assert 6 <= len(one["account_id"].replace("${local.name}", longest)) <= 30
    assert len(longest) <= 40


def test_accounts_have_no_wide_role_and_no_key(startup: Configuration) -> None:
    text = json.dumps(startup)
    assert not re.search(r"roles/(owner|editor|viewer)\b|roles/\w+\.admin\b", text)
    assert "google_service_account_key" not in startup["resource"]
    assert "allUsers" not in text and "allAuthenticatedUsers" not in text


def test_a_site_without_the_gateway_has_no_database(made_deployment: Any) -> None:
    files = render_without_gateway("gcp", made_deployment("clinic", "gcp", "hybrid-gcp"))
    assert find_faults(files) == []
    module = merge_configuration(files)
    assert "google_sql_database_instance" not in module["resource"]
    assert "database" not in module["locals"]["service_agents"]


def test_the_budget_is_the_plans_cost(startup: Configuration, made_deployment: Any) -> None:
    deployment: Deployment = made_deployment("startup", "gcp", "cloud-gcp")
    cost = deployment.option.cost_per_month
    assert cost is not None
    assert startup["variable"]["budget_per_month"]["default"] == pytest.approx(cost.value, rel=0.02)
    rules = startup["resource"]["google_billing_budget"]["site"]["threshold_rules"]
    assert max(one["threshold_percent"] for one in rules) >= cost.high / cost.value - 0.01


def test_the_readme_says_what_to_request_and_what_bills(bundles: dict[str, FileBundle]) -> None:
    text = bundles["startup/cloud-gcp"].files["terraform/README.md"].text
    for heading in ("Before you apply", "Apply", "What bills while idle", "Verify", "Take down"):
        assert f"## {heading}" in text
    assert "36 vCPU, 9 L4" in text and "gke-security-groups" in text and "terraform state rm" in text


def test_compute_classes_name_the_pools_of_terraform(bundles: dict[str, FileBundle]) -> None:
    for name, bundle in bundles.items():
        files = select_files(bundle)
        pools = merge_configuration(files)["resource"]["google_container_node_pool"].values()
        found = [
            pool
            for path, file in bundle.files.items()
            if path.startswith("kubernetes/") and path.endswith("node-pools.yaml")
            for one in yaml.load_all(file.text, yaml.CSafeLoader)
            for priority in one["spec"].get("priorities", ())
            for pool in priority.get("nodepools", ())
        ]
        assert sorted(found) == sorted(one["name"] for one in pools if one["name"] != "system"), name


def test_logs_are_kept_as_the_controls_demand(rendered: dict[str, Files]) -> None:
    for name, files in rendered.items():
        bucket = merge_configuration(files)["resource"]["google_logging_project_bucket_config"]["site"]
        assert 183 <= bucket["retention_days"] <= 3650, name
        assert "eu-ai-act" in bucket["//"] or not name.startswith("clinic")


def _values(files: Files) -> dict[str, str]:
    """The reserved zone must lie in the region of the site."""
    return {**VALUES, "reserved_zone": f"{merge_configuration(files)['locals']['region']}-a"}


@pytest.mark.nightly
def test_every_option_applies_and_keeps_the_policies(rendered: dict[str, Files], tmp_path: Path) -> None:
    findings = {one for name, files in rendered.items() for one in apply_site(files, tmp_path / name, _values(files))}
    assert judge_site("gcp", findings) == []


BROKEN: dict[str, tuple[Break, str]] = {
    "misspelled argument": (lambda r: r["google_compute_network"]["site"].update(route_mode="X"), "route_mode"),
    "missing required argument": (lambda r: r["google_storage_bucket"]["site"].pop("location"), "location"),
    "missing required block": (lambda r: r["google_billing_budget"]["site"].pop("amount"), "amount"),
    "wrong type": (lambda r: r["google_container_cluster"]["site"].update(resource_labels="x"), "resource_labels"),
    "unknown resource type": (lambda r: r.update(google_network={"site": {}}), "google_network"),
    "bad reference": (lambda r: r["google_compute_router"]["site"].update(name="${google_gone.a.id}"), "google_gone"),
    "computed attribute": (lambda r: r["google_storage_bucket"]["site"].update(self_link="x"), "self_link"),
}


@pytest.mark.nightly
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_bundle_is_rejected(name: str, rendered: dict[str, Files], tmp_path: Path) -> None:
    check_rejection(rendered["startup/cloud-gcp"], tmp_path, *BROKEN[name])


@pytest.mark.nightly
def test_the_policies_find_an_open_bucket(rendered: dict[str, Files], tmp_path: Path) -> None:
    def open_it(resources: Configuration) -> None:
        resources["google_storage_bucket"]["site"].update(public_access_prevention="inherited")

    found = scan_broken(rendered["startup/cloud-gcp"], tmp_path, VALUES, open_it)
    assert any("CKV_GCP_114" in one for one in judge_site("gcp", found))
