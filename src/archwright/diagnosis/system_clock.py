"""The clock of this machine: does a time service keep it, and is it behind the records of the home."""

import ctypes
import struct
import sys
from typing import NamedTuple

from archwright.contract.diagnosis import DoctorCheck
from archwright.diagnosis.check_results import make_failure, make_ok, make_unknown, make_warning

NAME = "clock"
# `struct timex` of 64-bit Linux: modes, offset, freq, maxerror, esterror (microseconds), status.
TIMEX = struct.Struct("@Ixxxxqqqqi")
TIMEX_BYTES = 256
UNSYNCHRONISED = 0x40  # STA_UNSYNC
TOLERANCE_S = 5.0
HINT = "start a time service: timedatectl set-ntp true"


class ClockState(NamedTuple):
    synchronised: bool
    greatest_error_s: float


def check_clock(now: float, newest_record_at: float | None) -> DoctorCheck:
    """`newest_record_at`: when the newest record of the home was written, None without one."""
    if newest_record_at is not None and newest_record_at > now + TOLERANCE_S:
        ahead_s = newest_record_at - now
        detail = f"the newest audit record is {ahead_s:,.0f} s in the future: the clock is or was wrong"
        return make_failure(
            NAME, detail, "set the clock, then rotate the keys that a wrong clock ended: archwright key list"
        )
    state = read_clock_state()
    if state is None:
        return make_unknown(NAME, "this system does not say whether a time service keeps the clock")
    if not state.synchronised:
        return make_warning(NAME, "no time service keeps the clock; ends of keys and audit times depend on it", HINT)
    return make_ok(NAME, f"synchronised, error below {state.greatest_error_s:.3f} s")


def read_clock_state() -> ClockState | None:
    """Return what the kernel knows of its clock; None if it does not say."""
    if sys.platform != "linux" or struct.calcsize("P") != struct.calcsize("q"):
        return None
    buffer = ctypes.create_string_buffer(TIMEX_BYTES)
    if ctypes.CDLL(None, use_errno=True).adjtimex(buffer) < 0:  # modes 0: read only
        return None
    _modes, _offset, _frequency, greatest_error_us, _error, status = TIMEX.unpack_from(buffer)
    return ClockState(not status & UNSYNCHRONISED, greatest_error_us / 1e6)
