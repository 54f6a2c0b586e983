"""No start probe ends an engine that waits for the storage that the plan bought, even if all replicas start at once."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from archwright.contract.plan import Plan, Pool
from archwright.contract.record import replace
from archwright.deploy.containers.weight_loading import WeightStorage, plan_weight_loading, read_weight_storage
from archwright.deploy.deployment import Deployment, PoolDeployment
from archwright.deploy.rendering.bundle import FileBundle

from .clusters import list_overlays, read_cluster
from .conftest import MadeBundle, MadePlan
from .object_rules import Item, check_objects, find_pods

MadeDeployment = Callable[..., Deployment]
LARGE = 700 * 10**9
CLOUDS = {"aws": "p5en.48xlarge", "azure": "Standard_ND96isr_H200_v5", "gcp": "a3-megagpu-8g"}


@pytest.fixture(scope="module", params=["on-premises", *CLOUDS])
def large(request: pytest.FixtureRequest, made_plan: MadePlan) -> Plan:
    """16 machines with a model of 700 GB each, at a place."""
    plan = made_plan("manufacturer" if request.param == "on-premises" else "startup")
    option = next(one for one in plan.options if one.name == plan.chosen)
    pool = next(one for one in option.pools if one.kind == "text")
    changes: dict[str, object] = {"replicas": 16, "weight_bytes": LARGE, "accelerator_count": 8}
    changes |= {"launch": replace(pool.launch, startup_s=290.0)}
    if request.param in CLOUDS:
        changes |= {"provider": request.param, "machine": CLOUDS[request.param], "accelerator": "H200-SXM-141GB"}
    changed: Pool = replace(pool, **changes)
    purchases = tuple(replace(one, machine=changed.machine) for one in option.purchases if one.pool == pool.name)
    beside = [one for one in option.pools if one.name != pool.name and one.placement == pool.placement]
    others = tuple(one for one in beside if one.kind == "text")
    made = replace(option, pools=(changed, *others), purchases=purchases, provider=changed.provider)
    options = tuple(made if one.name == option.name else one for one in plan.options)
    return replace(plan, options=options, pools=made.pools)


def find_pool(deployment: Deployment) -> PoolDeployment:
    return next(pool for pool in deployment.pools if pool.pool.weight_bytes == LARGE)


def find_engine(bundle: FileBundle, name: str) -> Item:
    items = [item for folder in list_overlays(bundle) for item in read_cluster(bundle, folder)]
    return next(one for one in items if one["kind"] == "Deployment" and one["metadata"]["name"] == f"engine-{name}")


def test_sixteen_machines_of_700_gb_do_not_outlast_their_probe(
    large: Plan, made_bundle: MadeBundle, made_deployment: MadeDeployment
) -> None:
    pool = find_pool(made_deployment(large, "kubernetes"))
    engine = find_engine(made_bundle(large, "kubernetes"), pool.name)
    pod = next(find_pods(engine))
    probe = pod.spec["containers"][0]["startupProbe"]
    window_s = probe["failureThreshold"] * probe["periodSeconds"]
    row = read_weight_storage()["on-premises" if pool.pool.is_on_own_hardware else pool.pool.provider]
    assert pool.container is not None
    last_read_s = 16 * LARGE / row.compute_rate(pool.container.volume_bytes)
    assert last_read_s > 870, "the case of the issue"
    own_s = pool.pool.launch.startup_s
    copies = any("archwright.engines.weight_cache" in one["command"] for one in pod.spec["initContainers"])
    assert window_s >= own_s + (0 if copies else last_read_s)
    assert engine["spec"]["progressDeadlineSeconds"] > own_s + last_read_s


def test_a_large_model_is_read_from_the_disk_of_its_machine_where_it_has_one(
    large: Plan, made_bundle: MadeBundle, made_deployment: MadeDeployment
) -> None:
    pool = find_pool(made_deployment(large, "kubernetes"))
    bundle = made_bundle(large, "kubernetes")
    pod = next(find_pods(find_engine(bundle, pool.name)))
    volumes = {one["name"]: one for one in pod.spec["volumes"]}
    (weights,) = pod.spec["initContainers"]
    assert pool.loading.is_cached == (pool.pool.provider != "azure")
    if pool.loading.is_cached:
        assert int(volumes["models"]["emptyDir"]["sizeLimit"]) >= LARGE
        slots = int(weights["command"][-1])
        assert 1 <= slots < 16, "staged: the first machines serve before the last has read"
        mounts = {one["name"]: one.get("readOnly", False) for one in pod.spec["containers"][0]["volumeMounts"]}
        assert mounts["models"] and "shared" not in mounts, "the engine itself cannot write weights"
    else:
        assert volumes["models"]["persistentVolumeClaim"]["readOnly"]
    items = [item for folder in list_overlays(bundle) for item in read_cluster(bundle, folder)]
    assert check_objects(items) == []


def test_a_machine_without_room_reads_the_shared_storage() -> None:
    case = {"readers": 16, "weight_bytes": LARGE, "volume_bytes": 2 * LARGE}
    assert not plan_weight_loading("aws", disk_bytes=0, **case).is_cached
    assert plan_weight_loading("aws", disk_bytes=2 * LARGE, **case).is_cached


def test_a_small_model_is_not_copied(made_deployment: MadeDeployment) -> None:
    for pool in made_deployment("startup", "kubernetes").pools:
        assert not pool.loading.is_cached
        assert pool.ready_limit_s == pool.startup_limit_s


@pytest.mark.parametrize("row", read_weight_storage().values(), ids=lambda row: row.place)
def test_more_readers_never_start_sooner_and_a_larger_volume_never_later(row: WeightStorage) -> None:
    def together(readers: int, volume: int) -> float:
        return plan_weight_loading(
            row.place, readers=readers, weight_bytes=LARGE, volume_bytes=volume, disk_bytes=0
        ).together_s

    times = [together(readers, LARGE) for readers in (1, 2, 16, 200)]
    assert times == sorted(times)
    assert together(16, 4 * LARGE) <= together(16, LARGE)
    assert row.source and row.as_of and row.confidence
