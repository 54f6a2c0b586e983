"""A change of an alias: the name by which clients ask for a model that was loaded at run time."""

from archwright.contract.plan import ProcessSpec
from archwright.contract.record import Record


class AliasChange(Record):
    """From `at` on, `alias` means the stored model `model`, served by the engine `launch`; without both it is free.

    `id` is the alias and a number, such as "fast~3". `launch.name` is equal for equal engines, so aliases share them.
    """

    id: str
    at: float
    alias: str
    model: str | None
    launch: ProcessSpec | None
    by: str
    reason: str = ""
