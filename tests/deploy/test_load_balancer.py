"""The way in of a rendered cluster: internal in every cloud, and as patient as the longest response of the plan."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import Any

import pytest
import yaml
from tests.deploy.conftest import MadeBundle, MadeDeployment
from tests.deploy.object_rules import Item, read_objects

from archwright.contract.record import replace
from archwright.deploy.cluster.load_balancer import build_load_balancer
from archwright.deploy.rendering.bundle import FileBundle

INTERNAL = {
    "aws": ("service.beta.kubernetes.io/aws-load-balancer-scheme", "internal", "internet-facing"),
    "azure": ("service.beta.kubernetes.io/azure-load-balancer-internal", "true", "false"),
    "gcp": ("networking.gke.io/load-balancer-type", "Internal", "External"),
}
# A connection without a byte is forgotten after so many seconds, whatever the annotations say.
FORGOTTEN_S = {"aws": 6000, "azure": 240, "gcp": 600}


def find_object(bundle: FileBundle, kind: str, name: str) -> Item | None:
    files = [file.text for path, file in bundle.files.items() if "overlays/" in path and path.endswith(".yaml")]
    objects = [one for text in files for one in read_objects(text) if one.get("kind") == kind]
    found = [one for one in objects if one["metadata"]["name"] == name]
    return found[0] if found else None


def need_object(bundle: FileBundle, kind: str, name: str) -> Item:
    found = find_object(bundle, kind, name)
    assert found is not None, (kind, name)
    return found


def read_seconds(text: str) -> int:
    assert re.fullmatch(r"\d{1,5}s", text), "a duration of the Gateway API"
    return int(text[:-1])


def read_service(bundle: FileBundle) -> Item:
    """Return the Service that the Gateway asks for, through the parameters that it names."""
    named = need_object(bundle, "Gateway", "archwright")["spec"]["infrastructure"]["parametersRef"]
    assert named["group"] == "gateway.envoyproxy.io"
    proxy = need_object(bundle, named["kind"], named["name"])
    service: Item = proxy["spec"]["provider"]["kubernetes"]["envoyService"]
    return service


@pytest.mark.parametrize("place", INTERNAL)
def test_the_load_balancer_is_internal_unless_the_component_public_is_added(
    place: str, made_bundle: MadeBundle
) -> None:
    bundle = made_bundle("startup", place, f"cloud-{place}")
    service = read_service(bundle)
    key, internal, public = INTERNAL[place]
    assert service["type"] == "LoadBalancer" and service["annotations"][key] == internal
    ((path, component),) = [(path, one) for path, one in bundle.files.items() if "/public/" in path]
    patched = yaml.load(component.text, yaml.CSafeLoader)
    assert patched["kind"] == "Component" and path.endswith("kustomization.yaml")
    (change,) = [one for patch in patched["patches"] for one in json.loads(patch["patch"])]
    pointer = f"/spec/provider/kubernetes/envoyService/annotations/{key.replace('/', '~1')}"
    assert change == {"op": "replace", "path": pointer, "value": public}
    everything = (file.text for name, file in bundle.files.items() if "/public/" not in name)
    assert not any("internet-facing" in text for text in everything)


@pytest.mark.parametrize("place", INTERNAL)
def test_each_part_of_the_path_is_more_patient_than_the_one_behind_it(
    place: str, made_bundle: MadeBundle, made_deployment: MadeDeployment
) -> None:
    bundle = made_bundle("startup", place, f"cloud-{place}")
    longest_s = made_deployment("startup", place, f"cloud-{place}").grace_s
    config = json.loads(need_object(bundle, "ConfigMap", "gateway")["data"]["gateway.json"])
    policy = need_object(bundle, "ClientTrafficPolicy", "archwright")["spec"]
    assert policy["targetRefs"] == [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "archwright"}]
    idle_s = read_seconds(policy["timeout"]["http"]["streamIdleTimeout"])
    rules = need_object(bundle, "HTTPRoute", "gateway")["spec"]["rules"]
    for rule in rules:
        limits_s = [read_seconds(rule["timeouts"][name]) for name in ("backendRequest", "request")]
        path_s = [longest_s, config["limits"]["request_s"], limits_s[0], limits_s[1], idle_s]
        assert all(behind <= before for behind, before in pairwise(path_s)), path_s
        assert limits_s[0] > config["limits"]["request_s"], "the client reads the gateway's own error"
    assert read_seconds(policy["tcpKeepalive"]["idleTime"]) * 2 < FORGOTTEN_S[place]


def test_the_clouds_wait_as_long_as_the_path(made_deployment: MadeDeployment) -> None:
    deployment = made_deployment("startup", "aws", "cloud-aws")
    pools = tuple(replace(pool, grace_s=3600) for pool in deployment.main_site.pools)
    patient = replace(deployment, sites=(replace(deployment.main_site, pools=pools),))
    for one in (deployment, patient):
        for place, limit in (("aws", range(60, 6001)), ("azure", range(4, 31))):
            built = build_load_balancer(one, replace(one.main_site, place=place))
            (text,) = (value for key, value in built.annotations.items() if "idle" in key + value)
            number = int(text.rpartition("=")[2])
            assert number in limit
            seconds = number * {"aws": 1, "azure": 60}[place]
            assert seconds >= built.limit_s or (number == limit[-1] and built.keepalive_s < 60 * limit[0])


def test_own_racks_have_the_limits_and_no_cloud(made_bundle: MadeBundle) -> None:
    bundle = made_bundle("clinic", "onprem")
    assert find_object(bundle, "EnvoyProxy", "archwright") is None
    assert "infrastructure" not in need_object(bundle, "Gateway", "archwright")["spec"]
    assert need_object(bundle, "ClientTrafficPolicy", "archwright")["spec"]["timeout"]
    assert not any("public/" in path for path in bundle.files)


def find_statements(bundle: FileBundle) -> list[dict[str, Any]]:
    identity = json.loads(bundle.files["terraform/identity.tf.json"].text)
    policy = identity["resource"]["aws_iam_role_policy"]["load-balancer"]
    assert policy["role"] == '${aws_iam_role.pod["load-balancer"].id}'
    statements: list[dict[str, Any]] = json.loads(re.sub(r"\$\{[^}]*\}", "x", policy["policy"]))["Statement"]
    return statements


def test_eks_gets_the_controller_that_its_service_names(made_bundle: MadeBundle) -> None:
    bundle = made_bundle("startup", "aws", "cloud-aws")
    assert read_service(bundle)["loadBalancerClass"] == "service.k8s.aws/nlb"
    (script,) = (file.text for path, file in bundle.files.items() if path.endswith("install.sh"))
    (line,) = (one for one in script.splitlines() if "helm upgrade --install aws-load-balancer-controller" in one)
    name = json.loads(bundle.files["terraform/main.tf.json"].text)["locals"]["name"]
    assert f"clusterName={name}" in line and f"vpcTags.Name={name}" in line and "region=us-east-1" in line
    pods = json.loads(bundle.files["terraform/identity.tf.json"].text)["locals"]["pods"]
    assert pods["load-balancer"] == ["kube-system", "aws-load-balancer-controller"]
    assert "aws-load-balancer-controller" in bundle.pins.charts
    network = json.loads(bundle.files["terraform/network.tf.json"].text)["resource"]["aws_subnet"]
    assert network["private"]["tags"]["kubernetes.io/role/internal-elb"] == "1"
    assert network["public"]["tags"]["kubernetes.io/role/elb"] == "1"


def test_the_controller_changes_only_what_its_cluster_made(made_bundle: MadeBundle) -> None:
    free = {
        "AuthorizeSecurityGroupIngress",
        "RevokeSecurityGroupIngress",
        "CreateSecurityGroup",
        "CreateServiceLinkedRole",
    }
    actions = set[str]()
    for one in find_statements(made_bundle("startup", "aws", "cloud-aws")):
        named = one["Action"] if isinstance(one["Action"], list) else [one["Action"]]
        verbs = {name.partition(":")[2] for name in named}
        actions |= verbs
        reads = all(verb.startswith(("Describe", "Get")) for verb in verbs)
        new_listener = verbs <= {"AddTags", "RemoveTags"} and "listener" in str(one["Resource"])
        tagged = "elbv2.k8s.aws/cluster" in str(one.get("Condition", ""))
        assert reads or tagged or new_listener or verbs <= free, one["Sid"]
        assert reads or one["Resource"] != "*" or verbs == {"CreateServiceLinkedRole"}, one["Sid"]
    assert {"ModifyListenerAttributes", "CreateLoadBalancer", "RegisterTargets"} <= actions
    assert not any("WebAcl" in action or ("Rule" in action and "Describe" not in action) for action in actions)
