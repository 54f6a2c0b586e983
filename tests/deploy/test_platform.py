"""The platform half of a cluster: operators, queues, node pools, ingress, conformance, and the age of pins."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from datetime import date
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.deploy.conftest import MadeBundle, MadePlan

from archwright import api
from archwright.catalog.catalog import Catalog
from archwright.contract.plan import Plan
from archwright.contract.record import replace
from archwright.deploy.cluster.conformance import assess_conformance, read_checklist
from archwright.deploy.cluster.node_pools import build_capacity
from archwright.deploy.deployment import Deployment, build_deployment
from archwright.deploy.rendering.bundle import FileBundle, read_manifest, write_bundle
from archwright.deploy.rendering.components import Pins, list_age_notes
from archwright.deploy.rendering.templating import RenderedObject

Rendered = Callable[[str, str], FileBundle]
CASES = (
    ("startup", "cloud-aws"),
    ("startup", "cloud-azure"),
    ("startup", "cloud-gcp"),
    ("clinic", "on-premises"),
    ("clinic", "hybrid-aws"),
    ("manufacturer", "hybrid-azure"),
    ("manufacturer", "on-premises"),
)
# Components of clusters must work with both versions of Kubernetes that the bundles are written for.
VERSIONS = (35, 36)


@pytest.fixture(scope="module")
def rendered(made_bundle: MadeBundle) -> Rendered:
    """The Kubernetes bundle of an example and an option, rendered once."""
    return functools.cache(lambda name, option: made_bundle(name, "kubernetes", option))


def read_objects(bundle: FileBundle) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, file in bundle.files.items():
        if path.endswith(".yaml"):
            for document in yaml.load_all(file.text, yaml.CSafeLoader):
                if isinstance(document, dict) and {"kind", "metadata"} <= document.keys():
                    yield path, document


def find_objects(bundle: FileBundle, kind: str) -> dict[str, dict[str, Any]]:
    named = (one for _, one in read_objects(bundle) if one["kind"] == kind and "name" in one["metadata"])
    return {one["metadata"]["name"]: one for one in named}


def read_script(bundle: FileBundle, site: str) -> str:
    return bundle.files[f"platform/{site}/install.sh"].text


# --- operators


def test_components_of_clusters_work_with_both_versions(catalog: Catalog) -> None:
    for one in catalog.components.values():
        if match := re.fullmatch(r"1\.(\d+)-1\.(\d+)", one.kubernetes):
            assert all(int(match[1]) <= version <= int(match[2]) for version in VERSIONS), one.id
        elif one.kubernetes:
            assert re.fullmatch(r">=1\.(\d+)", one.kubernetes), one.id
            assert int(one.kubernetes.removeprefix(">=1.")) <= VERSIONS[0], one.id
    skipped = catalog.components["kueue"].version.split(".")
    assert not (skipped[1] == "20" and int(skipped[2]) < 6), "0.20.0 to 0.20.5 break the watch cache"


@pytest.mark.parametrize(("name", "option"), CASES)
def test_every_operator_is_pinned_and_its_values_exist(rendered: Rendered, name: str, option: str) -> None:
    bundle = rendered(name, option)
    scripts = {path: file.text for path, file in bundle.files.items() if path.endswith("install.sh")}
    assert scripts
    for path, text in scripts.items():
        pulled = [line.split() for line in text.splitlines() if line.startswith("pull ")]
        assert all(re.fullmatch(r"v?\d+\.\d+\.\d+", words[-1]) for words in pulled), path
        assert {words[2] for words in pulled} == {"sha256:unresolved"}, path
        charts = re.findall(r"^helm (?:upgrade --install|template) (\S+) (\S+)", text, re.MULTILINE)
        assert charts == [(words[1], f'"$downloads/{words[1]}"/*.tgz') for words in pulled], path
        assert set(bundle.pins.charts) >= {words[1] for words in pulled}, path
        for values in re.findall(r"-f ([\w.-]+\.yaml)", text):
            assert path.replace("install.sh", values) in bundle.files, (path, values)
        assert not re.search(r"(password|token|key)=[\w]", text), "no secret in a file"
    assert bundle.components["kueue"] in "".join(scripts.values())


def test_operators_come_before_what_needs_them(rendered: Rendered) -> None:
    text = read_script(rendered("startup", "cloud-aws"), "aws-us-east-1")
    order = [
        "gateway-api",
        "prometheus-operator",
        "cert-manager",
        "karpenter-crd",
        "karpenter ",
        "gpu-operator",
        "keda",
    ]
    places = [text.index(name) for name in order]
    assert places == sorted(places)
    assert "cloudnative-pg" not in text, "the cloud has a managed database"
    assert "nvsentinel" not in text
    own = read_script(rendered("clinic", "on-premises"), "de")
    assert "nvsentinel" in own
    assert "cloudnative-pg" in own
    assert "karpenter" not in own


def test_the_driver_is_installed_only_where_the_image_has_none(rendered: Rendered) -> None:
    for name, option, site, installs in (
        ("startup", "cloud-aws", "aws-us-east-1", False),
        ("startup", "cloud-azure", "azure-westus3", False),
        ("startup", "cloud-gcp", "gcp-us-east4", False),
        ("clinic", "on-premises", "de", True),
    ):
        bundle = rendered(name, option)
        values = yaml.load(bundle.files[f"platform/{site}/values-gpu-operator.yaml"].text, yaml.CSafeLoader)
        assert values["driver"]["enabled"] is values["toolkit"]["enabled"] is values["dcgm"]["enabled"] is installs
        assert values["dcgmExporter"]["enabled"] is True
        assert values["devicePlugin"]["enabled"] is (site != "gcp-us-east4"), "GKE runs its own"


# --- node pools


def test_node_pools_have_the_planned_machines_and_limits(rendered: Rendered) -> None:
    bundle = rendered("startup", "cloud-aws")
    pools = find_objects(bundle, "NodePool")
    wanted = {one["key"]: one["values"] for one in get_requirements(pools["g6-xlarge-on-demand"])}
    machines = wanted["node.kubernetes.io/instance-type"]
    assert machines[0] == "g6.xlarge"
    assert len(machines) > 2
    assert not any("zone" in key for key in wanted), "all zones"
    assert pools["g6-xlarge-on-demand"]["spec"]["limits"] == {"nvidia.com/gpu": 10}
    reserved = {one["key"]: one["values"] for one in get_requirements(pools["g6-xlarge-commit-1y"])}
    assert reserved["node.kubernetes.io/instance-type"] == ["g6.xlarge"], "only this type was reserved"
    assert pools["g6-xlarge-commit-1y"]["spec"]["weight"] > pools["g6-xlarge-on-demand"]["spec"]["weight"]
    for one in pools.values():
        assert one["spec"]["disruption"]["consolidationPolicy"] == "WhenEmpty"
        taints = {taint["key"] for taint in one["spec"]["template"]["spec"]["taints"]}
        assert "nvidia.com/gpu" in taints
        assert ("archwright.dev/job" in taints) == one["spec"]["template"]["metadata"]["labels"][
            "archwright.dev/node-class"
        ].endswith("-jobs")
    node_class = find_objects(bundle, "EC2NodeClass")["archwright"]["spec"]
    assert node_class["instanceStorePolicy"] == "RAID0"
    assert node_class["metadataOptions"]["httpTokens"] == "required"
    assert re.fullmatch(r"al2023@v\d{8}", node_class["amiSelectorTerms"][0]["alias"]), "a pinned image"


def get_requirements(pool: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pool["spec"]["template"]["spec"]["requirements"]
    return found


def test_spot_machines_are_for_jobs_that_tolerate_them(rendered: Rendered) -> None:
    (pool,) = find_objects(rendered("manufacturer", "hybrid-azure"), "NodePool").values()
    wanted = {one["key"]: one["values"] for one in get_requirements(pool)}
    assert wanted["karpenter.sh/capacity-type"] == ["spot"]
    assert {"key": "archwright.dev/job", "value": "true", "effect": "NoSchedule"} in pool["spec"]["template"]["spec"][
        "taints"
    ]
    assert pool["spec"]["template"]["spec"]["expireAfter"] == "Never"


@pytest.mark.parametrize(("name", "option"), CASES)
def test_every_engine_and_job_finds_machines(rendered: Rendered, name: str, option: str) -> None:
    """The node selectors of pods and flavours name classes that node pools or labels of the same site give."""
    bundle = rendered(name, option)
    given: dict[str, set[str]] = {}
    for path, one in read_objects(bundle):
        site = path.split("/")[1] if "/" in path else ""
        if one["kind"] == "NodePool":
            given.setdefault(site, set()).add(
                one["spec"]["template"]["metadata"]["labels"]["archwright.dev/node-class"]
            )
        if one["kind"] == "ComputeClass":
            given.setdefault(site, set()).add(one["metadata"]["name"])
    for path, file in bundle.files.items():
        if path.endswith("label-nodes.sh"):
            given.setdefault(path.split("/")[1], set()).update(re.findall(r"node-class=(\S+)", file.text))
    asked = 0
    for path, one in read_objects(bundle):
        if one["kind"] == "ResourceFlavor":
            (value,) = one["spec"]["nodeLabels"].values()
        elif one["kind"] in ("Deployment", "CronJob") and "nodeSelector" in str(one):
            (value,) = find_selector(one)
        else:
            continue
        asked += 1
        site = path.split("/")[1]
        reserved_by_terraform = "azure" in site
        assert value in given[site] or reserved_by_terraform, (path, value)
    assert asked


def find_selector(one: dict[str, Any]) -> list[str]:
    spec = one["spec"].get("jobTemplate", one)["spec"]["template"]["spec"]
    return list(spec["nodeSelector"].values())


# --- queues


@pytest.mark.parametrize(("name", "option"), CASES)
def test_quotas_are_what_the_plan_has(
    rendered: Rendered, made_plan: MadePlan, catalog: Catalog, name: str, option: str
) -> None:
    plan = made_plan(name)
    chosen = next(one for one in plan.options if one.name == option)
    deployment = build_deployment(plan, chosen, catalog, {}, "0")
    capacity = build_capacity(deployment)
    for site in deployment.sites:
        queues = [one for one in capacity.queues if one.site.name == site.name]
        planned = sum((pool.pool.replicas + pool.surge) * pool.accelerators for pool in site.pools)
        assert sum(quota.accelerators for one in queues if not one.is_job for quota in one.quotas) == planned
        for one in capacity.classes:
            if one.site.name == site.name:
                given = sum(q.accelerators for queue in queues for q in queue.quotas if q.node_class == one.name)
                assert given <= max(one.capacity.accelerators, planned)
    bundle = rendered(name, option)
    flavors = set(find_objects(bundle, "ResourceFlavor"))
    for queue in find_objects(bundle, "ClusterQueue").values():
        (group,) = queue["spec"]["resourceGroups"]
        assert {flavor["name"] for flavor in group["flavors"]} <= flavors
        for flavor in group["flavors"]:
            assert [one["name"] for one in flavor["resources"]] == group["coveredResources"]


def test_jobs_give_way_to_engines(rendered: Rendered) -> None:
    bundle = rendered("startup", "cloud-aws")
    queues, levels = find_objects(bundle, "ClusterQueue"), find_objects(bundle, "WorkloadPriorityClass")
    assert queues["tenant-personal"]["spec"]["preemption"]["reclaimWithinCohort"] == "Any"
    assert queues["jobs"]["spec"]["preemption"]["reclaimWithinCohort"] == "Never"
    assert {one["spec"]["cohortName"] for one in queues.values()} == {"archwright"}
    assert levels["jobs"]["value"] < levels["tenant-personal"]["value"]
    labels = find_objects(bundle, "Deployment")["engine-support-chat"]["metadata"]["labels"]
    assert labels["kueue.x-k8s.io/queue-name"] in queues
    jobs = [one for path, one in read_objects(bundle) if path.startswith("jobs/")]
    assert {one["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] for one in jobs} == {"jobs"}
    assert all(one["spec"]["suspend"] for one in jobs)


def test_ray_is_there_only_for_a_job_on_several_machines(made_bundle: MadeBundle, made_plan: MadePlan) -> None:
    plan = made_plan("manufacturer")
    one = made_bundle(plan, "kubernetes", "hybrid-azure")
    assert not [1 for _, found in read_objects(one) if found["kind"] == "RayJob"]
    assert "nothing here needs the operator of Ray" in one.files["README.md"].text
    several = made_bundle(widen_job(plan, "hybrid-azure", 4), "kubernetes", "hybrid-azure")
    (job,) = [found for _, found in read_objects(several) if found["kind"] == "RayJob"]
    (workers,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert workers["replicas"] == workers["maxReplicas"] == 3
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]
    assert head["rayStartParams"] == {}, "the head works too: without its processors, the last of four workers waits"
    assert "Write spec.yaml first, with `workers: 4`." in several.files["README.md"].text
    (site,) = [path for path in several.files if path.endswith("azure-northeurope/install.sh")]
    assert "kuberay-operator" in several.files[site].text


@pytest.mark.parametrize(
    ("example", "option", "shared"), [("startup", None, True), ("manufacturer", "hybrid-azure", False)]
)
def test_jobs_on_several_machines_share_a_volume_that_all_can_mount(
    made_bundle: MadeBundle, made_plan: MadePlan, example: str, option: str | None, shared: bool
) -> None:
    """Two jobs of a site may run at once, as may the machines of one; one machine would keep the volume."""
    bundle = made_bundle(example, "kubernetes", option)
    volume = find_objects(bundle, "PersistentVolumeClaim")["job-home"]["spec"]
    assert (volume["accessModes"], "storageClassName" in volume) == (
        ["ReadWriteMany" if shared else "ReadWriteOnce"],
        shared,
    )
    if not shared:
        several = made_bundle(widen_job(made_plan(example), "hybrid-azure", 4), "kubernetes", option)
        volume = find_objects(several, "PersistentVolumeClaim")["job-home"]["spec"]
        assert volume["accessModes"] == ["ReadWriteMany"]
    if volume["accessModes"] == ["ReadWriteMany"]:
        assert volume["storageClassName"] == "archwright-weights"


def widen_job(plan: Plan, option: str, machines: int) -> Plan:
    def widen(name: str) -> Any:
        chosen = next(one for one in plan.options if one.name == name)
        bought = tuple(replace(one, peak=machines) if one.kind == "spot" else one for one in chosen.purchases)
        return replace(chosen, purchases=bought)

    return replace(plan, options=tuple(widen(one.name) if one.name == option else one for one in plan.options))


# --- the way in


def test_requests_reach_the_gateway_over_tls(rendered: Rendered) -> None:
    bundle = rendered("clinic", "on-premises")
    services = find_objects(bundle, "Service")
    route = find_objects(bundle, "HTTPRoute")["gateway"]["spec"]
    (listener,) = find_objects(bundle, "Gateway")["archwright"]["spec"]["listeners"]
    assert (
        listener["tls"]["certificateRefs"][0]["name"]
        == find_objects(bundle, "Certificate")["ingress"]["spec"]["secretName"]
    )
    gateway = json.loads(find_objects(bundle, "ConfigMap")["gateway"]["data"]["gateway.json"])
    for rule in route["rules"]:
        longest_s = int(rule["timeouts"]["request"].removesuffix("s"))
        assert longest_s > gateway["limits"]["request_s"], "the gateway ends what takes too long, with its own error"
        for backend in rule["backendRefs"]:
            assert backend["weight"] > 0
            assert backend["port"] in {port["port"] for port in services[backend["name"]]["spec"]["ports"]}
    assert any("headers" in match for rule in route["rules"] for match in rule["matches"])
    policy = find_objects(bundle, "BackendTLSPolicy")["gateway"]["spec"]
    assert policy["validation"]["hostname"] in find_objects(bundle, "Certificate")["gateway"]["spec"]["dnsNames"]
    authority = find_objects(bundle, "Certificate")["authority"]["spec"]["secretName"]
    assert policy["validation"]["caCertificateRefs"][0]["name"] == authority


def test_the_gateway_stands_at_one_site(rendered: Rendered) -> None:
    bundle = rendered("clinic", "hybrid-aws")
    assert {path for path, one in read_objects(bundle) if one["kind"] == "StatefulSet"} == {"overlays/de/gateway.yaml"}


# --- conformance


@pytest.mark.parametrize(("name", "option"), CASES)
def test_every_claim_of_the_check_list_names_an_object_of_the_bundle(
    rendered: Rendered, name: str, option: str
) -> None:
    check_claims(rendered(name, option), "")


@pytest.mark.parametrize("target", ["aws", "azure", "gcp", "onprem"])
def test_every_target_with_a_cluster_claims_objects_only(made_bundle: MadeBundle, target: str) -> None:
    check_claims(made_bundle("clinic", target), "kubernetes/")


def check_claims(bundle: FileBundle, folder: str) -> None:
    """A claim is kind and name of an object in the file that it names; an item without evidence claims nothing."""
    evidence = {one["id"]: one["evidence"] for one in read_checklist()}
    there = {f"{path.removeprefix(folder)} {name_object(one)}" for path, one in read_objects(bundle)}
    for item in yaml.load(bundle.files[f"{folder}conformance.yaml"].text, yaml.CSafeLoader)["items"]:
        claims = item.get("objects", [])
        assert (item["status"] == "met") == bool(claims) != bool(item.get("reason"))
        assert set(claims) <= there, item["id"]
        assert evidence[item["id"]] or not claims, item["id"]


def name_object(one: dict[str, Any]) -> str:
    metadata = one["metadata"]
    return f"{one['kind']}/{metadata.get('name') or metadata['generateName']}"


@pytest.mark.parametrize(("name", "option"), CASES)
def test_the_check_list_misses_no_must_item_without_a_cause(rendered: Rendered, name: str, option: str) -> None:
    items = yaml.load(rendered(name, option).files["conformance.yaml"].text, yaml.CSafeLoader)["items"]
    assert [one["level"] for one in items].count("MUST") == 8
    assert len(items) == 15
    missing = {item["id"] for item in items if item["level"] == "MUST" and item["status"] != "met"}
    own = {"cluster_autoscaling", "pod_autoscaling"}  # own machines run all the time
    assert missing <= (own if option == "on-premises" or name == "manufacturer" else set())


def test_an_item_is_met_only_by_all_of_its_evidence() -> None:
    def assess(*kinds: str) -> dict[str, Any]:
        objects = [
            RenderedObject("a.yaml", {"kind": kind, "metadata": {"name": "x"}}, "", "", (), 0o644) for kind in kinds
        ]
        return {one["id"]: one for one in assess_conformance(objects).value["items"]}

    assert assess("Gateway", "HTTPRoute")["ai_inference"]["objects"] == ["a.yaml Gateway/x", "a.yaml HTTPRoute/x"]
    assert assess("Gateway")["ai_inference"]["status"] == "not met"
    assert assess("GatewayClass", "HTTPRoute")["ai_inference"]["status"] == "not met"
    assert all(one["status"] == "not met" for one in assess().values())
    for text in ({}, {"kind": "Gateway", "metadata": {}}):
        plain = RenderedObject("README.md", text, "text", "", (), 0o755)
        items = assess_conformance([plain]).value["items"]
        assert {one["status"] for one in items} == {"not met"}, "a file and an object without a name show nothing"
    assert len({one["id"] for one in read_checklist()}) == 15


# --- own overlay, age


@pytest.mark.parametrize(("name", "option"), CASES)
def test_the_overlay_of_the_read_me_is_built_from_folders_of_the_bundle(
    rendered: Rendered, name: str, option: str
) -> None:
    bundle = rendered(name, option)
    named = re.findall(r"`[^`]*(?:resources|components): \[\.\./([^]]+)\]`", bundle.files["README.md"].text)
    assert any(folder.startswith("overlays/") for folder in named)
    for folder in named:
        assert f"{folder}/kustomization.yaml" in bundle.files, folder


def test_a_bundle_says_that_a_pin_is_old(
    rendered: Rendered, catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = catalog.components
    keda = rows["keda"]
    read = date.fromisoformat(keda.as_of)
    later = date(read.year + 1, read.month, 1)
    assert list_age_notes({"keda": keda.version}, rows, read) == ()
    assert list_age_notes({"keda": keda.version}, rows, later) == (f"KEDA {keda.version}: read 12 months ago",)
    (replaced,) = list_age_notes({"keda": "2.9.0"}, rows, read)
    assert replaced == f"KEDA 2.9.0: the catalog has {keda.version}; render again"
    (gone,) = list_age_notes({"helmsman": "1"}, rows, read)
    assert gone.startswith("helmsman 1: the catalog does not have it")
    bundle = rendered("clinic", "on-premises")
    old = replace(bundle, components={**bundle.components, "keda": "2.9.0"})
    write_bundle(old, tmp_path / "out", "0")
    assert replaced in api.verify(str(tmp_path / "out")).notes
    assert read_manifest(tmp_path / "out") is not None


def test_jobs_stand_at_one_site_and_machines_say_their_class(made_deployment: Callable[..., Deployment]) -> None:
    deployment = made_deployment("manufacturer", "kubernetes", "on-premises")
    places = [
        (site.name, group.machine)
        for site in deployment.sites
        for group in site.machines
        if "house-model" in group.pools
    ]
    assert {site for site, _ in places} == {"fr"}
    for site in deployment.sites:
        classes = {group.node_class for group in site.machines}
        assert all(
            fnmatchcase(pool.node_class, one) for pool in site.pools for one in classes if pool.node_class == one
        )
        assert {pool.node_class for pool in site.pools} <= classes


def test_own_machines_are_tainted_only_beside_others_and_repaired_only_on_demand(
    rendered: Rendered, made_plan: MadePlan, made_bundle: MadeBundle
) -> None:
    bundle = rendered("clinic", "on-premises")
    labels = next(file.text for path, file in bundle.files.items() if path.endswith("label-nodes.sh"))
    assert "kubectl label node" in labels
    assert "nvidia.com/gpu=true:NoSchedule" in labels, "operators have the platform servers"
    alone = replace(made_plan("clinic"), options=tuple(replace(one, servers=()) for one in made_plan("clinic").options))
    own = made_bundle(alone, "kubernetes", "on-premises").files["overlays/de/label-nodes.sh"].text
    assert "kubectl taint" not in own, "operators have no other machines"
    line = next(
        one for one in read_script(bundle, "de").splitlines() if one.startswith("helm upgrade --install nvsent")
    )
    parts = ("faultQuarantine", "nodeDrainer", "faultRemediation", "janitor")
    assert all(f'global.{part}.enabled="${{REPAIR:-false}}"' in line for part in parts)


# --- the script refuses what is not pinned

FAKE_HELM = """#!/bin/sh
echo "helm $*" >> "$CALLS"
if [ "$1" = pull ]; then
  while [ "$1" != --destination ]; do shift; done
  mkdir -p "$2" && printf 'chart of %s' "$(basename "$2")" > "$2/chart.tgz"
fi
"""
FAKE_CURL = """#!/bin/sh
while [ "$1" != --output ]; do shift; done
printf 'chart of %s' "$(basename "$2" .yaml)" > "$2"
"""


def pin_all(bundle: FileBundle, changed: str = "") -> Pins:
    """Return resolved pins: charts as the fake programs download them, except `changed`, which is another one."""
    charts = {}
    for name, pin in bundle.pins.charts.items():
        content = f"chart of {name}" if name != changed else "another chart"
        charts[name] = replace(pin, digest=f"sha256:{hashlib.sha256(content.encode()).hexdigest()}")
    images = {name: replace(pin, digest=f"sha256:{'1' * 64}") for name, pin in bundle.pins.images.items()}
    models = {name: replace(pin, files={"model.bin": "2" * 64}) for name, pin in bundle.pins.models.items()}
    hosts = dict.fromkeys(bundle.pins.hosts, "ai.company.com")
    return replace(bundle.pins, charts=charts, images=images, models=models, hosts=hosts)


def run_install(folder: Path, platform: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run install.sh of a folder with programs that only note their calls; return its result and its charts."""
    programs, calls = folder / "programs", folder / "calls"
    programs.mkdir(exist_ok=True)
    for name, text in (("helm", FAKE_HELM), ("curl", FAKE_CURL), ("kubectl", "#!/bin/sh\ncat >/dev/null </dev/null\n")):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    calls.touch()
    environment = {"PATH": f"{programs}:{os.environ['PATH']}", "CALLS": str(calls)}
    script = folder / "bundle" / platform / "install.sh"
    done = subprocess.run(["sh", script], env=environment, capture_output=True, text=True, check=False)
    installed = [line.split()[3] for line in calls.read_text().splitlines() if line.startswith("helm upgrade")]
    return done, installed


@pytest.mark.process
def test_nothing_is_installed_while_a_digest_is_missing(rendered: Rendered, tmp_path: Path) -> None:
    write_bundle(rendered("startup", "cloud-aws"), tmp_path / "bundle", "1")
    done, installed = run_install(tmp_path, "platform/aws-us-east-1")
    assert (done.returncode, installed) == (1, [])
    assert "Run archwright resolve" in done.stderr


@pytest.mark.process
def test_every_chart_with_its_digest_is_installed(rendered: Rendered, made_bundle: MadeBundle, tmp_path: Path) -> None:
    pins = pin_all(rendered("startup", "cloud-aws"))
    bundle = made_bundle("startup", "kubernetes", "cloud-aws", pins=pins)
    write_bundle(bundle, tmp_path / "bundle", "1")
    done, installed = run_install(tmp_path, "platform/aws-us-east-1")
    assert done.returncode == 0, done.stderr
    script = read_script(bundle, "aws-us-east-1")
    upgraded = re.findall(r"^helm upgrade --install (\S+)", script, re.MULTILINE)
    assert installed == [name for name in upgraded if name != "kuberay"], "Ray is chosen by a variable"


@pytest.mark.process
@pytest.mark.parametrize("case", ["another chart", "another digest"])
def test_a_chart_that_differs_is_not_installed(
    case: str, rendered: Rendered, made_bundle: MadeBundle, tmp_path: Path
) -> None:
    pins = pin_all(rendered("startup", "cloud-aws"), changed="keda" if case == "another chart" else "")
    write_bundle(made_bundle("startup", "kubernetes", "cloud-aws", pins=pins), tmp_path / "bundle", "1")
    if case == "another digest":
        written = tmp_path / "bundle" / "pins.json"
        written.write_text(written.read_text().replace(pins.charts["keda"].digest, f"sha256:{'4' * 64}"))
    done, installed = run_install(tmp_path, "platform/aws-us-east-1")
    assert done.returncode == 1
    assert "keda" not in installed
    assert done.stderr.startswith("keda: the ")
    assert "pins.json" in done.stderr
