"""`python -P -m archwright.engines HOME CONFIG.json`: run one engine until the supervisor ends."""

import importlib
import pkgutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from archwright import engines
from archwright.engines.engine_config import EngineConfig, read_config
from archwright.engines.parent_watch import exit_with_parent
from archwright.engines.process_restrictions import end_with_parent, restrict_process
from archwright.engines.service_notification import report_engine_health
from archwright.errors import ArchwrightError, EngineError, ErrorLocation, UsageError, boundary
from archwright.home import Home
from archwright.journal import Journal
from archwright.python_process import run_entry_point

EngineAdapter = Callable[[EngineConfig, Home, Journal], None]


def load_adapter(engine: str) -> EngineAdapter:
    """Return `serve` of the engine's module. Raises EngineError AW-ENG-06 for a name without such a module."""
    names = [module.name for module in pkgutil.iter_modules(engines.__path__)]
    name = engine.replace("-", "_")
    adapter = getattr(importlib.import_module(f"{engines.__name__}.{name}"), "serve", None) if name in names else None
    if adapter is None:
        hint = "run `archwright up` again: it rewrites the configuration"
        raise EngineError("AW-ENG-06", f"there is no engine {engine!r}", where=ErrorLocation(field="engine"), hint=hint)
    return cast(EngineAdapter, adapter)


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
            if exit_with_parent() is not None:
                end_with_parent()  # that thread cannot run while a loader blocks the interpreter
            home = Home(arguments[0])
            report_engine_health(home.socket(config.socket))
            load_adapter(config.engine)(config, home, journal)
    except ArchwrightError as error:
        journal.error("stopped", **error.as_dict())
        print(error.lines(), file=sys.stderr, flush=True)
        return error.exit_status
    return 0


if __name__ == "__main__":
    run_entry_point(main)
