"""What the clusters of a cloud expect from its Terraform: names of secrets, and machines that the gateway fits on."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from tests.deploy.conftest import MadeBundle

from archwright.catalog.catalog import Catalog
from archwright.deploy.cluster.cloud_site import list_system_machines
from archwright.deploy.rendering.bundle import FileBundle

# Provider: resource of a secret, and its argument with the name.
SECRETS = {
    "aws": ("aws_secretsmanager_secret", "name"),
    "azure": ("azurerm_key_vault_secret", "name"),
    "gcp": ("google_secret_manager_secret", "secret_id"),
}


def list_objects(bundle: FileBundle, kind: str) -> list[dict[str, Any]]:
    texts = [file.text for path, file in bundle.files.items() if path.endswith(".yaml")]
    found = [one for text in texts for one in yaml.load_all(text, yaml.CSafeLoader)]
    return [one for one in found if isinstance(one, dict) and one.get("kind") == kind]


def list_resources(bundle: FileBundle, kind: str) -> list[dict[str, Any]]:
    files = [json.loads(file.text) for path, file in bundle.files.items() if path.endswith(".tf.json")]
    return [one for file in files for one in file.get("resource", {}).get(kind, {}).values()]


@pytest.mark.parametrize("place", SECRETS)
def test_every_secret_that_a_cluster_reads_is_made_under_its_name(place: str, made_bundle: MadeBundle) -> None:
    bundle = made_bundle("startup", place, f"cloud-{place}")
    kind, argument = SECRETS[place]
    secrets = [one["spec"]["data"] for one in list_objects(bundle, "ExternalSecret")]
    read = {one["remoteRef"]["key"] for data in secrets for one in data}
    assert read
    assert read <= {one[argument] for one in list_resources(bundle, kind)}


@pytest.mark.parametrize("place", SECRETS)
def test_the_gateway_fits_on_a_system_node(place: str, made_bundle: MadeBundle, catalog: Catalog) -> None:
    bundle = made_bundle("manufacturer", place, f"cloud-{place}")
    (gateway,) = list_objects(bundle, "StatefulSet")
    wanted = int(gateway["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"])
    assert wanted > 2, "a plan that needs more than the smallest machine"
    terraform = "".join(file.text for path, file in bundle.files.items() if path.endswith(".tf.json"))
    (cores,) = {cores for cores, machine in list_system_machines(catalog, place) if f'"{machine}"' in terraform}
    assert cores > wanted


def test_the_roles_of_aws_name_accounts_that_the_charts_make(made_bundle: MadeBundle) -> None:
    bundle = made_bundle("startup", "aws", "cloud-aws")
    pods = json.loads(bundle.files["terraform/identity.tf.json"].text)["locals"]["pods"]
    assert pods["prometheus"] == ["archwright-monitoring", "kube-prometheus-stack-prometheus"]


def test_gke_serves_shared_volumes_and_encrypts_between_nodes(made_bundle: MadeBundle) -> None:
    bundle = made_bundle("startup", "gcp", "cloud-gcp")
    (services,) = list_resources(bundle, "google_project_service")
    assert '"file"' in services["for_each"], "the storage class of weights uses Filestore"
    (cluster,) = list_resources(bundle, "google_container_cluster")
    assert cluster["in_transit_encryption_config"] == "IN_TRANSIT_ENCRYPTION_INTER_NODE_TRANSPARENT"


def test_the_volumes_of_aks_need_no_right_beyond_the_subnet_of_the_nodes(made_bundle: MadeBundle) -> None:
    bundle = made_bundle("startup", "azure", "cloud-azure")
    (storage,) = list_objects(bundle, "StorageClass")
    assert storage["parameters"] == {"skuName": "Premium_ZRS", "protocol": "nfs"}
    (subnet,) = list_resources(bundle, "azurerm_subnet")
    assert '"Microsoft.Storage"' in subnet["dynamic"]["service_endpoint"]["for_each"]
