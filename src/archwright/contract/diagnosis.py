"""Results of the verb `doctor`."""

from typing import Literal

from archwright.contract.record import Record

CheckState = Literal["ok", "warning", "failure", "unknown"]


class DoctorCheck(Record):
    """The result of a check. `hint`: what to do about a warning or a failure, with the command.

    A failure stops work or loses data, a warning may do so later. Unknown: this machine does not show it."""

    name: str
    state: CheckState
    detail: str
    hint: str = ""


class HomePart(Record):
    """Files of one kind in a home. `size_bytes`: the space on the disk.

    `removal`: the command that removes them, empty if they must stay; `condition`: when that is safe."""

    content: str
    files: int
    size_bytes: int
    removal: str = ""
    condition: str = ""


class HomeReport(Record):
    """A home. `parts`: its files by kind, the largest first, if their sizes were asked for."""

    path: str
    schema_version: int
    free_bytes: int
    size_bytes: int | None = None
    parts: tuple[HomePart, ...] = ()
