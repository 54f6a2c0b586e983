"""What runs for what is served: from the plan's bundle and the versions in production to processes and endpoints.

Nothing here acts. A text endpoint is a workload of the plan: the plan's own engines serve it, or engines like them
with an adapter. A classifier's endpoint exists as long as a version of it is in production. Engines with the same
key are the same engines: the workloads of a pool share the plan's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from archwright.contract.lineage import ModelVersion
from archwright.contract.plan import Bundle, ProcessSpec
from archwright.contract.record import replace
from archwright.home import Home
from archwright.lifecycle import model_registry
from archwright.serving.settings.config import EndpointSpec, EnginePoolSpec, GatewayConfig, WeightedTarget
from archwright.store import Store

PREDICT_SLOTS = 4
PREDICT_DEADLINE_S = 60.0


class DesiredVersion(NamedTuple):
    """What the newest promotion of an endpoint says: `version` None is the plan's own model, or nothing."""

    promotion: str = ""
    version: ModelVersion | None = None


class ServedEndpoint(NamedTuple):
    """An endpoint as it is served, with the pools it names, its own first: `version` is empty for the plan's own
    model; without `spec` there is no endpoint. `left_out` are pools of the plan that cannot answer as the version."""

    version: str
    key: str
    spec: EndpointSpec | None
    pools: tuple[EnginePoolSpec, ...]
    engines: tuple[ProcessSpec, ...]
    left_out: tuple[str, ...] = ()

    @property
    def serves(self) -> str:
        return self.pools[0].serves if self.pools else ""


NOT_SERVED = ServedEndpoint("", "", None, (), ())


def read_desired_versions(store: Store) -> dict[str, DesiredVersion]:
    """The newest promotion of each endpoint, as `model_registry.production` reads it."""
    versions = {version.id: version for version in model_registry.list_models(store)}
    return {
        change.endpoint: DesiredVersion(change.id, versions[change.model] if change.model else None)
        for change in model_registry.promotion_history(store)
    }


def promotion_number(promotion: str) -> int:
    """Which change of its endpoint a promotion is, from 1; 0 for none."""
    return int(promotion.rpartition("#")[2] or 0)


class PlatformLayout:
    """The plan's own processes and endpoints, and what may take their place."""

    def __init__(self, bundle: Bundle) -> None:
        *engines, self.gateway = bundle.processes
        self._engines = {spec.name: spec for spec in engines}
        self._config = msgspec.convert(self.gateway.config, GatewayConfig)
        self._pools = {pool.name: pool for pool in self._config.pools}
        # A promotion is for the first endpoint of a workload; a second one (another model for it) stays as it is.
        self.workloads: dict[str, EndpointSpec] = {}
        for spec in self._config.endpoints:
            name = spec.workload if spec.workload not in self.workloads else f"{spec.workload}/{spec.model}"
            self.workloads[name] = spec

    @property
    def request_s(self) -> float:
        """How long a request may last at most."""
        return self._config.limits.request_s

    def endpoint_of_plan(self, spec: EndpointSpec) -> ServedEndpoint:
        """The plan's own model."""
        return ServedEndpoint("", f"plan:{spec.pool}", spec, self._pools_of(spec), self._engines_of(spec))

    def endpoint_of_version(self, endpoint: str, to: DesiredVersion) -> ServedEndpoint:
        """What serves an endpoint as `to` wants it; `obstacle` was asked before."""
        spec, version = self.workloads.get(endpoint), to.version
        if version is None:
            return NOT_SERVED if spec is None else self.endpoint_of_plan(spec)
        key = f"{endpoint}={version.id}"
        if spec is None:
            engine = _build_classifier_process(f"predict-{endpoint}.v{version.version}", version)
            pool = _build_predict_pool(endpoint, engine.name, version.id)
            return ServedEndpoint(version.id, key, _build_predict_endpoint(endpoint, pool.name), (pool,), (engine,))
        engines = tuple(
            _add_adapter(engine, f"engine-{endpoint}.v{version.version}", index, version)
            for index, engine in enumerate(self._engines_of(spec))
        )
        # The plan's own pool of the endpoint gives way to one of the version. The others hold the plan's model: under
        # the version's name they would answer as what they are not. A shadow answers nobody.
        own, *others = self._pools_of(spec)
        alone = sum(own.name in other.pools for other in self._config.endpoints) == 1
        pool = replace(
            own,
            name=own.name if alone else f"{own.name}/{endpoint}",
            addresses=tuple(f"unix:{engine.name}" for engine in engines),
            version=version.id,
            adapter=True,
        )
        changed = replace(spec, targets=(WeightedTarget(pool=pool.name),), overflow=(), fallback=())
        shadows = tuple(other for other in others if other.name == spec.shadow)
        return ServedEndpoint(version.id, key, changed, (pool, *shadows), engines, spec.serving_pools[1:])

    def find_obstacle(self, endpoint: str, version: ModelVersion, home: Home) -> str:
        """Why the platform of this plan cannot serve the version at the endpoint; empty when it can."""
        if not home.model(version.sha256, version.format).is_file():
            return f"the file of {version.id} is not in the home ({version.sha256[:12]}.{version.format})"
        spec = self.workloads.get(endpoint)
        if spec is None:
            return ""
        if version.task != "text-lora":
            return f"{version.id} is a classifier, and {endpoint} is a workload of the plan that serves text"
        engines = self._engines_of(spec)
        if not engines:
            address = self._pools[spec.pool].addresses[0]
            return f"the plan serves {endpoint} from {address}, where no adapter of ours can be loaded"
        base = engines[0].config.get("model_sha256")
        if base and version.base_sha256 and base != version.base_sha256:
            return f"{version.id} is an adapter for {version.base}, and the plan serves {endpoint} with {spec.model}"
        return ""

    def has_no_workload(self, endpoint: str, version: ModelVersion) -> bool:
        """Whether this plan has no place for the version: text needs a workload of its name."""
        return version.task == "text-lora" and endpoint not in self.workloads

    def build_gateway_process(self, served: Iterable[ServedEndpoint], revision: int) -> ProcessSpec:
        """The gateway's process with a configuration that serves this."""
        present = [serving for serving in served if serving.spec is not None]
        endpoints = tuple(serving.spec for serving in present)
        pools = {pool.name: pool for serving in present for pool in serving.pools}
        config = replace(self._config, pools=tuple(pools.values()), endpoints=endpoints, revision=revision)
        return replace(self.gateway, config=msgspec.to_builtins(config))

    def _pools_of(self, spec: EndpointSpec) -> tuple[EnginePoolSpec, ...]:
        return tuple(self._pools[name] for name in spec.pools)

    def _engines_of(self, spec: EndpointSpec) -> tuple[ProcessSpec, ...]:
        names = [address.removeprefix("unix:") for address in self._pools[spec.pool].addresses]
        return tuple(self._engines[name] for name in names if name in self._engines)


def _add_adapter(engine: ProcessSpec, name: str, index: int, version: ModelVersion) -> ProcessSpec:
    return _rename_engine(engine, name if index == 0 else f"{name}-{index}", {"adapter_sha256": version.sha256})


def _rename_engine(engine: ProcessSpec, name: str, changes: Mapping[str, object]) -> ProcessSpec:
    return replace(engine, name=name, ready_socket=name, config={**engine.config, "socket": name, **changes})


def _build_classifier_process(name: str, version: ModelVersion) -> ProcessSpec:
    return ProcessSpec(
        name=name,
        argv=("-m", "archwright.engines", "{home}", "{config}"),
        config={
            "engine": "onnx",
            "socket": name,
            "model_sha256": version.sha256,
            "alias": version.name,
            "slots": PREDICT_SLOTS,
            "context_tokens": 1,
            "default_max_tokens": 1,
        },
        ready_socket=name,
        startup_deadline_s=PREDICT_DEADLINE_S,
    )


def _build_predict_pool(endpoint: str, engine: str, version: str) -> EnginePoolSpec:
    return EnginePoolSpec(
        name=f"predict/{endpoint}",
        addresses=(f"unix:{engine}",),
        model=endpoint,
        slots=PREDICT_SLOTS,
        context_tokens=1,
        version=version,
    )


def _build_predict_endpoint(endpoint: str, pool: str) -> EndpointSpec:
    return EndpointSpec(
        model=endpoint, workload=endpoint, targets=(WeightedTarget(pool=pool),), default_max_tokens=1, kind="predict"
    )
