"""The restrictions that the processes of engines run with, as the kernel shows them."""

from collections.abc import Iterator
from pathlib import Path

from archwright.contract.diagnosis import DoctorCheck
from archwright.diagnosis.check_results import make_failure, make_ok, make_unknown
from archwright.diagnosis.served_gateways import RunningGateway
from archwright.home import Home
from archwright.operate.gateway_record import PLATFORM_GATEWAY
from archwright.operate.platform_state import ProcessState, read_running_state
from archwright.serving.settings.config import EnginePoolSpec

NAME = "sandbox"
LOCAL_ADDRESS = "unix:"
# The kernel's words in /proc/PID/status for: no new privileges, and a filter of system calls.
EXPECTED = {"NoNewPrivs": "1", "Seccomp": "2"}
HINT = "start it again: archwright down, then archwright up; archwright doctor names what the kernel lacks"


def check_engine_sandboxes(home: Home, gateways: tuple[RunningGateway, ...]) -> list[DoctorCheck]:
    """Check each running engine of the home, and name those at an address."""
    state = read_running_state(home)
    processes = state.processes if state else ()
    checks = [_check_engine(engine, Path("/proc")) for engine in processes if engine.name != PLATFORM_GATEWAY]
    for gateway in gateways:
        checks += [_describe_foreign(pool) for pool in gateway.config.pools if _is_foreign(pool)]
    return checks


def _is_foreign(pool: EnginePoolSpec) -> bool:
    return not all(address.startswith(LOCAL_ADDRESS) for address in pool.addresses)


def _describe_foreign(pool: EnginePoolSpec) -> DoctorCheck:
    addresses = ", ".join(pool.addresses)
    return make_unknown(f"{NAME} of {pool.name}", f"archwright did not start the engine at {addresses}")


def _check_engine(engine: ProcessState, processes: Path) -> DoctorCheck:
    name = f"{NAME} of {engine.name}"
    seen = 0
    for number in _list_descendants(engine.pid, processes):
        status = _read_status(processes / str(number))
        missing = [word for word, expected in EXPECTED.items() if status.get(word, expected) != expected]
        if missing:
            return make_failure(name, f"process {number} runs without {', '.join(missing)}", HINT)
        seen += bool(status)
    if not seen:
        return make_unknown(name, f"this system does not show process {engine.pid}")
    return make_ok(name, f"{seen} process(es): system calls are filtered, and no new privileges are possible")


def _list_descendants(number: int, processes: Path) -> Iterator[int]:
    yield number
    for task in sorted((processes / str(number) / "task").glob("*")):
        children = _read(task / "children").split()
        for child in children:
            yield from _list_descendants(int(child), processes)


def _read_status(process: Path) -> dict[str, str]:
    shown: dict[str, str] = {}
    for line in _read(process / "status").splitlines():
        word, _, value = line.partition(":")
        shown[word] = value.strip()
    return shown


def _read(file: Path) -> str:
    try:
        return file.read_text("ascii", "replace")
    except OSError:  # the process has ended, or is hidden
        return ""
