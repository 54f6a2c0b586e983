"""How the engine of a pool runs in a container: image, command line, ports and the volume of its weights.

The facts are in engine_containers.yaml. A pool whose engine is not there has no container of its own: the gateway
answers its requests (models that predict).
"""

import functools
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import yaml

from archwright.catalog.catalog import Catalog
from archwright.contract.plan import Pool
from archwright.contract.record import Record
from archwright.deploy.containers.engine_adapters import AdapterRow
from archwright.deploy.rendering.bundle import encode_json
from archwright.deploy.rendering.components import ModelPin, Pins
from archwright.deploy.single_machine import ServedAdapter

MODELS = "/models"
LISTENER = ("served-model-name", "host", "port", "shutdown-timeout")
MODEL_FOLDER, DRAFT_FOLDER = "model", "draft"
# A volume has this multiple of the weights, because a new revision lies beside the old one.
VOLUME_SHARE, SMALLEST_VOLUME_BYTES = 2.2, 10 * 2**30
# Shared memory of the processes of an engine: this share of its memory, at most 16 GiB.
SHARED_MEMORY_SHARE, MOST_SHARED_MEMORY_BYTES = 8, 16 * 2**30


class EngineRow(Record):
    """An engine of engine_containers.yaml, whose head describes the fields."""

    images: dict[str, str]
    command: tuple[str, ...]
    arguments: tuple[str, ...]
    in_flight: str
    waiting: str
    optional: dict[str, str] = {}
    group: tuple[str, ...] = ()
    worker: tuple[str, ...] = ()
    environment: dict[str, str] = {}
    model_file: str = ""
    upstream: str = ""
    ray: dict[str, str] = {}
    adapters: AdapterRow = AdapterRow()
    drains: bool = False


class EngineTable(Record):
    engines: dict[str, EngineRow]
    resources: dict[str, str]


class EngineContainer(Record):
    """The container of a pool's engine. `component`: row of its image, or the name of an image of the organisation.

    `resource`: extended resource of its accelerators, empty without. `in_flight`: its series of running requests.
    `weights`: the list of model files for `archwright.engines.weight_files`, which puts them into the folder `revision`
    of the volume: a new list does not replace files of running engines. `adapters`: those that it loads;
    `adapter_folders`: the folder of each that it can load, by name.
    """

    component: str
    is_own_image: bool
    row: EngineRow
    port: int
    command: tuple[str, ...]
    arguments: tuple[str, ...]
    in_flight: str
    resource: str
    environment: dict[str, str]
    volume_bytes: int
    shared_memory_bytes: int
    weights: str
    revision: str
    adapters: tuple[ServedAdapter, ...] = ()
    adapter_folders: dict[str, str] = {}

    @property
    def ray(self) -> dict[str, str]:
        """The images in which Ray can serve the pool too. Its configuration here loads no adapters."""
        if self.adapters:
            return {}
        return self.row.ray

    @property
    def engine_options(self) -> dict[str, object]:
        """Return the arguments behind the model as options of the engine's library, which has no listener."""
        found = dict[str, object]()
        for argument in self.arguments[1:]:
            name, _, text = argument.removeprefix("--").partition("=")
            if name not in LISTENER:
                value = yaml.load(text, yaml.CSafeLoader) if text else not name.startswith("no-")
                found[name.removeprefix("no-").replace("-", "_")] = value
        return found

    def list_arguments(self, role: str) -> list[str]:
        """Return the arguments of a role: "single", "leader" or "worker"."""
        row = self.row
        more = {"single": (), "leader": row.group, "worker": (*row.group, *row.worker)}
        return [*self.arguments, *more[role]]


@functools.cache
def read_engine_table() -> EngineTable:
    rows = yaml.load(Path(__file__).with_suffix(".yaml").read_bytes(), yaml.CSafeLoader)
    return msgspec.convert(rows, EngineTable)


def find_resource(vendor: str) -> str:
    """Return the resource of Kubernetes for accelerators of a vendor, empty if it has none."""
    return read_engine_table().resources.get(vendor, "")


def build_container(
    pool: Pool, port: int, grace_s: int, memory_bytes: int, catalog: Catalog, pins: Pins
) -> EngineContainer | None:
    """Return the container of a pool, None if the gateway answers for it. `memory_bytes` of the container."""
    row = read_engine_table().engines.get(pool.launch.engine)
    if row is None:
        return None
    component, is_own = choose_image(pool, catalog)
    pin = pins.models.get(pool.name, ModelPin(model=pool.model))
    folders = {MODEL_FOLDER: pin, DRAFT_FOLDER: pins.models.get(name_draft(pool))}
    adapters = list(row.adapters.list_pinned(pool, pins))
    for adapter in adapters:
        folders[adapter.folder] = adapter.pin
    weights = encode_json([_list_files(name, one) for name, one in folders.items() if one is not None])
    revision = hashlib.sha256(weights.encode()).hexdigest()[:10]
    folder = f"{MODELS}/{revision}"
    arguments = list(_fill_arguments(pool, row, {"port": port, "grace_s": grace_s}, folder, pin))
    arguments += row.adapters.list_arguments(adapters, folder)
    return EngineContainer(
        component=component,
        is_own_image=is_own,
        row=row,
        port=port,
        command=row.command,
        arguments=tuple(arguments),
        in_flight=pool.launch.metrics.get("in_flight", row.in_flight),
        resource=find_resource(find_vendor(pool.accelerator, catalog)),
        environment={**row.environment, **pool.launch.environment},
        volume_bytes=_size_volume(pool, memory_bytes, catalog),
        shared_memory_bytes=min(MOST_SHARED_MEMORY_BYTES, memory_bytes // SHARED_MEMORY_SHARE),
        weights=weights,
        revision=revision,
        adapters=tuple(row.adapters.list_served(adapters, pool.model)),
        adapter_folders=row.adapters.list_folders(pool),
    )


def _list_files(folder: str, pin: ModelPin) -> dict[str, object]:
    """Return an entry of the list of `archwright.engines.weight_files`, which refuses other fields."""
    source = {"model": pin.model, "repository": pin.repository, "revision": pin.revision}
    return {"folder": folder, **source, "files": dict(pin.files)}


def name_draft(pool: Pool) -> str:
    """Return the name of the draft model's pin."""
    return f"{pool.name}-{DRAFT_FOLDER}"


def find_vendor(accelerator: str | None, catalog: Catalog) -> str:
    """Return the vendor of an accelerator in lower case, empty without one."""
    device = catalog.accelerators.get(accelerator or "")
    return device.vendor.lower() if device is not None else ""


def choose_image(pool: Pool, catalog: Catalog) -> tuple[str, bool]:
    """Return the component of a pool's image; or a name, and True if the organisation has to build the image.

    The name is empty if the engine has no container.
    """
    row, vendor = read_engine_table().engines.get(pool.launch.engine), find_vendor(pool.accelerator, catalog)
    if row is None:
        return "", False
    speech = catalog.speech_models.get(pool.model)
    served = not row.upstream or (speech is not None and speech.upstream.startswith(row.upstream))
    component = row.images.get(vendor, "")
    if served and component in catalog.components:
        return component, False
    return "-".join(filter(None, (pool.launch.engine, vendor))), True


def _fill_arguments(pool: Pool, row: EngineRow, numbers: dict[str, int], folder: str, pin: ModelPin) -> Iterator[str]:
    named = (name for name in sorted(pin.files) if name.endswith(row.model_file))
    file = f"/{next(named, f'unresolved{row.model_file}')}" if row.model_file else ""
    values = {
        **numbers,
        "model_path": f"{folder}/{MODEL_FOLDER}{file}",
        "model": pool.model,
        "slots": pool.slots,
        "context": pool.context_tokens,
        "total_context": pool.slots * pool.context_tokens,
        "tensor": pool.parallelism.tensor,
        "pipeline": pool.parallelism.pipeline,
    }
    has = {
        **{name: getattr(pool.parallelism, name) > 1 for name in ("tensor", "pipeline", "expert")},
        "accelerated": pool.accelerator_count > 0,
        "embeddings": pool.embeddings,
        "rerank": pool.rerank,
        "converted": pin.is_converted,
    }
    yield from (argument.format(**values) for argument in row.arguments)
    yield from (argument.format(**values) for name, argument in row.optional.items() if has[name])
    draft = find_draft(pool)
    for argument in pool.launch.arguments:
        if draft:  # engines reach no hub: the draft model lies beside the model
            argument = argument.replace(draft, f"{folder}/{DRAFT_FOLDER}")
        yield from re.split(r" (?=--)", argument)


def find_adapter_row(engine: str) -> AdapterRow:
    """Return how an engine loads adapters; that of an unknown one loads none."""
    row = read_engine_table().engines.get(engine)
    if row is None:
        return AdapterRow()
    return row.adapters


def find_draft(pool: Pool) -> str:
    """Return the repository of the draft model of a pool, empty if it has none of its own."""
    return pool.options.draft if "/" in pool.options.draft else ""


def _size_volume(pool: Pool, memory_bytes: int, catalog: Catalog) -> int:
    """Return the size of the volume: that of the weights, else the memory that must hold them."""
    device = catalog.accelerators.get(pool.accelerator)
    held = device.memory_bytes * pool.accelerator_count if device is not None else memory_bytes
    artefact = pool.artefact.size_bytes if pool.artefact is not None else 0
    return max(SMALLEST_VOLUME_BYTES, int(VOLUME_SHARE * (pool.weight_bytes or artefact or held)))
