"""The two halves of a hybrid: its gateway reaches engines at the cloud by one name, one key and one authority."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from tests.deploy.conftest import MadeBundle, MadePlan
from tests.deploy.object_rules import Item, check_objects, find_pods

from archwright.contract.record import replace
from archwright.deploy.rendering.bundle import FileBundle
from archwright.http_client.connection_pool import create_tls_context

from .clusters import list_overlays, read_cluster

PROVIDERS = ("aws", "azure", "gcp")
POOL = "letters-above-mean"


def read_halves(bundle: FileBundle) -> tuple[list[Item], str, list[Item]]:
    """Return the objects of the gateway's site, the name of the other site, and its objects."""
    overlays = {folder.name: folder for folder in list_overlays(bundle) if folder.parent.name == "overlays"}
    ((site, folder),) = [(name, folder) for name, folder in overlays.items() if name != "de"]
    return read_cluster(bundle, overlays["de"]), site, read_cluster(bundle, folder)


def find(items: list[Item], kind: str, name: str) -> Item:
    (found,) = [one for one in items if one["kind"] == kind and one["metadata"]["name"] == name]
    return found


def read_pool(items: list[Item]) -> Item:
    """Return the pool of the other site as the gateway reads it."""
    pools: list[Item] = json.loads(find(items, "ConfigMap", "gateway")["data"]["gateway.json"])["pools"]
    return next(one for one in pools if one["name"] == POOL)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_the_halves_of_a_hybrid_fit_together(provider: str, made_bundle: MadeBundle, made_plan: MadePlan) -> None:
    bundle = made_bundle("clinic", "kubernetes", f"hybrid-{provider}")
    home, site, away = read_halves(bundle)
    assert check_objects(away) == []
    pool = read_pool(home)
    check_name(pool["addresses"], away)
    check_key(bundle, home, site, away)
    check_authority(bundle, home, away)
    check_way(home, away)
    assert POOL not in bundle.pins.addresses and f"address {POOL}" not in bundle.files["unresolved.txt"].text
    option = next(one for one in made_plan("clinic").options if one.name == f"hybrid-{provider}")
    assert any("load balancer: " in line.name.lower() for line in option.cost_lines), "the plan pays for it"


def check_name(addresses: list[str], away: list[Item]) -> None:
    """The address of the pool is the name of its route and of its certificate."""
    route, certificate = find(away, "HTTPRoute", f"engine-{POOL}")["spec"], find(away, "Certificate", "ingress")["spec"]
    (name,) = route["hostnames"]
    assert addresses == [f"https://{name}/v1"] and name in certificate["dnsNames"]
    (listener,) = find(away, "Gateway", "archwright")["spec"]["listeners"]
    assert (listener["port"], listener["protocol"]) == (443, "HTTPS")
    assert listener["tls"]["certificateRefs"] == [{"kind": "Secret", "name": certificate["secretName"]}]
    (backend,) = route["rules"][0]["backendRefs"]
    service = find(away, "Service", backend["name"])
    assert backend["port"] in {port["port"] for port in service["spec"]["ports"]}
    assert {one["path"]["value"] for one in route["rules"][0]["matches"]} == {"/v1", "/health"}


def check_key(bundle: FileBundle, home: list[Item], site: str, away: list[Item]) -> None:
    """Both sides name one secret; the script of the other site makes it, and the README copies it."""
    variable = read_pool(home)["key"].removeprefix("env:")
    container = next(find_pods(find(home, "StatefulSet", "gateway"))).spec["containers"][0]
    (reference,) = [one["valueFrom"]["secretKeyRef"] for one in container["env"] if one["name"] == variable]
    demanded = find(away, "SecurityPolicy", "engines")["spec"]
    assert [one["name"] for one in demanded["targetRefs"]] == ["archwright"]
    (credential,) = demanded["apiKeyAuth"]["credentialRefs"]
    assert credential["name"] == reference["name"] == f"engines-{site}"
    made = rf"create secret generic {reference['name']} --from-literal={reference['key']}="
    assert re.search(f"-n archwright-engines {made}", bundle.files[f"platform/{site}/install.sh"].text)
    read_me = bundle.files["README.md"].text
    assert f"get secret {reference['name']} -o jsonpath='{{.data.{reference['key']}}}'" in read_me
    assert f"create secret generic {reference['name']} --from-file={reference['key']}=key" in read_me


def check_authority(bundle: FileBundle, home: list[Item], away: list[Item]) -> None:
    """The gateway verifies by a file of its volume: the authority that issues the certificate of the other site."""
    pod = next(find_pods(find(home, "StatefulSet", "gateway"))).spec
    container = pod["containers"][0]
    (file,) = [Path(one["value"]) for one in container["env"] if one["name"] == "SSL_CERT_FILE"]
    (mount,) = [one for one in container["volumeMounts"] if one["mountPath"] == str(file.parent)]
    (volume,) = [one for one in pod["volumes"] if one["name"] == mount["name"]]
    issuer = find(away, "Certificate", "ingress")["spec"]["issuerRef"]["name"]
    signed_by = find(away, "Issuer", issuer)["spec"]["ca"]["secretName"]
    assert find(away, "Certificate", "authority")["spec"]["secretName"] == signed_by
    read_me = bundle.files["README.md"].text
    assert f"get secret {signed_by} -o jsonpath='{{.data.ca\\.crt}}' | base64 -d >> {file.name}" in read_me
    assert f"create secret generic {volume['secret']['secretName']} --from-file={file.name}" in read_me


def check_way(home: list[Item], away: list[Item]) -> None:
    """The load balancer is internal; policies let the gateway out and Envoy in."""
    annotations = find(away, "EnvoyProxy", "archwright")["spec"]["provider"]["kubernetes"]["envoyService"][
        "annotations"
    ]
    assert {"internal", "true", "Internal"} & {*annotations.values()}
    out = find(home, "NetworkPolicy", "gateway")["spec"]["egress"]
    assert {"port": 443, "protocol": "TCP"} in [port for rule in out for port in rule["ports"]]
    (rule,) = find(away, "NetworkPolicy", "way-in")["spec"]["ingress"]
    (source,) = rule["from"]
    gateway = find(away, "Gateway", "archwright")["metadata"]
    labels = source["podSelector"]["matchLabels"]
    owner = (labels[f"gateway.envoyproxy.io/owning-gateway-{name}"] for name in ("namespace", "name"))
    assert tuple(owner) == (gateway["namespace"], gateway["name"])
    (port,) = find(away, "Service", f"engine-{POOL}")["spec"]["ports"]
    assert port["port"] in {one["port"] for one in rule["ports"]}


def test_a_name_that_a_user_states_stands_in_both_halves(made_bundle: MadeBundle) -> None:
    first = made_bundle("clinic", "kubernetes", "hybrid-aws", environment="stage")
    pool = read_pool(read_halves(first)[0])
    check_name(pool["addresses"], read_halves(first)[2])
    assert pool["addresses"][0].endswith(".archwright-stage.internal/v1"), "environments have names of their own"
    pins = replace(first.pins, addresses={POOL: "https://letters.clinic.example/v1"})
    home, _, away = read_halves(made_bundle("clinic", "kubernetes", "hybrid-aws", pins=pins))
    assert read_pool(home)["addresses"] == ["https://letters.clinic.example/v1"]
    check_name(read_pool(home)["addresses"], away)


@pytest.mark.process
def test_the_gateway_trusts_the_authority_in_its_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=archwright-site"
    subprocess.run([*command.split(), "-keyout", "key.pem", "-out", "ca.crt"], cwd=tmp_path, check=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.crt"))
    (trusted,) = create_tls_context.__wrapped__().get_ca_certs()
    assert "archwright-site" in str(trusted["subject"])
