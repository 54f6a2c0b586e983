"""The clock: what the kernel says, and a clock that is behind the records."""

from __future__ import annotations

import time

from archwright.diagnosis.system_clock import check_clock, read_clock_state


def test_a_record_of_the_future_is_a_failure() -> None:
    now = time.time()
    found = check_clock(now, now + 3600)
    assert found.state == "failure" and "3,600 s in the future" in found.detail
    for newest_record_at in (now - 60, now + 1, None):
        assert check_clock(now, newest_record_at).state != "failure"


def test_the_answer_of_the_kernel_is_shown() -> None:
    state = read_clock_state()
    checked = check_clock(time.time(), None)
    if state is None:
        assert checked.state == "unknown"
        return
    assert checked.state == ("ok" if state.synchronised else "warning")
    assert ("timedatectl" in checked.hint) == (not state.synchronised)
    assert 0 <= state.greatest_error_s <= 16, "the kernel limits the error that it states to 16 s"
