"""Fine-tuned variants (LoRA) that an engine in a container loads beside its model: those whose files are pinned.

Without a pinned adapter an engine runs plain: the support for adapters costs capacity even if none is loaded. A pin is
filled in after a training, with what `archwright models export` prints.
"""

import hashlib
from collections.abc import Iterator

from archwright.contract.plan import Pool
from archwright.contract.record import Record
from archwright.deploy.names import make_label
from archwright.deploy.rendering.bundle import encode_json
from archwright.deploy.rendering.components import AdapterPin, Pins
from archwright.deploy.single_machine import ServedAdapter

VERSION_CHARACTERS = 12


class PinnedAdapter(Record):
    """An adapter with its files. `label` is its name for engines, `workload` the one that it tunes."""

    name: str
    label: str
    folder: str
    workload: str
    pin: AdapterPin

    @property
    def version(self) -> str:
        """The name with a digest of the files: another training is another version."""
        text = encode_json(self.pin.files)
        digest = hashlib.sha256(text.encode()).hexdigest()
        return f"{self.name}@{digest[:VERSION_CHARACTERS]}"


class AdapterRow(Record):
    """How an engine loads adapters; without `word` it loads none.

    `switches`: arguments, filled with {count} of adapters, or {slots} with one for the model itself. `rank`: filled
    with the first of `ranks` that holds all adapters. `loads` comes before the `word` of each adapter, filled with
    {name} and {path}. `engine_name`: how a request names the adapter, filled with {name} and {model}.
    """

    switches: tuple[str, ...] = ()
    loads: str = ""
    word: str = ""
    engine_name: str = ""
    rank: str = ""
    ranks: tuple[int, ...] = ()

    def list_folders(self, pool: Pool) -> dict[str, str]:
        """Return the folder of each adapter that the engines of a pool can load, by its name."""
        folders = dict[str, str]()
        if self.word:
            for name in pool.launch.adapters:
                folders[name] = f"adapter-{make_label(name)}"
        return folders

    def list_pinned(self, pool: Pool, pins: Pins) -> Iterator[PinnedAdapter]:
        """Yield the adapters of a pool whose files somebody pinned."""
        for name, folder in self.list_folders(pool).items():
            pin = pins.adapters.get(name_adapter_pin(pool, name))
            if pin is not None and pin.files:
                workload = pool.launch.adapters[name]
                yield PinnedAdapter(name=name, label=make_label(name), folder=folder, workload=workload, pin=pin)

    def list_arguments(self, adapters: list[PinnedAdapter], folder: str) -> Iterator[str]:
        """Yield the words that load adapters from their folders below `folder`; none without adapters."""
        if not adapters:
            return
        count = len(adapters)
        for switch in self.switches:
            yield switch.format(count=count, slots=count + 1)
        yield from self._list_rank(adapters)
        yield self.loads
        for adapter in adapters:
            yield self.word.format(name=adapter.label, path=f"{folder}/{adapter.folder}")

    def _list_rank(self, adapters: list[PinnedAdapter]) -> Iterator[str]:
        """Yield the argument for the largest rank, if the engine has one and somebody stated a rank."""
        largest = 0
        for adapter in adapters:
            largest = max(largest, adapter.pin.rank)
        if largest == 0:
            return
        for rank in self.ranks:
            if rank >= largest:
                yield self.rank.format(rank=rank)
                return

    def list_served(self, adapters: list[PinnedAdapter], model: str) -> Iterator[ServedAdapter]:
        """Yield the adapters as the gateway serves them."""
        for adapter in adapters:
            name = self.engine_name.format(name=adapter.label, model=model)
            yield ServedAdapter(adapter.name, adapter.workload, name, adapter.version)


def name_adapter_pin(pool: Pool, adapter: str) -> str:
    return f"{pool.name}/{adapter}"
