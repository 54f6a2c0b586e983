"""`python -m archwright.engines HOME CONFIG.json`: run one engine until the supervisor ends."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from archwright.engines import llamacpp, null, onnx
from archwright.engines.engine_config import EngineConfig, read_config
from archwright.engines.parent_watch import exit_with_parent
from archwright.engines.process_restrictions import restrict_process
from archwright.errors import ArchwrightError, UsageError, boundary
from archwright.home import Home
from archwright.journal import Journal

EngineAdapter = Callable[[EngineConfig, Home, Journal], None]
ADAPTERS: dict[str, EngineAdapter] = {"llamacpp": llamacpp.serve, "null": null.serve, "onnx": onnx.serve}


def main(arguments: Sequence[str]) -> int:
    """Return the exit status; standard error carries the journal and the three lines of a fatal error."""
    journal = Journal("engine")
    try:
        with boundary("engine"):
            restrict_process()
            if len(arguments) != 2:
                message = f"an engine takes 2 arguments, not {len(arguments)}"
                raise UsageError("AW-USE-13", message, hint="run: python -m archwright.engines HOME CONFIG.json")
            config = read_config(Path(arguments[1]))
            journal = Journal(config.socket)
            exit_with_parent()
            ADAPTERS[config.engine](config, Home(arguments[0]), journal)
    except ArchwrightError as error:
        journal.error("stopped", **error.as_dict())
        print(error.lines(), file=sys.stderr, flush=True)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
