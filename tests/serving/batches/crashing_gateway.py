"""The gateway, but a worker kills itself once at the point of a batch that the file `crash` of the home names."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from archwright.access.accounts import Accounts
from archwright.monitor.wal.writer import WalWriter
from archwright.serving.__main__ import main
from archwright.serving.batches.locked_batch import LockedBatch
from archwright.serving.batches.result_file import ResultFile

FILE = Path(sys.argv[1]) / "crash"
RESULTS = 3  # that are written before the crash, in points of a single line
written = 0
replace_method = setattr  # the type checker refuses an assignment to a method


def crash(point: str) -> None:
    if written >= RESULTS and FILE.exists() and FILE.read_text() == point:
        FILE.unlink()
        os.kill(os.getpid(), signal.SIGKILL)


def surround(owner: type, name: str, before: str = "", after: str = "") -> None:
    act: Callable[..., Any] = getattr(owner, name)

    def act_and_crash(*given: Any, **more: Any) -> Any:
        crash(before)
        result = act(*given, **more)
        crash(after)
        return result

    replace_method(owner, name, act_and_crash)


def append(job: Any, result: Any) -> None:
    global written
    crash("before the result")
    if FILE.exists() and FILE.read_text() == "in the result" and written >= RESULTS:
        os.pwrite(job._log, b'{"number":4,"record":{"at', os.fstat(job._log).st_size)
        os.pwrite(job._output._data, b'{"id":"batch_req_', job._output.end)
        crash("in the result")
    real_append(job, result)
    written += 1
    crash("after the result")


real_append = LockedBatch.append
replace_method(LockedBatch, "append", append)
surround(Accounts, "flush", after="after the settlement")
surround(WalWriter, "flush", after="after the record")
surround(LockedBatch, "finish", before="before the end", after="after the end")
surround(ResultFile, "append", before="before the line")
surround(LockedBatch, "_finish_files", before="before the files", after="after the files")

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
