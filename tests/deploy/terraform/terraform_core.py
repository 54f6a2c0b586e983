"""Checks a folder of *.tf.json by Terraform's core with stand-in providers, without a registry and without a cloud."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.deploy.tools import ROOT, require_environment

from .provider_schemas import PACKAGES

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
    return merge_configuration({path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.tf.json")})


def merge_configuration(files: dict[str, str]) -> dict[str, Any]:
    """Return the texts of *.tf.json files as one object."""
    merged: dict[str, Any] = {}
    for name in sorted(files):
        for kind, named in json.loads(files[name]).items():
            into = merged.setdefault(kind, {})
            for key, body in named.items():
                into[key] = {**into.get(key, {}), **body} if isinstance(into.get(key), dict) else body
    return merged


def run_core(folder: Path, commands: list[list[str]], scratch: Path, variables: dict[str, str]) -> list[CoreResult]:
    """Run the commands one after another in a copy of the folder's configuration; stop after one that fails.

    The copy and the state are in `scratch`. `variables` are values of the configuration's variables, as Terraform
    writes them.
    """
    work, answer = scratch / "work", scratch / "results.json"
    work.mkdir(parents=True)
    for path in folder.glob("*.tf.json"):
        shutil.copy(path, work)
    configuration = read_configuration(folder)
    if "backend" in configuration.get("terraform", {}):  # the state of a test is a local file
        (work / "backend_override.tf.json").write_text('{"terraform": {"backend": {"local": {}}}}', encoding="utf-8")
    job = {
        "folder": str(work),
        "providers": _list_providers(configuration),
        "commands": commands,
        "result": str(answer),
    }
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TF_", "PYTHON"))}
    environment |= {"TF_IN_AUTOMATION": "1", "TF_INPUT": "0", "CHECKPOINT_DISABLE": "1"}
    environment |= {f"TF_VAR_{name}": value for name, value in variables.items()}
    run = subprocess.run(
        [require_environment("terraform"), "-m", "tests.deploy.terraform.core_process"],
        input=json.dumps(job),
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert run.returncode == 0, run.stderr
    results = json.loads(answer.read_text(encoding="utf-8"))
    return [CoreResult(words[0], *one) for words, one in zip(commands, results, strict=False)]


def _list_providers(configuration: dict[str, Any]) -> dict[str, list[list[str]]]:
    found = {}
    for provider in PACKAGES:
        kinds = [
            sorted(name for name in configuration.get(kind, {}) if name.startswith(f"{provider}_"))
            for kind in ("resource", "data")
        ]
        if kinds[0] or kinds[1]:
            found[provider] = kinds
    return found


def check_by_core(folder: Path, scratch: Path, variables: dict[str, str]) -> list[CoreResult]:
    """Initialise, validate, plan, show the plan, apply, and plan again.

    Fails the test unless all pass, the first plan creates something, and the second one has no changes.
    """
    commands = [
        ["init", "-no-color"],
        ["validate", "-no-color"],
        ["plan", "-no-color", "-detailed-exitcode", "-out=plan"],
        ["show", "-json", "plan"],
        ["apply", "-no-color", "plan"],
        ["plan", "-no-color", "-detailed-exitcode"],
    ]
    results = run_core(folder, commands, scratch, variables)
    assert [one.code for one in results] == [0, 0, 2, 0, 0, 0], results[-1].text
    return results
