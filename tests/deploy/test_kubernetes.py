"""Rendered clusters: own rules on every object, the numbers of the plan in objects, and broken objects are found."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from archwright.contract.plan import Plan
from archwright.deploy.deployment import Deployment
from archwright.deploy.render import find_target
from archwright.deploy.rendering.bundle import FileBundle
from archwright.engines.weight_files import WeightFolder

from .clusters import CLUSTER_TARGETS, craft_plans, list_overlays, read_cluster, read_clusters
from .conftest import EXAMPLES, MadeBundle, MadePlan
from .object_rules import Item, check_objects, find_pods, title

EACH_COMMIT = {"kubernetes", "aws", "onprem"}
TARGETS = [name if name in EACH_COMMIT else pytest.param(name, marks=pytest.mark.nightly) for name in CLUSTER_TARGETS]


@pytest.fixture(scope="module")
def startup(made_bundle: MadeBundle) -> list[Item]:
    """The objects of a cluster in a cloud."""
    bundle = made_bundle("startup", "kubernetes")
    return read_cluster(bundle, list_overlays(bundle)[0])


@pytest.fixture(scope="module")
def crafted(made_plan: MadePlan) -> dict[str, Plan]:
    return craft_plans(made_plan("startup"))


def find(items: list[Item], kind: str, name: str = "") -> Item:
    return next(one for one in items if one["kind"] == kind and one["metadata"]["name"].startswith(name))


@pytest.mark.parametrize("target", TARGETS)
def test_every_object_of_every_cluster_keeps_the_rules(
    target: str, made_plan: MadePlan, made_bundle: MadeBundle
) -> None:
    rendered = 0
    for name in EXAMPLES:
        plan = made_plan(name)
        if any(find_target(target).can_render(option) for option in plan.options):
            for cluster, items in read_clusters(made_bundle(plan, target)):
                rendered += 1
                assert check_objects(items) == [], (name, cluster)
    assert rendered


def test_crafted_plans_keep_the_rules(crafted: dict[str, Plan], made_bundle: MadeBundle) -> None:
    for name, plan in crafted.items():
        for cluster, items in read_clusters(made_bundle(plan, "kubernetes")):
            assert check_objects(items) == [], (name, cluster)


BREAKS: dict[str, tuple[str, Callable[[Item], Any]]] = {
    "selector": ("does not match", lambda pod: pod["metadata"]["labels"].update({"app.kubernetes.io/name": "x"})),
    "quantity": (
        "no quantity",
        lambda pod: pod["spec"]["containers"][0]["resources"]["limits"].update(memory="8 gigs"),
    ),
    "more than the limit": (
        "requests more memory",
        lambda pod: pod["spec"]["containers"][0]["resources"]["requests"].update(memory="900Gi"),
    ),
    "probe port": (
        "which is not there",
        lambda pod: pod["spec"]["containers"][0]["readinessProbe"]["httpGet"].update(port="web"),
    ),
    "service port": ("target port", lambda pod: pod["spec"]["containers"][0]["ports"][0].update(name="web")),
    "accelerators": (
        "nvidia.com/gpu",
        lambda pod: pod["spec"]["containers"][0]["resources"]["requests"].update({"nvidia.com/gpu": "2"}),
    ),
    "restart": ("restartPolicy", lambda pod: pod["spec"].update(restartPolicy="Sometimes")),
    "pull": ("imagePullPolicy", lambda pod: pod["spec"]["containers"][0].update(imagePullPolicy="Once")),
    "image": ("no digest", lambda pod: pod["spec"]["containers"][0].update(image="vllm:latest")),
    "privileged": (
        "privileged of",
        lambda pod: pod["spec"]["containers"][0]["securityContext"].update(privileged=True),
    ),
    "host": ("hostNetwork", lambda pod: pod["spec"].update(hostNetwork=True)),
    "root": ("runAsNonRoot", lambda pod: pod["spec"]["securityContext"].update(runAsNonRoot=False)),
    "writable": (
        "readOnlyRootFilesystem",
        lambda pod: pod["spec"]["containers"][0]["securityContext"].pop("readOnlyRootFilesystem"),
    ),
    "mount": ("which is no volume", lambda pod: pod["spec"]["volumes"].pop()),
    "config": ("which no file has", lambda pod: pod["spec"]["volumes"][1]["configMap"].update(name="x")),
    "ending": ("before its signal", lambda pod: pod["spec"].update(terminationGracePeriodSeconds=5)),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_object_is_found(name: str, startup: list[Item]) -> None:
    word, damage = BREAKS[name]
    items = copy.deepcopy(startup)
    damage(find(items, "Deployment", "engine-")["spec"]["template"])
    assert any(word in problem for problem in check_objects(items)), check_objects(items)


def test_a_missing_label_a_stray_service_and_a_secret_are_found(startup: list[Item]) -> None:
    items = copy.deepcopy(startup)
    del find(items, "Namespace")["metadata"]["labels"]["app.kubernetes.io/part-of"]
    find(items, "Service", "engine-")["spec"]["selector"]["app.kubernetes.io/name"] = "x"
    find(items, "LimitRange")["metadata"]["name"] = "defaults-"
    items.append({"kind": "Secret", "metadata": {"name": "s"}, "data": {"key": "eA=="}})
    found = " ".join(check_objects(items))
    assert all(
        word in found
        for word in ("no label app.kubernetes.io/part-of", "no pod of the bundle", "holds a secret", "no name of DNS")
    )


def list_engines(items: list[Item]) -> list[Item]:
    kinds = ("Deployment", "LeaderWorkerSet")
    return [one for one in items if one["kind"] in kinds and one["metadata"]["name"].startswith("engine-")]


def test_an_engine_waits_for_its_start_and_for_its_longest_response(
    made_bundle: MadeBundle, made_deployment: Callable[..., Deployment]
) -> None:
    for example in ("startup", "clinic", "manufacturer"):
        bundle, deployment = made_bundle(example, "kubernetes"), made_deployment(example, "kubernetes")
        items = [item for _, cluster in read_clusters(bundle) for item in cluster]
        pools = {f"engine-{pool.name}": pool for pool in deployment.pools if pool.container is not None}
        engines = {one["metadata"]["name"]: one for one in list_engines(items)}
        assert engines.keys() == pools.keys()
        for name, engine in engines.items():
            pool, pod = pools[name], next(find_pods(engine))
            container = pod.spec["containers"][0]
            probe, hook = container["startupProbe"], container["lifecycle"]["preStop"]["sleep"]["seconds"]
            assert probe["failureThreshold"] * probe["periodSeconds"] >= pool.startup_limit_s >= pool.startup_s
            drained = pool.grace_s if f"--shutdown-timeout={pool.grace_s}" in container["args"] else 0
            assert hook + drained >= pool.grace_s
            assert pod.spec["terminationGracePeriodSeconds"] > hook + drained
            assert {"name": "HF_HUB_OFFLINE", "value": "1"} in container["env"]
            models = next(one for one in container["volumeMounts"] if one["mountPath"] == "/models")
            assert models["readOnly"]
            reason = engine["metadata"]["annotations"]["archwright.dev/reason"]
            assert pool.pool.model in reason
            if deployment.is_chosen:
                assert set(pool.prediction_ids) == set(_list_predictions(engine))


def _list_predictions(item: Item) -> list[str]:
    text: str = item["metadata"]["annotations"].get("archwright.dev/predictions", "")
    return text.split(", ") if text else []


def test_scaling_follows_the_predictions_and_owned_machines_do_not_scale(
    made_bundle: MadeBundle, made_deployment: Callable[..., Deployment]
) -> None:
    bundle, deployment = made_bundle("startup", "kubernetes"), made_deployment("startup", "kubernetes")
    scaled = 0
    for pool in deployment.pools:
        items = [item for _, cluster in read_clusters(bundle) for item in cluster]
        found = [
            one for one in items if one["kind"] == "ScaledObject" and one["metadata"]["name"] == f"engine-{pool.name}"
        ]
        assert bool(found) == pool.scales
        for one in found:
            scaled += 1
            spec, trigger = one["spec"], one["spec"]["triggers"][0]["metadata"]
            assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (pool.least_replicas, pool.pool.replicas)
            assert trigger["threshold"] == str(pool.in_flight)
            assert pool.pool.launch.metrics["in_flight"] in trigger["query"]
            assert spec["cooldownPeriod"] == pool.cooldown_s > pool.startup_s
            engine = next(o for o in list_engines(items) if o["metadata"]["name"] == one["metadata"]["name"])
            assert "replicas" not in engine["spec"]
    assert scaled
    clinic = [item for _, cluster in read_clusters(made_bundle("clinic", "kubernetes")) for item in cluster]
    assert not [one for one in clinic if one["kind"] == "ScaledObject"]
    assert {one["spec"]["strategy"]["rollingUpdate"]["maxSurge"] for one in list_engines(clinic)} <= {0, 1}


def test_a_model_on_several_machines_is_a_group(crafted: dict[str, Plan], made_bundle: MadeBundle) -> None:
    for name, word in (("several-machines", "--master-addr"), ("several-machines-sglang", "--dist-init-addr")):
        items = [item for _, cluster in read_clusters(made_bundle(crafted[name], "kubernetes")) for item in cluster]
        group = list_engines(items)[0]
        assert (group["kind"], group["spec"]["leaderWorkerTemplate"]["size"]) == ("LeaderWorkerSet", 2), title(group)
        leader, worker = find_pods(group)
        for pod in (leader, worker):
            arguments = pod.spec["containers"][0]["args"]
            assert any(one.startswith(word) for one in arguments)
            assert pod.spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "8"
        assert "readinessProbe" in leader.spec["containers"][0]
        assert "readinessProbe" not in worker.spec["containers"][0]
        service = find(items, "Service", group["metadata"]["name"])
        assert service["spec"]["selector"]["leaderworkerset.sigs.k8s.io/worker-index"] == "0"
        assert find(items, "NetworkPolicy", "group-")


def test_engines_without_accelerators_and_of_another_vendor(crafted: dict[str, Plan], made_bundle: MadeBundle) -> None:
    def first(name: str) -> Item:
        bundle = made_bundle(crafted[name], "kubernetes")
        items = [item for _, cluster in read_clusters(bundle) for item in cluster]
        return next(find_pods(list_engines(items)[0])).spec

    processors, amd = first("processors"), first("amd")
    assert set(processors["containers"][0]["resources"]["limits"]) == {"memory"}
    assert "/model/unresolved.gguf" in " ".join(processors["containers"][0]["args"])
    assert "llama.cpp" in processors["containers"][0]["image"]
    assert processors["tolerations"] == []
    assert "amd.com/gpu" in amd["containers"][0]["resources"]["limits"]
    assert amd["tolerations"][0]["key"] == "amd.com/gpu"
    assert "rocm" in amd["containers"][0]["image"]


def test_a_draft_model_is_loaded_beside_the_model(crafted: dict[str, Plan], made_bundle: MadeBundle) -> None:
    bundle = made_bundle(crafted["draft"], "kubernetes")
    items = [item for _, cluster in read_clusters(bundle) for item in cluster]
    arguments = next(find_pods(list_engines(items)[0])).spec["containers"][0]["args"]
    folder = arguments[0].removesuffix("/model")
    assert f'--speculative-config={{"model": "{folder}/draft"}}' in arguments
    assert "--more" in arguments
    loader = next(find_pods(find(items, "Job", "weights-"))).spec["containers"][0]
    assert loader["command"][-1] == folder
    weights = find(items, "ConfigMap", "weights-")["data"]["weights.json"]
    read = msgspec.json.decode(weights, type=list[WeightFolder])
    assert [one.folder for one in read] == ["model", "draft"], "the loader reads the list"
    assert '"repository": "maker/draft-of-model"' in weights
    assert any(name.endswith("-draft") for name in bundle.pins.models)


def test_the_quota_has_room_for_engines_their_replacements_and_jobs(
    made_bundle: MadeBundle, made_deployment: Callable[..., Deployment]
) -> None:
    for example in ("startup", "clinic", "manufacturer"):
        clusters = dict(read_clusters(made_bundle(example, "kubernetes")))
        for site in made_deployment(example, "kubernetes").sites:
            if not any(pool.container for pool in site.pools):
                continue
            hard = find(clusters[f"overlays/{site.name}"], "ResourceQuota", "accelerators")["spec"]["hard"]
            engines = sum((pool.pool.replicas + pool.surge) * pool.accelerators for pool in site.pools)
            machines = sum(group.peak * group.accelerator_count for group in site.machines)
            assert int(hard["requests.nvidia.com/gpu"]) == max(engines, machines)


def test_nothing_connects_without_a_policy(startup: list[Item]) -> None:
    policies = [one for one in startup if one["kind"] == "NetworkPolicy"]
    for namespace in ("archwright", "archwright-engines"):
        deny = next(
            p for p in policies if p["metadata"] == {**p["metadata"], "namespace": namespace, "name": "default-deny"}
        )
        assert deny["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    engines = next(one for one in policies if one["metadata"]["name"] == "engines")
    assert engines["spec"]["policyTypes"] == ["Ingress"]  # and no policy lets an engine connect anywhere but to the DNS
    leaving = [one["metadata"]["name"] for one in policies if "Egress" in one["spec"]["policyTypes"]]
    assert "engines" not in leaving


def list_peers(policy: Item, direction: str, side: str) -> list[Item]:
    return [peer for rule in policy["spec"][direction] for peer in rule[side]]


def test_policies_admit_pods_and_no_whole_namespace(startup: list[Item]) -> None:
    policies = {one["metadata"]["name"]: one for one in startup if one["kind"] == "NetworkPolicy"}
    admitted = list_peers(policies["engines"], "ingress", "from")
    assert [(peer["namespaceSelector"]["matchLabels"], peer["podSelector"]["matchLabels"]) for peer in admitted] == [
        ({"kubernetes.io/metadata.name": "archwright"}, {"app.kubernetes.io/component": "gateway"}),
        ({"kubernetes.io/metadata.name": "archwright-monitoring"}, {"app.kubernetes.io/name": "prometheus"}),
    ]
    resolver, _cache = list_peers(policies["allow-dns"], "egress", "to")
    assert resolver["podSelector"] == {"matchLabels": {"k8s-app": "kube-dns"}}
    (internet,) = list_peers(policies["weights"], "egress", "to")
    assert {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"} <= set(internet["ipBlock"]["except"])


def test_a_gateway_without_any_engine_is_not_ready_and_can_be_administered(startup: list[Item]) -> None:
    container = next(find_pods(find(startup, "StatefulSet", "gateway"))).spec["containers"][0]
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz?pools=any"
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert find(startup, "Service", "gateway-admin")["spec"]["publishNotReadyAddresses"] is True


def test_an_edited_gateway_configuration_is_no_secret(made_bundle: Callable[..., FileBundle]) -> None:
    for example in ("startup", "clinic", "manufacturer"):
        for path, file in made_bundle(example, "kubernetes").files.items():
            assert "postgresql://" not in file.text, path
            assert "BEGIN" not in file.text or "PRIVATE" not in file.text, path


def test_ray_takes_the_place_of_a_deployment_in_steps_that_the_plan_has_room_for(made_bundle: MadeBundle) -> None:
    bundle = made_bundle("startup", "kubernetes", "cloud-aws")
    clusters = dict(read_clusters(bundle))
    folder = next(one for one in clusters if one.startswith("ray/"))
    with_ray, without = clusters[folder], clusters[folder.replace("ray/", "overlays/")]
    assert check_objects(with_ray) == []
    gone = find(without, "Deployment", "engine-support-chat")
    assert gone not in with_ray
    assert not [one for one in with_ray if one["kind"] == "ScaledObject"]
    spec = find(with_ray, "RayService", "support-chat")["spec"]
    options = spec["upgradeStrategy"]["clusterUpgradeOptions"]
    app = json.loads(spec["serveConfigV2"])["applications"][0]
    (model,) = app["args"]["llm_configs"]
    replicas = model["deployment_config"]["autoscaling_config"]["max_replicas"]
    quota = find(with_ray, "ResourceQuota", "accelerators")["spec"]["hard"]["requests.nvidia.com/gpu"]
    assert replicas * (100 + options["maxSurgePercent"]) / 100 <= int(quota)
    assert options["gatewayClassName"] == find(with_ray, "GatewayClass", "engine-support-chat")["metadata"]["name"]
    proxy = find(with_ray, "EnvoyProxy", "engine-support-chat")["spec"]["provider"]["kubernetes"]["envoyService"]
    assert proxy["type"] == "ClusterIP", "engines ask for no key"
    arguments = next(find_pods(gone)).spec["containers"][0]["args"]
    assert model["model_loading_config"]["model_source"] == arguments[0]
    assert {"max_num_seqs", "max_model_len", "tool_call_parser"} <= set(model["engine_kwargs"])
    assert not {"host", "port", "served_model_name", "shutdown_timeout"} & set(model["engine_kwargs"])
    assert {f"--max-num-seqs={model['engine_kwargs']['max_num_seqs']}"} <= set(arguments)
    script = next(file.text for path, file in bundle.files.items() if path.endswith("aws-us-east-1/install.sh"))
    assert script.index('"${RAY:-false}" = true') < script.index("kuberay-operator")


def test_idle_accelerators_of_google_are_checked_without_starting_machines(made_bundle: MadeBundle) -> None:
    ((_, items), *_) = read_clusters(made_bundle("startup", "kubernetes", "cloud-gcp"))
    check = find(items, "CronJob", "check-support-chat")
    priority = find(items, "PriorityClass", "accelerator-check")
    assert priority["value"] < -10, "the autoscaler starts no machine for it"
    assert next(find_pods(check)).spec["priorityClassName"] == "accelerator-check"


def test_the_read_me_says_what_is_open(made_bundle: MadeBundle) -> None:
    text = made_bundle("manufacturer", "kubernetes", "hybrid-azure").files["README.md"].text
    assert "`platform.tls`" in text
    assert "downtime-fr at fr-plants" not in text, "its machines have units of systemd"
    assert "Machines of fr-plants, us-plants, cn-plants need no cluster" in text
