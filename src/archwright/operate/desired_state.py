"""Compute processes and endpoints from the plan's bundle, the versions in production and the loaded models.

A text endpoint is a workload of the plan, served by the plan's own engines or by copies of them with an adapter. A
classifier's endpoint exists while a version of it is in production. An alias of a loaded model is an endpoint, or
replaces the model of the workload of its name. Equal keys mean the same engines: the workloads of a pool share the
plan's own, the aliases of a model share the model's. Nothing here has side effects.
"""

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from archwright.contract.lineage import ModelVersion
from archwright.contract.plan import ENGINE_ARGUMENTS, Bundle, ProcessSpec
from archwright.contract.record import replace
from archwright.engines.engine_config import EngineConfig, find_model_files
from archwright.home import Home
from archwright.lifecycle import model_registry
from archwright.operate.loaded_models import read_aliases
from archwright.policy.residency import strictest_class
from archwright.serving.settings.config import (
    EndpointSpec,
    EnginePoolSpec,
    GatewayConfig,
    WeightedTarget,
    is_outside_residency,
)
from archwright.store import Store

PREDICT_SLOTS = 4
PREDICT_DEADLINE_S = 60.0
# The rules of an endpoint about the plan's pools, which the pool of a loaded model replaces.
NO_SHARING = {"overflow": (), "fallback": (), "shadow": "", "shadow_share": 0.0, "wait_s": None, "context_tokens": 0}


class DesiredVersion(NamedTuple):
    """The newest promotion or change of an alias: its id, and the version or the engine of a loaded model.

    Without both the endpoint serves the plan's own model, or nothing."""

    promotion: str = ""
    version: ModelVersion | None = None
    launch: ProcessSpec | None = None

    @property
    def identity(self) -> str:
        """Equal to the `version` of the endpoint that serves this; empty for the plan's own model."""
        if self.version is not None:
            return self.version.id
        return "" if self.launch is None else self.launch.name


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

    @property
    def on_demand(self) -> bool:
        """True for a loaded model, whose engine runs while it is used."""
        return any(engine.on_demand for engine in self.engines)

    def without_engine(self) -> "ServedEndpoint":
        """Return the endpoint while its engine does not run: the first request starts it."""
        own, *others = self.pools
        return self._replace(pools=(replace(own, start_s=self.engines[0].startup_deadline_s), *others))


NOT_SERVED = ServedEndpoint("", "", None, (), ())


def read_desired_versions(store: Store) -> dict[str, DesiredVersion]:
    """A version in production takes precedence over a loaded model."""
    versions = {version.id: version for version in model_registry.list_models(store)}
    newest = {change.endpoint: change for change in model_registry.promotion_history(store)}
    found = {
        endpoint: DesiredVersion(change.id, versions[change.model] if change.model else None)
        for endpoint, change in newest.items()
    }
    for alias, change in read_aliases(store).items():
        promoted = newest.get(alias)
        if promoted is None or promoted.model is None:
            latest = change if promoted is None or promoted.at <= change.at else promoted
            found[alias] = DesiredVersion(latest.id, None, change.launch)
    return found


def promotion_number(promotion: str) -> int:
    """The number of a promotion within its endpoint, from 1; 0 for none and for a change of an alias."""
    number = promotion.rpartition("#")[2]
    return int(number) if number.isdigit() else 0


class PlatformLayout:
    """The plan's own processes and endpoints, and their replacements."""

    def __init__(self, bundle: Bundle) -> None:
        *engines, self.gateway = bundle.processes
        self._engines = {spec.name: spec for spec in engines}
        self._config = msgspec.convert(self.gateway.config, GatewayConfig)
        self._pools = {pool.name: pool for pool in self._config.pools}
        self._memory_bytes = bundle.model_memory_bytes
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
        if version is None and to.launch is not None:
            return self._build_loaded_endpoint(endpoint, to.launch)
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
        missing = model_registry.find_missing_file(home, version)
        if missing is not None:
            return f"the file of {version.id} is not in the home ({missing.name[:12]}{missing.suffix})"
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

    def find_launch_obstacle(self, endpoint: str, launch: ProcessSpec, home: Home) -> str:
        """Return the reason why this plan and home cannot serve a loaded model at the endpoint; empty if they can."""
        engine = msgspec.convert(launch.config, EngineConfig)
        model, spec = engine.alias, self.workloads.get(endpoint)
        for path in find_model_files(launch.config, home):
            if not path.is_file():
                return f"the file of {model} is not in the home ({path.name[:12]})"
        if 0 < self._memory_bytes < launch.memory_bytes:
            return format_shortage(model, launch.memory_bytes, self._memory_bytes, self._memory_bytes)
        tasks = _find_tasks(engine)
        if spec is not None and (tasks["embeddings"], tasks["rerank"]) != (spec.embeddings, spec.rerank):
            return f"{endpoint} is a workload of the plan, and {model} is a model for another task"
        built = self._build_loaded_endpoint(endpoint, launch)
        assert built.spec is not None, "a loaded model without an endpoint"
        if is_outside_residency(built.spec, built.pools[0], built.spec.data_class or "internal"):
            return f"{endpoint} processes {built.spec.data_class} data, and this machine is outside their residency"
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

    def _build_loaded_endpoint(self, alias: str, launch: ProcessSpec) -> ServedEndpoint:
        """Keep the rules of the plan's workload. A new endpoint gets the strictest data class of the plan, and without
        a residency sensitive data stay on our own engines."""
        engine = msgspec.convert(launch.config, EngineConfig)
        pool = EnginePoolSpec(
            name=launch.name,
            addresses=(f"unix:{launch.name}",),
            model=engine.alias,
            slots=engine.slots,
            context_tokens=engine.context_tokens,
            tools="template" if engine.settings.get("template_tools") else "",
            place=next((pool.place for pool in self._config.pools if pool.strict and pool.place), ""),
        )
        targets, tokens, spec = (WeightedTarget(pool=pool.name),), engine.default_max_tokens, self.workloads.get(alias)
        if spec is None:
            stated = [one.data_class for one in self.workloads.values() if one.data_class]
            spec = EndpointSpec(
                model=engine.alias,
                workload=alias,
                targets=targets,
                default_max_tokens=tokens,
                data_class=strictest_class(stated) if stated else "",
            )
        own = {"model": engine.alias, "targets": targets, "default_max_tokens": tokens, **_find_tasks(engine)}
        return ServedEndpoint(launch.name, launch.name, replace(spec, **NO_SHARING, **own), (pool,), (launch,))

    def _pools_of(self, spec: EndpointSpec) -> tuple[EnginePoolSpec, ...]:
        return tuple(self._pools[name] for name in spec.pools)

    def _engines_of(self, spec: EndpointSpec) -> tuple[ProcessSpec, ...]:
        names = [address.removeprefix("unix:") for address in self._pools[spec.pool].addresses]
        return tuple(self._engines[name] for name in names if name in self._engines)


def format_shortage(model: str, need: float, free: float, limit: float) -> str:
    figures = f"{need / 1e9:.2f} GB of memory, and {max(free, 0.0) / 1e9:.2f} of {limit / 1e9:.2f} GB are free"
    return f"{model} needs {figures} for loaded models (model_memory_bytes)"


def _find_tasks(engine: EngineConfig) -> dict[str, bool]:
    """The fields of an endpoint that say what its engine does: generate, or one of the others."""
    settings, names = engine.settings, {"embeddings": "embed", "rerank": "rerank"}
    tasks = {name: bool(settings.get(name)) or settings.get("task") == task for name, task in names.items()}
    return {**tasks, "generates": not any(tasks.values())}


def _add_adapter(engine: ProcessSpec, name: str, version: ModelVersion) -> ProcessSpec:
    config = {**engine.config, "socket": name, "adapter_sha256": version.sha256}
    return replace(engine, name=name, ready_socket=name, config=config)


def _build_classifier_endpoint(endpoint: str, key: str, version: ModelVersion) -> ServedEndpoint:
    name = f"predict-{endpoint}.v{version.version}"
    engine = ProcessSpec(
        name=name,
        argv=ENGINE_ARGUMENTS,
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
