"""Values of a site that only its owner knows: one place for each, the same in all files, and refused while empty."""

from __future__ import annotations

import msgspec
import pytest
from tests.deploy.conftest import MadeBundle
from tests.deploy.test_platform import find_objects, read_objects

from archwright.contract.record import replace
from archwright.deploy.rendering.bundle import FileBundle
from archwright.deploy.rendering.components import Pins

HOST = "ai.company.com"
OPTIONS = {"onprem": "on-premises", "aws": None, "azure": None, "gcp": None, "kubernetes": None}
VAULTS = {"azure": "https://company-ai.vault.azure.net", "gcp": "company-ai"}


def read_open(bundle: FileBundle) -> list[str]:
    """Return the subjects that install.sh prints when it refuses the bundle."""
    return [line.partition(":")[0] for line in bundle.files["unresolved.txt"].text.splitlines()]


@pytest.mark.parametrize("target", OPTIONS)
def test_the_host_name_is_the_same_in_all_files_and_refused_while_empty(made_bundle: MadeBundle, target: str) -> None:
    bundle = made_bundle("clinic", target, OPTIONS[target])
    (site,) = bundle.pins.hosts
    assert f"host {site}" in read_open(bundle)
    assert find_hosts(bundle) == {"unresolved.invalid"}

    stated = replace(bundle.pins, hosts={site: HOST})
    again = made_bundle("clinic", target, OPTIONS[target], stated)
    assert find_hosts(again) == {HOST}
    assert f"host {site}" not in read_open(again)
    assert again.pins.hosts == {site: HOST}, "the next rendering keeps it"
    named = [path for path, file in again.files.items() if "example.com" in file.text and "examples/" not in path]
    assert not named


def find_hosts(bundle: FileBundle) -> set[str]:
    """Return the names in listener, route and certificate."""
    hosts = set[str]()
    kinds = set[str]()
    for path, one in read_objects(bundle):
        if not path.endswith(f"overlays/{next(iter(bundle.pins.hosts))}/ingress.yaml"):
            continue
        kinds.add(one["kind"])
        spec = one["spec"]
        hosts.update(spec.get("hostnames", ()), spec.get("dnsNames", ()))
        hosts.update(listener["hostname"] for listener in spec.get("listeners", ()))
    assert kinds >= {"Gateway", "HTTPRoute", "Certificate"}
    return hosts


def test_each_environment_has_a_host_name_of_its_own(made_bundle: MadeBundle) -> None:
    for environment, host in (("prod", HOST), ("stage", "ai-stage.company.com")):
        bundle = made_bundle("startup", "aws", environment=environment)
        pins = replace(bundle.pins, hosts=dict.fromkeys(bundle.pins.hosts, host))
        assert find_hosts(made_bundle("startup", "aws", pins=pins, environment=environment)) == {host}


def test_the_certificate_of_users_has_the_stated_issuer(made_bundle: MadeBundle) -> None:
    bundle = made_bundle("startup", "aws")
    issuer = find_objects(bundle, "Certificate")["ingress"]["spec"]["issuerRef"]
    assert (issuer["kind"], issuer["name"]) == ("Issuer", "authority")
    pins = replace(bundle.pins, issuers=dict.fromkeys(bundle.pins.issuers, "letsencrypt"))
    certificates = find_objects(made_bundle("startup", "aws", pins=pins), "Certificate")
    assert certificates["ingress"]["spec"]["issuerRef"] == issuer | {"kind": "ClusterIssuer", "name": "letsencrypt"}
    assert certificates["gateway"]["spec"]["issuerRef"] == issuer, "pods trust the authority of the bundle"


@pytest.mark.parametrize("target", VAULTS)
def test_the_vault_of_a_cloud_is_stated_or_refused(made_bundle: MadeBundle, target: str) -> None:
    bundle = made_bundle("startup", target)
    (site,) = bundle.pins.vaults
    assert f"vault {site}" in read_open(bundle)
    pins = replace(bundle.pins, vaults={site: VAULTS[target]})
    again = made_bundle("startup", target, pins=pins)
    assert f"vault {site}" not in read_open(again)
    (provider,) = find_objects(again, "ClusterSecretStore")["archwright"]["spec"]["provider"].values()
    assert VAULTS[target] in provider.values()
    assert not made_bundle("startup", "aws").pins.vaults, "its region is enough"


@pytest.mark.parametrize("host", ["AI.company.com", "company", "ai..com", "a b.com", 'a".com', "-ai.com", "ai.com\n"])
def test_a_host_name_that_no_certificate_has_is_refused(host: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"hosts": {"de": host}}, Pins)
