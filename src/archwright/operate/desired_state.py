"""Compute processes and endpoints from the plan's bundle and the versions in production.

A text endpoint is a workload of the plan, served by the plan's own engines or by copies of them with an adapter. A
classifier's endpoint exists while a version of it is in production. Equal keys mean the same engines: the workloads of
a pool share the plan's own. Nothing here has side effects.
"""

from collections.abc import Iterable
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
    """The newest promotion of an endpoint; `version` None is the plan's own model, or nothing."""

    promotion: str = ""
    version: ModelVersion | None = None


class ServedEndpoint(NamedTuple):
    """An endpoint with its pools, its own first; `version` is empty for the plan's own model.

    Without `spec` there is no endpoint. `left_out` are pools of the plan that cannot serve the version.
    """

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
    versions = {version.id: version for version in model_registry.list_models(store)}
    return {
        change.endpoint: DesiredVersion(change.id, versions[change.model] if change.model else None)
        for change in model_registry.promotion_history(store)
    }


def promotion_number(promotion: str) -> int:
    """The number of a promotion within its endpoint, from 1; 0 for none."""
    return int(promotion.rpartition("#")[2] or 0)


class PlatformLayout:
    """The plan's own processes and endpoints, and their replacements."""

    def __init__(self, bundle: Bundle) -> None:
        *engines, self.gateway = bundle.processes
        self._engines = {spec.name: spec for spec in engines}
        self._config = msgspec.convert(self.gateway.config, GatewayConfig)
        self._pools = {pool.name: pool for pool in self._config.pools}
        # Promotions apply to the first endpoint of a workload; a second one (another model) is unchanged.
        self.workloads: dict[str, EndpointSpec] = {}
        for spec in self._config.endpoints:
            name = spec.workload if spec.workload not in self.workloads else f"{spec.workload}/{spec.model}"
            self.workloads[name] = spec

    @property
    def request_s(self) -> float:
        return self._config.limits.request_s

    def endpoint_of_plan(self, spec: EndpointSpec) -> ServedEndpoint:
        return ServedEndpoint("", f"plan:{spec.pool}", spec, self._pools_of(spec), self._engines_of(spec))

    def endpoint_of_version(self, endpoint: str, to: DesiredVersion) -> ServedEndpoint:
        """Return the endpoint for `to`; the caller has checked `find_obstacle`."""
        spec, version = self.workloads.get(endpoint), to.version
        if version is None:
            return NOT_SERVED if spec is None else self.endpoint_of_plan(spec)
        key = f"{endpoint}={version.id}"
        if spec is None:
            return _build_classifier_endpoint(endpoint, key, version)
        engines = tuple(
            _add_adapter(engine, f"engine-{endpoint}.v{version.version}{f'-{index}' if index else ''}", version)
            for index, engine in enumerate(self._engines_of(spec))
        )
        # The version's pool replaces the endpoint's pool. Other pools hold the plan's model, so they must not answer
        # under the version's name. Shadow responses are discarded, so the shadow stays.
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
        """Return the reason why this plan cannot serve the version at the endpoint; empty if it can."""
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
            return f"the plan serves {endpoint} from {address}, and no adapter can be loaded there"
        base = engines[0].config.get("model_sha256")
        if base and version.base_sha256 and base != version.base_sha256:
            return f"{version.id} is an adapter for {version.base}, and the plan serves {endpoint} with {spec.model}"
        return ""

    def has_no_workload(self, endpoint: str, version: ModelVersion) -> bool:
        """True if the plan has no place for the version: a text model needs a workload of its name."""
        return version.task == "text-lora" and endpoint not in self.workloads

    def build_gateway_process(self, served: Iterable[ServedEndpoint], revision: int) -> ProcessSpec:
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


def _add_adapter(engine: ProcessSpec, name: str, version: ModelVersion) -> ProcessSpec:
    config = {**engine.config, "socket": name, "adapter_sha256": version.sha256}
    return replace(engine, name=name, ready_socket=name, config=config)


def _build_classifier_endpoint(endpoint: str, key: str, version: ModelVersion) -> ServedEndpoint:
    name = f"predict-{endpoint}.v{version.version}"
    engine = ProcessSpec(
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
    pool = EnginePoolSpec(
        name=f"predict/{endpoint}",
        addresses=(f"unix:{name}",),
        model=endpoint,
        slots=PREDICT_SLOTS,
        context_tokens=1,
        version=version.id,
    )
    targets = (WeightedTarget(pool=pool.name),)
    spec = EndpointSpec(model=endpoint, workload=endpoint, targets=targets, default_max_tokens=1, kind="predict")
    return ServedEndpoint(version.id, key, spec, (pool,), (engine,))
