"""`python -P -m archwright.engines HOME CONFIG.json`: run one engine until the supervisor ends."""

import importlib
import os
import pkgutil
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from archwright import engines
from archwright.engines.engine_config import EngineConfig, read_config
from archwright.engines.engine_sandbox import confine_engine
from archwright.engines.parent_watch import exit_with_parent, has_supervising_parent
from archwright.engines.process_restrictions import end_with_input, offer_to_oom_killer, restrict_process
from archwright.engines.service_notification import report_engine_health
from archwright.engines.unix_socket import claim_socket
from archwright.errors import ArchwrightError, EngineError, ErrorLocation, UsageError, boundary
from archwright.home import Home
from archwright.journal import Journal
from archwright.python_process import run_entry_point


def load_adapter(engine: str) -> ModuleType:
    """Return the engine's module, which has `serve`. Raises EngineError AW-ENG-06 for a name without such a module.

    Its constant STARTS_PROGRAMS is true if the engine is a server of its own; its setting `sandbox` restricts it.
    """
    names = [module.name for module in pkgutil.iter_modules(engines.__path__)]
    name = engine.replace("-", "_")
    adapter = importlib.import_module(f"{engines.__name__}.{name}") if name in names else None
    if adapter is None or not hasattr(adapter, "serve"):
        hint = "run `archwright up` again: it rewrites the configuration"
        raise EngineError("AW-ENG-06", f"there is no engine {engine!r}", where=ErrorLocation(field="engine"), hint=hint)
    return adapter


def prepare_process(config: EngineConfig, home: Home, adapter: ModuleType) -> None:
    """Claim the socket, give up rights, then start the threads that watch the parent and report health.

    Raises EngineError AW-ENG-07 (socket in use), AW-ENG-23 (a restriction failed).
    """
    if has_supervising_parent():
        end_with_input()  # before the sandbox, which refuses it; no thread runs while a loader blocks the interpreter
    offer_to_oom_killer()
    claim_socket(home, config.socket)
    proxy = start_proxy(config, home, adapter) if hasattr(adapter, "run_proxy") else None
    starts_programs = getattr(adapter, "STARTS_PROGRAMS", False)
    if not starts_programs or config.settings.get("sandbox"):
        confine_engine(config, home, starts_programs=starts_programs)
    exit_with_parent()
    if proxy is not None:
        threading.Thread(target=end_with_proxy, args=(proxy,), daemon=True).start()
    report_engine_health(home.socket(config.socket))


def start_proxy(config: EngineConfig, home: Home, adapter: ModuleType) -> int:
    """Start the proxy of an engine as a child that ends with it, and return the pid of the child.

    The child's standard input is a pipe that only the engine holds. Landlock keeps the kernel from sending the child a
    signal for a sandboxed parent (PR_SET_PDEATHSIG).
    """
    watched, held = os.pipe()
    child = os.fork()
    if child:
        os.close(watched)
        return child
    os.close(held)
    os.dup2(watched, 0)
    os.close(watched)
    try:
        confine_engine(config, home, connects=True)
        exit_with_parent()
        adapter.run_proxy(config, home)
    except ArchwrightError:
        os.read(0, 1)  # until the engine, which meets the same error and says it, is gone
    sys.exit()


def end_with_proxy(proxy: int) -> None:
    """Wait for the end of the proxy, and end the engine: nobody reaches it any more."""
    _, status = os.waitpid(proxy, 0)
    print(f"the proxy of the engine ended with status {os.waitstatus_to_exitcode(status)}", file=sys.stderr, flush=True)
    os._exit(1)


def main(arguments: Sequence[str]) -> int:
    """Return the exit status; standard error carries the journal and the three lines of a fatal error."""
    journal = Journal("engine")
    try:
        with boundary("engine"):
            restrict_process()
            if len(arguments) != 2:
                message = f"an engine takes 2 arguments, not {len(arguments)}"
                raise UsageError("AW-USE-13", message, hint="run: python -P -m archwright.engines HOME CONFIG.json")
            config = read_config(Path(arguments[1]))
            journal = Journal(config.socket)
            home = Home(arguments[0])
            adapter = load_adapter(config.engine)
            prepare_process(config, home, adapter)
            adapter.serve(config, home, journal)
    except ArchwrightError as error:
        journal.error("stopped", **error.as_dict())
        print(error.lines(), file=sys.stderr, flush=True)
        return error.exit_status
    return 0


if __name__ == "__main__":
    run_entry_point(main)
