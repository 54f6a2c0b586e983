"""Azure sites: what the plan decides, the traps of this cloud, and what every Terraform module must hold."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.deploy.conftest import MadeBundle, MadePlan

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
    "subscription_id": "11111111-1111-1111-1111-111111111111",
    "tenant_id": "22222222-2222-2222-2222-222222222222",
    "admin_group_object_id": "33333333-3333-3333-3333-333333333333",
    "name_suffix": "ab12",
    "owner": "platform",
    "alert_email": "platform@example.org",
    "network_cidr": "10.60.0.0/16",
    "operator_ip_ranges": '["203.0.113.0/28"]',
    "budget_start": "2027-01-01T00:00:00Z",
    "reserved_zone": "1",
    "database_password": "not-a-password-but-long-enough",
}


@pytest.fixture(scope="module")
def bundles(made_plan: MadePlan, made_bundle: MadeBundle) -> dict[str, FileBundle]:
    return render_options("azure", made_plan, made_bundle)


@pytest.fixture(scope="module")
def rendered(bundles: dict[str, FileBundle]) -> dict[str, Files]:
    return {name: select_files(bundle) for name, bundle in bundles.items()}


@pytest.fixture(scope="module")
def startup(rendered: dict[str, Files]) -> Configuration:
    return merge_configuration(rendered["startup/cloud-azure"])


def test_every_option_renders_files_that_hold_together(rendered: dict[str, Files]) -> None:
    assert len(rendered) >= 7
    for name, files in rendered.items():
        assert find_faults(files) == [], name
        tags = merge_configuration(files)["locals"]["tags"]
        assert {"owner", "archwright-tenant", "archwright-option", "archwright-site"} <= tags.keys()


def test_account_values_have_no_default(startup: Configuration) -> None:
    open_values = {name for name, one in startup["variable"].items() if "default" not in one}
    assert open_values == VALUES.keys()
    assert startup["variable"]["database_password"]["sensitive"]


FAULTS: dict[str, Break] = {
    "local.place": lambda m: m["resource"]["azurerm_nat_gateway"]["site"].update(location="${local.place}"),
    "azurerm_gone": lambda m: m["resource"]["azurerm_key_vault"]["site"].update(x="${azurerm_gone.a.id}"),
    "has no reason": lambda m: m["resource"]["azurerm_key_vault"]["site"].pop("//"),
    "nothing uses var.spare": lambda m: m["variable"].update(spare={"type": "string"}),
    "database_password.default": lambda m: m["variable"]["database_password"].update(default="x"),
    "administrator_password": lambda m: m["resource"]["azurerm_postgresql_flexible_server"]["site"].update(
        administrator_password="x"
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(fault: str, rendered: dict[str, Files]) -> None:
    broken = copy.deepcopy(merge_configuration(rendered["startup/cloud-azure"]))
    FAULTS[fault](broken)
    files = {"main.tf.json": json.dumps(broken, indent=2, sort_keys=True, ensure_ascii=False) + "\n"}
    assert any(fault in one for one in find_faults(files))


def test_every_taggable_resource_has_the_tags(startup: Configuration) -> None:
    without = {
        f"{kind}.{name}"
        for kind, named in startup["resource"].items()
        for name, body in named.items()
        if body.get("tags") != "${local.tags}"
    }
    bare = re.compile(
        r"subnet|association|role_assignment|federated|storage_container|management_policy|security_rule"
        r"|diagnostic|consumption_budget|server_database"
    )
    assert [one for one in without if not bare.search(one)] == []
    assert startup["locals"]["tags"]["archwright-option"]


def test_committed_machines_are_reserved_and_fixed(
    startup: Configuration, made_deployment: Any, rendered: dict[str, Files]
) -> None:
    deployment: Deployment = made_deployment("startup", "azure", "cloud-azure")
    groups = [one for one in deployment.main_site.machines if one.kind.startswith("commit")]
    pools = startup["resource"]["azurerm_kubernetes_cluster_node_pool"]
    assert groups and set(pools) == {one.name for one in groups if int(one.mean)}
    for one in groups:
        pool = pools[one.name]
        assert (pool["vm_size"], pool["node_count"]) == (one.machine, int(one.mean))
        assert startup["resource"]["azurerm_capacity_reservation"][one.name]["sku"]["capacity"] == int(one.mean)
        # AKS: a pool's name has at most 12 lower-case letters and digits.
        assert re.fullmatch(r"[a-z][a-z0-9]{0,11}", pool["name"])
        assert "capacity_reservation" in json.dumps(pool["depends_on"])
    managed = merge_configuration(rendered["startup/managed-azure"])["resource"]
    assert "azurerm_capacity_reservation" not in managed


def test_no_pool_scales_itself_beside_node_provisioning(startup: Configuration) -> None:
    cluster = startup["resource"]["azurerm_kubernetes_cluster"]["site"]
    assert cluster["node_provisioning_profile"]["mode"] == "Auto"
    assert "auto_scaling_enabled" not in cluster["default_node_pool"]
    for pool in startup["resource"]["azurerm_kubernetes_cluster_node_pool"].values():
        assert pool["auto_scaling_enabled"] is False


def test_the_traps_of_the_cluster(startup: Configuration) -> None:
    cluster = startup["resource"]["azurerm_kubernetes_cluster"]["site"]
    assert cluster["private_cluster_enabled"] and not cluster["private_cluster_public_fqdn_enabled"]
    assert cluster["oidc_issuer_enabled"] and cluster["workload_identity_enabled"] and cluster["local_account_disabled"]
    assert cluster["azure_active_directory_role_based_access_control"]["azure_rbac_enabled"]
    # A private vault for the cluster's key needs the API server inside the network.
    assert cluster["key_management_service"]["key_vault_network_access"] == "Private"
    assert cluster["api_server_access_profile"]["virtual_network_integration_enabled"]
    # Security patches without a new image do not reach nodes with accelerators.
    assert cluster["node_os_upgrade_channel"] == "NodeImage"
    assert cluster["maintenance_window_auto_upgrade"] and cluster["maintenance_window_node_os"]
    network = cluster["network_profile"]
    assert (network["network_plugin_mode"], network["network_policy"]) == ("overlay", "cilium")
    # The NAT gateway must exist before the first node.
    assert network["outbound_type"] == "userAssignedNATGateway"
    assert "azurerm_subnet_nat_gateway_association.site" in cluster["depends_on"]
    # System machines have at least four virtual processors.
    assert int(re.findall(r"\d+", cluster["default_node_pool"]["vm_size"])[0]) >= 4
    assert "ai_toolchain_operator_enabled" not in cluster


def test_accelerator_pools_are_tainted_and_have_the_driver_once(
    startup: Configuration, bundles: dict[str, FileBundle]
) -> None:
    """The GPU operator of the Kubernetes bundle installs no driver, because the image has it."""
    values = bundles["startup/cloud-azure"].files
    (operator,) = (file.text for path, file in values.items() if path.endswith("values-gpu-operator.yaml"))
    assert yaml.load(operator, yaml.CSafeLoader)["driver"] == {"enabled": False}
    for pool in startup["resource"]["azurerm_kubernetes_cluster_node_pool"].values():
        assert pool["gpu_driver"] == "Install"
        assert pool["node_taints"] == ["nvidia.com/gpu=present:NoSchedule"]
        assert pool["node_labels"]["archwright.dev/node-class"]


def test_a_machine_without_accelerator_gets_neither_driver_nor_taint(rendered: dict[str, Files]) -> None:
    for files in rendered.values():
        pools = merge_configuration(files)["resource"].get("azurerm_kubernetes_cluster_node_pool", {})
        assert all(("gpu_driver" in one) == bool(one["node_taints"]) for one in pools.values())


def test_logs_are_kept_as_the_controls_demand(rendered: dict[str, Files]) -> None:
    for name, files in rendered.items():
        workspace = merge_configuration(files)["resource"]["azurerm_log_analytics_workspace"]["site"]
        assert 183 <= workspace["retention_in_days"] <= 730, name
    workspace = merge_configuration(rendered["clinic/cloud-azure"])["resource"]["azurerm_log_analytics_workspace"]
    assert "eu-ai-act" in workspace["site"]["//"]


def test_data_stay_private_and_encrypted(startup: Configuration) -> None:
    resources = startup["resource"]
    account = resources["azurerm_storage_account"]["site"]
    assert not account["shared_access_key_enabled"] and not account["public_network_access_enabled"]
    assert account["min_tls_version"] == "TLS1_2" and account["blob_properties"]["versioning_enabled"]
    # Shared keys are off, so the provider must use Entra, and it must not look at the private data plane.
    provider = startup["provider"]["azurerm"]
    assert provider["storage_use_azuread"] and provider["features"]["storage"]["data_plane_available"] is False
    server = resources["azurerm_postgresql_flexible_server"]["site"]
    assert not server["public_network_access_enabled"] and server["lifecycle"]["prevent_destroy"]
    assert "administrator_password" not in server and "administrator_password_wo" in server
    for one in (account, server):
        assert one["customer_managed_key"]["key_vault_key_id"]
        # The key's role must be there before the service uses the key.
        assert "azurerm_role_assignment.key_use" in one["depends_on"]
    vault = resources["azurerm_key_vault"]["site"]
    assert vault["rbac_authorization_enabled"] and vault["purge_protection_enabled"]
    assert vault["network_acls"]["default_action"] == "Deny"


def test_names_fit_the_limits_of_the_cloud(startup: Configuration) -> None:
    longest = startup["locals"]["name"].replace("${var.name_suffix}", "x" * 8)
    assert len(f"{longest}-kv") <= 24 and len(longest.replace("-", "") + "st") <= 24


def test_identities_have_no_wide_role(startup: Configuration) -> None:
    text = json.dumps(startup["resource"]["azurerm_role_assignment"]) + json.dumps(startup["locals"])
    roles = set(re.findall(r'"role(?:_definition_name)?": "([^"$]+)"', text))
    assert not roles & {"Owner", "User Access Administrator"}
    contributor = [name for name, one in startup["locals"]["cluster_roles"].items() if one["role"] == "Contributor"]
    assert contributor == ["reserved"]
    for one in startup["locals"]["workloads"].values():
        assert one["scope"].startswith("${azurerm_storage_container.") or one["role"] == "Key Vault Secrets User"


def test_a_site_without_the_gateway_has_no_database(made_deployment: Any) -> None:
    files = render_without_gateway("azure", made_deployment("clinic", "azure", "hybrid-azure"))
    assert find_faults(files) == []
    module = merge_configuration(files)
    assert "azurerm_postgresql_flexible_server" not in module["resource"]
    assert "database_password" not in module["variable"] and "database" not in module["locals"]["subnets"]


def test_the_budget_is_the_plans_cost(startup: Configuration, made_deployment: Any) -> None:
    deployment: Deployment = made_deployment("startup", "azure", "cloud-azure")
    cost = deployment.option.cost_per_month
    assert cost is not None
    assert startup["variable"]["budget_per_month"]["default"] == pytest.approx(cost.value, rel=0.02)
    notes = startup["resource"]["azurerm_consumption_budget_resource_group"]["site"]["notification"]
    assert max(one["threshold"] for one in notes) >= 100 * cost.high / cost.value - 1


def test_the_readme_says_what_to_request_and_what_bills(bundles: dict[str, FileBundle]) -> None:
    text = bundles["startup/cloud-azure"].files["terraform/README.md"].text
    for heading in ("Before you apply", "Apply", "What bills while idle", "Verify", "Take down"):
        assert f"## {heading}" in text
    assert "| Standard_NC8ads_A10_v4 | on-demand |" in text and "48 vCPU" in text
    assert "purge" in text and "TF_VAR_database_password" in text


@pytest.mark.nightly
def test_every_option_applies_and_keeps_the_policies(rendered: dict[str, Files], tmp_path: Path) -> None:
    findings = {one for name, files in rendered.items() for one in apply_site(files, tmp_path / name, VALUES)}
    assert judge_site("azure", findings) == []


BROKEN: dict[str, tuple[Break, str]] = {
    "misspelled argument": (lambda r: r["azurerm_nat_gateway"]["site"].update(skuname="Standard"), "skuname"),
    "argument of an older provider": (
        lambda r: next(iter(r["azurerm_kubernetes_cluster_node_pool"].values())).update(enable_auto_scaling=False),
        "enable_auto_scaling",
    ),
    "missing required argument": (
        lambda r: r["azurerm_key_vault"]["site"].pop("rbac_authorization_enabled"),
        "rbac_authorization_enabled",
    ),
    "missing required block": (
        lambda r: r["azurerm_kubernetes_cluster"]["site"].pop("node_provisioning_profile"),
        "node_provisioning_profile",
    ),
    "wrong type": (lambda r: r["azurerm_virtual_network"]["site"].update(address_space={"a": "b"}), "address_space"),
    "unknown resource type": (lambda r: r.update(azurerm_network={"site": {}}), "azurerm_network"),
    "bad reference": (lambda r: r["azurerm_public_ip"]["nat"].update(name="${azurerm_gone.a.id}"), "azurerm_gone"),
    "computed attribute": (lambda r: r["azurerm_key_vault"]["site"].update(vault_uri="https://x"), "vault_uri"),
}


@pytest.mark.nightly
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_bundle_is_rejected(name: str, rendered: dict[str, Files], tmp_path: Path) -> None:
    check_rejection(rendered["startup/cloud-azure"], tmp_path, *BROKEN[name])


@pytest.mark.nightly
def test_the_policies_find_an_open_account(rendered: dict[str, Files], tmp_path: Path) -> None:
    def open_it(resources: Configuration) -> None:
        resources["azurerm_storage_account"]["site"].update(min_tls_version="TLS1_0")

    found = scan_broken(rendered["startup/cloud-azure"], tmp_path, VALUES, open_it)
    assert any("CKV_AZURE_44" in one for one in judge_site("azure", found))
