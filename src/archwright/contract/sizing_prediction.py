"""The result of the `predict` verbs."""

from archwright.contract.decision import PilotRun
from archwright.contract.estimate import Estimate
from archwright.contract.plan import OptionEffect
from archwright.contract.record import Record


class SizingPrediction(Record):
    """Predicted numbers with bands, their stratum and sources, and what is weak or assumed about them.

    `pilot`: the run that narrows a prediction far from every measured row.
    """

    model: str
    accelerator: str
    devices: int
    stratum: str
    estimates: dict[str, Estimate]
    definitions: dict[str, str]
    formula: str
    sources: tuple[str, ...]
    weak: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    layout: str = ""
    options: tuple[OptionEffect, ...] = ()
    pilot: PilotRun | None = None
