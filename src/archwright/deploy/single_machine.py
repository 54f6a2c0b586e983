"""Target "single machine": the list of processes that run a plan's pools behind one gateway.

This module writes no file and starts nothing: `operate` runs the Bundle. Configurations are plain dictionaries, because
this package may not import their readers. The runner replaces "{home}" and "{config}" in argv, and sockets by name.

Design: a workload is one endpoint. Its own pools share the requests by their slots, and external pools take the
overflow. Without an own pool, all pools share the requests. Pools that predict get no endpoint: `/v1/predict` serves
promoted versions.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from archwright.contract.listener import ListenerSettings
from archwright.contract.plan import ENGINE_ARGUMENTS, GATEWAY_ARGUMENTS, Bundle, Plan, Pool, ProcessSpec, WorkloadPlan
from archwright.errors import ErrorLocation, PlanError
from archwright.policy.residency import RESIDENCY_BOUND_CLASSES, PoolLocation, ResidencyPolicy, is_permitted_by_policy

# A process is late after this time, or several times the predicted one: a cold disk or a busy machine is no failure.
STARTUP_DEADLINE_S, STARTUP_MARGIN = 60.0, 5.0

VISIBLE = "CUDA_VISIBLE_DEVICES"
# The second place of the audit log on every target: the platform collects standard output, out of the gateway's reach.
AUDIT_PLACE = "stdout"


class ServedAdapter(NamedTuple):
    """A fine-tuned variant, by the name of its training, that engines load beside the model of `workload`.

    `engine_name`: what a request calls it. `version`: what records call it.
    """

    name: str
    workload: str
    engine_name: str
    version: str


class ExternalEndpoints(NamedTuple):
    """The URLs of a pool's engines that run elsewhere, the variable that holds their key, and fields to pass on.

    `kind`: their software; empty: the engine of the plan. `model`: their name of the model; empty: the plan's.
    `adapters`: what they load beside the model.
    """

    urls: tuple[str, ...]
    key_env: str = ""
    allow_fields: tuple[str, ...] = ()
    kind: str = ""
    model: str = ""
    adapters: tuple[ServedAdapter, ...] = ()


NO_EXTERNAL_ENDPOINTS: Mapping[str, ExternalEndpoints] = MappingProxyType({})


def build_bundle(
    plan: Plan,
    listener: ListenerSettings,
    store_url: str,
    reached: Mapping[str, ExternalEndpoints] = NO_EXTERNAL_ENDPOINTS,
    *,
    cache: str = "off",
) -> Bundle:
    """Build one process per engine replica on this machine, then the gateway. Pools in `reached` run already.

    Raises PlanError AW-PLAN-20 if a pool neither runs on this machine nor is in `reached`, AW-PLAN-21 if the residency
    of a workload's data excludes the country of its pool.
    """
    served = _locate_pools(plan, reached)
    predicted = (one.estimate.high for one in plan.predictions if one.metric == "startup_s")
    deadline_s = STARTUP_MARGIN * max(predicted, default=0.0)
    started = [pool for pool, at in served if not at.urls]
    engines = [build_engine_process(pool, replica, deadline_s) for pool in started for replica in range(pool.replicas)]
    gateway = ProcessSpec(
        name="gateway",
        argv=GATEWAY_ARGUMENTS,
        config=build_gateway_config(plan, listener, store_url, served, cache=cache),
        ready_path="/readyz",
        ready_port=listener.port,
        startup_deadline_s=STARTUP_DEADLINE_S,
        after=tuple(engine.name for engine in engines),
    )
    return Bundle(plan_digest=plan.digest, processes=(*engines, gateway), url=listener.root_url)


def list_text_pools(plan: Plan) -> tuple[Pool, ...]:
    """Return the pools behind the gateway: pools of machines, then models bought by the token."""
    return tuple(pool for pool in (*plan.pools, *plan.upstreams) if pool.kind == "text")


LocatedPools = tuple[tuple[Pool, ExternalEndpoints], ...]


def _locate_pools(plan: Plan, reached: Mapping[str, ExternalEndpoints]) -> LocatedPools:
    """Return each pool with its endpoints; no URL if its engines start here."""
    pools, found, missing = list_text_pools(plan), list[tuple[Pool, ExternalEndpoints]](), list[Pool]()
    for pool in pools:
        key, url = str(pool.launch.settings.get("key_env", "")), pool.launch.url
        at = reached.get(pool.name, ExternalEndpoints((url,) if url is not None else (), key))
        if at.urls or pool.placement == "this-machine":
            found.append((pool, at))
        else:
            missing.append(pool)
    # A pool that does not run in every year may be absent if other pools serve its workloads.
    covered = {workload for pool, _ in found for workload in pool.workloads}
    missing = [pool for pool in missing if 0 not in pool.shares or not covered.issuperset(pool.workloads)]
    if plan.chosen is None or not found or missing:
        flags = " ".join(f"--engine {pool.name}=URL" for pool in missing)
        hint = "set placement: {allow: [this-machine]} in the needs, as in examples/desk/needs.yaml, and plan again"
        if plan.chosen is not None and plan.pools and not pools:
            hint = f"start its engines as the notes of the choice say, or {hint}"
        elif plan.chosen is not None and flags:
            hint = f"start its engines, then give their URLs: archwright up PLAN {flags}"
        message = f"the plan's choice ({plan.chosen or 'none'}) cannot run on this machine alone"
        where = ErrorLocation(plan.needs_file, None, "placement.allow")
        raise PlanError("AW-PLAN-20", message, where=where, hint=hint)
    return tuple(found)


def build_engine_process(pool: Pool, replica: int, deadline_s: float) -> ProcessSpec:
    """Build a replica with its own part of the accelerators that the pool may see."""
    name, environment, width = _format_engine_name(pool, replica), dict(pool.launch.environment), pool.accelerator_count
    if VISIBLE in environment:
        environment[VISIBLE] = ",".join(environment[VISIBLE].split(",")[replica * width : (replica + 1) * width])
    return ProcessSpec(
        name=name,
        argv=ENGINE_ARGUMENTS,
        config={
            "engine": pool.launch.engine,
            "socket": name,
            "model_sha256": pool.artefact.sha256 if pool.artefact else None,
            "alias": pool.model,
            "slots": pool.slots,
            "context_tokens": pool.context_tokens,
            "default_max_tokens": pool.default_max_tokens,
            "settings": dict(pool.launch.settings),
        },
        environment=environment,
        ready_path=pool.launch.health_path,
        ready_socket=name,
        startup_deadline_s=max(STARTUP_DEADLINE_S, STARTUP_MARGIN * pool.launch.startup_s, deadline_s),
    )


def _format_engine_name(pool: Pool, replica: int) -> str:
    return f"engine-{pool.name}" if replica == 0 else f"engine-{pool.name}-{replica}"


def build_gateway_config(
    plan: Plan, listener: ListenerSettings, store_url: str, served: LocatedPools, *, cache: str = "off"
) -> dict[str, object]:
    """Return the gateway's configuration for `served`: pools with their endpoints, no URL if a pool runs here.

    Raises PlanError AW-PLAN-21 if the residency of a workload's data excludes the country of its pool.
    """
    together: dict[tuple[str, str], list[Pool]] = {}
    for pool, _ in served:
        for workload in pool.workloads:
            together.setdefault((workload, pool.model), []).append(pool)
    endpoints = list[dict[str, object]]()
    for (name, _), pools in together.items():
        endpoints.append(_build_endpoint_config(plan, _find_workload(plan, name), pools))
    for adapter, pools in _group_adapters(served).items():
        endpoints.append(_build_adapter_endpoint(plan, adapter, pools))
    return {
        **msgspec.to_builtins(listener),
        "store_url": store_url,
        "pools": [_build_pool_config(plan, pool, at) for pool, at in served],
        "endpoints": [{**endpoint, "cache": cache} for endpoint in endpoints],
        "plan_digest": plan.digest,
        "workers": plan.gateway_workers,
    }


def _group_adapters(served: LocatedPools) -> dict[ServedAdapter, list[Pool]]:
    """Return the pools that serve each adapter in one version: a name means one version."""
    versions = dict[str, ServedAdapter]()
    grouped = dict[ServedAdapter, list[Pool]]()
    for pool, at in served:
        for adapter in at.adapters:
            if versions.setdefault(adapter.name, adapter) == adapter:
                grouped.setdefault(adapter, []).append(pool)
    return grouped


def _build_adapter_endpoint(plan: Plan, adapter: ServedAdapter, pools: list[Pool]) -> dict[str, object]:
    """Return the endpoint of the workload that the adapter tunes, under the name of its training."""
    endpoint = _build_endpoint_config(plan, _find_workload(plan, adapter.workload), pools)
    endpoint["workload"] = adapter.name
    endpoint["tuned_model"] = adapter.engine_name
    endpoint["tuned_version"] = adapter.version
    return endpoint


def _find_workload(plan: Plan, name: str) -> WorkloadPlan:
    return next((one for one in plan.workloads if one.name == name), WorkloadPlan(name=name, model=None, pools=()))


def _build_pool_config(plan: Plan, pool: Pool, at: ExternalEndpoints) -> dict[str, object]:
    addresses = at.urls or tuple(f"unix:{_format_engine_name(pool, replica)}" for replica in range(pool.replicas))
    price = pool.price_per_token
    return {
        "name": pool.name,
        "model": pool.model,
        "engine_model": at.model,
        "addresses": list(addresses),
        "protocol": pool.launch.settings.get("protocol", "openai"),
        "key": f"env:{at.key_env}" if at.key_env else "",
        "engine": at.kind or pool.launch.engine,
        "tools": "template" if pool.launch.settings.get("template_tools") and not at.urls else "",
        "allow_fields": list(at.allow_fields),
        # A proxy in front of engines elsewhere may not know this path.
        "health_path": "" if at.urls else pool.launch.health_path,
        "slots": -(-pool.slots * pool.replicas // len(addresses)),
        "context_tokens": pool.context_tokens,
        "own": pool.is_on_own_hardware,
        "place": _resolve_place(plan, pool).country,
        "price_in_usd": price.input_usd if price is not None else None,
        "price_out_usd": price.output_usd if price is not None else None,
    }


def _resolve_place(plan: Plan, pool: Pool) -> PoolLocation:
    """Return the pool's location. Own engines count as "here" if a workload states no residency."""
    here = pool.is_on_own_hardware and not all(_find_workload(plan, name).residency for name in pool.workloads)
    return PoolLocation("" if here else pool.country, pool.is_on_own_hardware)


def _build_endpoint_config(plan: Plan, workload: WorkloadPlan, pools: list[Pool]) -> dict[str, object]:
    targets = [pool for pool in pools if pool.is_on_own_hardware] or pools
    stated = ResidencyPolicy(workload.data_class or "", workload.residency, workload.residency_of)
    outside = [pool for pool in pools if not is_permitted_by_policy("personal", _resolve_place(plan, pool), stated)]
    if outside and workload.data_class in RESIDENCY_BOUND_CLASSES:
        raise PlanError(
            "AW-PLAN-21",
            f"{workload.name} processes {workload.data_class} data, and its pool {outside[0].name} is in "
            f"{outside[0].country or 'an unknown country'}, outside {', '.join(workload.residency) or 'your own site'}",
            where=ErrorLocation(plan.needs_file, None, "data.residency"),
            hint="plan again without that place, or add the country to the residency of the data",
        )
    waits = workload.waits
    return {
        "model": pools[0].model,
        "workload": workload.name,
        "targets": [{"pool": pool.name, "weight": float(pool.slots * pool.replicas)} for pool in targets],
        "overflow": [pool.name for pool in pools if pool not in targets],
        **({"wait_s": waits.wait_s, "overflow_wait_s": waits.overflow_s} if waits is not None else {}),
        "default_max_tokens": targets[0].default_max_tokens,
        "embeddings": targets[0].embeddings,
        "rerank": targets[0].rerank,
        "data_class": workload.data_class or "",
        "residency": list(workload.residency),
        "residency_of": {one: list(residency) for one, residency in workload.residency_of.items()},
        # If no pool may receive personal data, every finding would be refused, so the class of the caller counts.
        "detect": False if len(outside) == len(pools) else None,
    }
