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
