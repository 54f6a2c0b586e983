"""Target "single machine": the process list that runs a plan's pools behind one gateway.

Writes no file and starts nothing: the Bundle is a record, `operate` runs it. Configurations are plain
dictionaries because the design wing may not import the rooms that read them; a test holds both together.
Paths are left to the runner: "{home}" and "{config}" in argv, and sockets by name.
"""

from __future__ import annotations

from typing import NamedTuple

from archwright.contract.plan import Bundle, Plan, Pool, ProcessSpec
from archwright.errors import PlanError, Where

STARTUP_DEADLINE_S = 60.0
# Where an engine is our own capacity: everything else may be beyond the residency.
OWN = ("this-machine", "on-premises")


class Listen(NamedTuple):
    """Where the gateway listens, and who gets its traces; TLS files are needed for any address but loopback."""

    host: str
    port: int
    tls_certificate: str = ""
    tls_key: str = ""
    otlp_url: str = ""

    @property
    def url(self) -> str:
        scheme = "https" if self.tls_certificate else "http"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}"


def bundle(plan: Plan, listen: Listen, store_url: str) -> Bundle:
    """The processes of `plan` on this machine: one per engine replica, then the gateway.

    Raises PlanError AW-PLAN-20 when the plan's choice does not run on one machine.
    """
    local = [pool for pool in plan.pools if pool.launch.url is None]
    if plan.chosen is None or not plan.pools or any(p.placement != "this-machine" for p in local):
        raise PlanError(
            "AW-PLAN-20",
            f"the plan's choice ({plan.chosen or 'none'}) cannot be brought up on this machine",
            where=Where(plan.needs_file, None, "placement.allow"),
            hint="plan with placement: {allow: [this-machine]}, as examples/desk/needs.yaml does",
        )
    engines = [_engine(pool, replica) for pool in local for replica in range(pool.replicas)]
    gateway = ProcessSpec(
        name="gateway",
        argv=("-m", "archwright.serving", "{home}", "{config}"),
        config=_gateway_config(plan, listen, store_url),
        ready_path="/readyz",
        ready_port=listen.port,
        startup_deadline_s=STARTUP_DEADLINE_S,
        after=tuple(engine.name for engine in engines),
    )
    return Bundle(plan_digest=plan.digest, processes=(*engines, gateway), url=listen.url)


def _engine(pool: Pool, replica: int) -> ProcessSpec:
    name = _engine_name(pool, replica)
    return ProcessSpec(
        name=name,
        argv=("-m", "archwright.engines", "{home}", "{config}"),
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
        environment=dict(pool.launch.environment),
        ready_path=pool.launch.health_path,
        ready_socket=name,
        startup_deadline_s=STARTUP_DEADLINE_S,
    )


def _engine_name(pool: Pool, replica: int) -> str:
    return f"engine-{pool.name}" if replica == 0 else f"engine-{pool.name}-{replica}"


def _gateway_config(plan: Plan, listen: Listen, store_url: str) -> dict[str, object]:
    endpoints = [_endpoint(pool, workload) for pool in plan.pools for workload in pool.workloads]
    return {
        "host": listen.host,
        "port": listen.port,
        "tls_certificate": listen.tls_certificate or None,
        "tls_key": listen.tls_key or None,
        "store_url": store_url,
        "pools": [_pool(pool) for pool in plan.pools],
        "endpoints": endpoints,
        "plan_digest": plan.digest,
        "traces": {"url": listen.otlp_url} if listen.otlp_url else None,
    }


def _pool(pool: Pool) -> dict[str, object]:
    here = pool.launch.url is None
    key = pool.launch.settings.get("key_env")
    return {
        "name": pool.name,
        "model": pool.model,
        "addresses": [f"unix:{_engine_name(pool, replica)}" for replica in range(pool.replicas)]
        if here
        else [pool.launch.url],
        "key": f"env:{key}" if key else "",
        "health_path": pool.launch.health_path,
        "slots": pool.slots,
        "context_tokens": pool.context_tokens,
        "own": pool.placement in OWN,
    }


def _endpoint(pool: Pool, workload: str) -> dict[str, object]:
    return {
        "model": pool.model,
        "workload": workload,
        "targets": [{"pool": pool.name}],
        "default_max_tokens": pool.default_max_tokens,
        "embeddings": pool.embeddings,
    }
