"""The numeric part of the probe: a child process with a single-threaded numeric library.

`python -P -m archwright.catalog.probe.probe_worker [MODEL_FILE]` prints `bandwidth` and `matmul`, one value per repeat:
bytes/s of a bitwise OR over the memory-mapped model file (or else an anonymous array), and FLOP/s of a float32 matrix
product. `quiet_...` counts processor time only, so the turns of other programs do not count. Memory stays below 300 MB.
`frequency_hz`: of the processors while all multiply, since one busy processor may run faster than all; null if unknown.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from archwright.catalog.probe import host_resources
from archwright.errors import missing_extra
from archwright.python_process import run_entry_point

SPAN_BYTES = 256 << 20
# A smaller file would fit the caches, and the probe would measure these.
LEAST_FILE_BYTES = 64 << 20
MATRIX_SIZE = 1024
LEAST_REPEATS = 5
BUDGET_S = 0.5
HARD_LIMIT_S = 1.2
FREQUENCY_S = 0.3


def time_repeats(
    once: Callable[[], object], clock: Callable[[], float] = time.perf_counter
) -> list[tuple[float, float]]:
    """Return (seconds, processor seconds) of each repeat after a warm-up: at least five, fewer if very slow."""
    once()
    seconds: list[tuple[float, float]] = []
    spent = 0.0
    while spent < BUDGET_S or (len(seconds) < LEAST_REPEATS and spent < HARD_LIMIT_S):
        start, worked = clock(), time.process_time()
        once()
        seconds.append((max(clock() - start, 1e-9), max(time.process_time() - worked, 1e-9)))
        spent += seconds[-1][0]
    return seconds


def load_words(path: str, numpy: Any) -> Any:
    if path:
        mapped = numpy.memmap(path, dtype=numpy.uint8, mode="r")
        if mapped.nbytes >= LEAST_FILE_BYTES:
            span = min(mapped.nbytes, SPAN_BYTES) // 8 * 8
            return mapped[:span].view(numpy.uint64)
    return numpy.ones(SPAN_BYTES // 8, dtype=numpy.uint64)


def measure_frequency(multiply: Callable[[], object], read: Callable[[], dict[int, float]]) -> float | None:
    """Return the mean frequency of this process's processors while all of them multiply; None if the system has none.

    The numeric library lets other threads run while it multiplies.
    """
    if not read():
        return None
    deadline = time.perf_counter() + FREQUENCY_S

    def work() -> None:
        while time.perf_counter() < deadline:
            multiply()

    usable = os.sched_getaffinity(0)
    threads = [threading.Thread(target=work) for _ in usable]
    for thread in threads:
        thread.start()
    time.sleep(FREQUENCY_S * 0.8)
    frequencies = [hz for processor, hz in read().items() if processor in usable]
    for thread in threads:
        thread.join()
    return sum(frequencies) / len(frequencies) if frequencies else None


def measure_rates(path: str) -> dict[str, Any]:
    try:
        import numpy  # noqa: PLC0415
    except ImportError as error:
        raise missing_extra("local", "numpy", "the probe of this machine") from error
    data = load_words(path, numpy)
    read = time_repeats(lambda: numpy.bitwise_or.reduce(data))
    left = numpy.random.default_rng(1).random((MATRIX_SIZE, MATRIX_SIZE), dtype=numpy.float32)
    out = numpy.empty_like(left)
    multiplied = time_repeats(lambda: numpy.matmul(left, left, out=out))
    return {
        "bandwidth": [data.nbytes / took for took, _ in read],
        "matmul": [2 * MATRIX_SIZE**3 / took for took, _ in multiplied],
        "quiet_bandwidth": [data.nbytes / worked for _, worked in read],
        "quiet_matmul": [2 * MATRIX_SIZE**3 / worked for _, worked in multiplied],
        "frequency_hz": measure_frequency(lambda: numpy.matmul(left, left), host_resources.read_frequencies),
    }


def main(arguments: Sequence[str]) -> None:
    print(json.dumps(measure_rates(arguments[0] if arguments else "")))


if __name__ == "__main__":
    run_entry_point(main)
