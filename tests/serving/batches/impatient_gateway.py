"""The gateway, but a batch waits for free disk for ever, or not at all while the home has the file `impatient`."""

from __future__ import annotations

import sys
from pathlib import Path

from archwright.serving.__main__ import main
from archwright.serving.batches.batch_runner import BatchRun

FILE = Path(sys.argv[1]) / "impatient"
replace_method = setattr  # the type checker refuses an assignment to a method
waits_for_disk = BatchRun._waits_for_disk


def wait_as_told(run: BatchRun, _limit_s: float) -> bool:
    return waits_for_disk(run, 0.0 if FILE.exists() else 1e9)


replace_method(BatchRun, "_waits_for_disk", wait_as_told)

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
