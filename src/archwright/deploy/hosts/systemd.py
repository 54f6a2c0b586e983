"""The units of one machine with systemd: a gateway, a supervisor, and one unit for each engine.

Design: engines of this machine run as `python -P -m archwright.engines` on a Unix socket, so they need no network.
Engines of an owned machine are servers with their own launch line on a port of the loopback interface.
"""

from pathlib import PurePosixPath

import msgspec

from archwright.contract.listener import ListenerSettings
from archwright.contract.plan import GATEWAY_ARGUMENTS, Bundle, ProcessSpec
from archwright.contract.record import Record, replace
from archwright.deploy.containers.engine_containers import MODELS, EngineContainer
from archwright.deploy.containers.engine_layout import list_engines
from archwright.deploy.containers.gateway_container import locate_engines
from archwright.deploy.containers.night_jobs import NightJob
from archwright.deploy.deployment import Deployment, PoolDeployment
from archwright.deploy.names import make_label
from archwright.deploy.single_machine import (
    AUDIT_PLACE,
    ExternalEndpoints,
    ServedAdapter,
    build_engine_process,
    build_gateway_config,
    list_text_pools,
)

ENGINE_HOME, SERVERS = "/var/lib/archwright/engines", "/opt/archwright/engines"
HOST, PORT, FIRST_ENGINE_PORT = "127.0.0.1", 8470, 8101


class EngineService(Record):
    """One engine. `config` is its configuration file, or `command` its own launch line.

    `weights`: the folder of the model files of a launch line. `devices`: the numbers of its accelerators.
    """

    file: str
    model: str
    pool: PoolDeployment
    memory_bytes: int
    config_file: str
    reason: str = ""
    environment: dict[str, str] = {}
    devices: tuple[int, ...] = ()
    prediction_ids: tuple[str, ...] = ()
    config: dict[str, object] = {}
    command: tuple[str, ...] = ()
    weights: str = ""

    @property
    def uses_accelerators(self) -> bool:
        return bool(self.devices or self.pool.pool.accelerator_count)


class MachineUnits(Record):
    """`bundle`: the content of bundle.json, which the supervisor reads. `key_variables` hold keys of hosted models.

    `version_engine`: the unit of promoted versions.
    """

    bundle: dict[str, object]
    engines: tuple[EngineService, ...]
    version_engine: EngineService
    key_variables: tuple[str, ...]

    @property
    def all_engines(self) -> tuple[EngineService, ...]:
        return (*self.engines, self.version_engine)

    def list_paused(self, job: NightJob) -> tuple[str, ...]:
        """Return the units that stop for a job."""
        return tuple(engine.file for engine in self.engines if engine.pool in job.pauses)


def build_units(deployment: Deployment) -> MachineUnits:
    """Return the units of the deployment's machine.

    Raises PlanError AW-PLAN-21 if the residency of a workload's data excludes the country of its pool.
    """
    plan = deployment.served_plan
    engines, specs, located = list[EngineService](), list[ProcessSpec](), dict[str, ExternalEndpoints]()
    limits = {(one.pool.name, one.replica): one for one in list_engines(deployment)}
    for pool in deployment.pools:
        adapters = tuple[ServedAdapter, ...]()
        own, urls = pool.pool.placement == "this-machine", list[str]()
        for replica in range(pool.pool.replicas if own or pool.container is not None else 0):
            spec, limit = build_engine_process(pool.pool, replica, 0.0), limits.get((pool.name, replica))
            name = make_label(spec.name)
            unit = EngineService(
                file=f"archwright-{name}.service",
                model=pool.pool.model,
                pool=pool,
                memory_bytes=limit.memory_bytes if limit is not None else pool.memory_bytes,
                config_file=f"/etc/archwright/engines/{name}.json",
                reason=pool.reason,
                environment=spec.environment,
                prediction_ids=tuple(dict.fromkeys(limit.prediction_ids if limit is not None else pool.prediction_ids)),
            )
            if own or pool.container is None:
                specs.append(spec)
                engines.append(replace(unit, config=spec.config))
                continue
            port, models = FIRST_ENGINE_PORT + len(engines), f"{ENGINE_HOME}/models/{pool.name}"
            weights = f"{models}/{pool.container.revision}"
            urls.append(f"http://{HOST}:{port}/v1")
            adapters = pool.container.adapters
            command, devices = _list_words(pool.container, models, port), limit.devices if limit is not None else ()
            environment = {**pool.container.environment, **spec.environment}
            unit = replace(unit, command=command, weights=weights, devices=devices, environment=environment)
            engines.append(unit)
        located[pool.pool.name] = ExternalEndpoints(tuple(urls), kind="" if own else pool.engine, adapters=adapters)
    served = tuple((pool, located.get(pool.name) or locate_engines(pool, None, "")) for pool in list_text_pools(plan))
    listener = ListenerSettings(host=HOST, port=PORT, audit_checkpoints=AUDIT_PLACE)
    config = build_gateway_config(plan, listener, "", served)
    config |= {"plan_digest": deployment.plan.digest, "limits": deployment.gateway_limits}
    gateway = ProcessSpec(name="gateway", argv=GATEWAY_ARGUMENTS, config=config, ready_path="/readyz", ready_port=PORT)
    processes, url = (*specs, gateway), f"http://{HOST}:{PORT}"
    bundle = Bundle(plan_digest=deployment.plan.digest, processes=processes, url=url, engine_home=ENGINE_HOME)
    largest = max(deployment.pools, key=lambda pool: pool.memory_bytes)
    return MachineUnits(
        bundle=msgspec.to_builtins(bundle),
        engines=tuple(engines),
        version_engine=EngineService(
            file="archwright-engine@.service",
            model="%i",
            pool=largest,
            memory_bytes=largest.memory_bytes,
            config_file=f"{ENGINE_HOME}/config/%i.json",
            reason=f"promoted versions and loaded models of option {deployment.option.name}",
        ),
        key_variables=tuple(dict.fromkeys(at.key_env for _, at in served if at.key_env)),
    )


def _list_words(container: EngineContainer, models: str, port: int) -> tuple[str, ...]:
    """Return the launch line of a container for this machine: its program, the folder of its models, its port."""
    program, *more = container.command
    words = [f"{SERVERS}/{container.component}/bin/{PurePosixPath(program).name}", *more]
    for one in container.arguments:
        local = one.replace(f"{MODELS}/", f"{models}/").replace("--host=0.0.0.0", f"--host={HOST}")
        words.append(f"--port={port}" if local == f"--port={container.port}" else local)
    return tuple(words)
