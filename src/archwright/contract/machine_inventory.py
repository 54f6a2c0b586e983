"""Machines that an organisation owns, and the models that they can serve."""

from archwright.contract.estimate import Estimate
from archwright.contract.record import Record


class InventoryMachine(Record):
    """A row of an inventory: `count` equal machines. `memory_bytes`: memory of one, None if it is not stated.

    `name` names processor, graphics card or computer as people write it, such as "2x RTX 4090"."""

    name: str
    count: int
    line: int
    memory_bytes: float | None = None


class ModelAssignment(Record):
    """The best model for equal machines. `model` is empty if none keeps the limits; `reason` then says why.

    `people`: how many people all `count` machines serve at the peak of a working day. `in_flight`: requests at a time
    on one machine. `quality`: share from 0 to 1 over the benchmarks of the work.
    """

    machine: str
    device: str
    count: int
    model: str = ""
    format: str = ""
    engine: str = ""
    quality: float = 0.0
    in_flight: int = 0
    people: Estimate | None = None
    ttft_p95_s: Estimate | None = None
    tpot_p95_s: Estimate | None = None
    stratum: str = ""
    weak: tuple[str, ...] = ()
    reason: str = ""


class InventoryPlan(Record):
    """Which machines run which model for how many people.

    `model`: the model that all machines share if one was asked for, or chosen for a number of people. `people`: their
    sum over the machines; zero if no machine serves. `limits` and `assumed` say what the numbers rest on.
    """

    assignments: tuple[ModelAssignment, ...]
    people: Estimate
    model: str = ""
    limits: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
