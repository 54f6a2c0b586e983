"""Checks of a rendered cloud site by real tools: Terraform's core through a stand-in provider, then checkov."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

from archwright.deploy.bundle import FileBundle

from .policy_scan import list_open, scan_plan
from .terraform_core import check_by_core, run_core

Break = Callable[[dict[str, Any]], object]
CORE_CODES = [("init", 0), ("validate", 0), ("plan", 2), ("show", 0), ("apply", 0), ("plan", 0)]
LEAST_CHECKS = 60


def write_module(bundle: FileBundle, folder: Path) -> Path:
    folder.mkdir(parents=True)
    for path, file in bundle.files.items():
        if path.endswith(".tf.json"):
            (folder / Path(path).name).write_text(file.text, encoding="utf-8")
    return folder


def check_site(bundle: FileBundle, scratch: Path, values: dict[str, str]) -> None:
    """The core applies the module, the second plan is clean, and every failed check of the policies has a waiver."""
    folder = write_module(bundle, scratch / "module")
    known = {name: values[name] for name in _list_variables(folder) if name in values}
    results = check_by_core(folder, scratch / "core", known)
    assert [(one.command, one.code) for one in results] == CORE_CODES, results[-1].text
    passed, failed = scan_plan(results[3].output, scratch)
    assert passed >= LEAST_CHECKS
    assert list_open(failed, date.today()) == []


def check_policy_mutation(
    bundle: FileBundle, scratch: Path, values: dict[str, str], break_it: Break, check: str
) -> None:
    """The scan finds the broken policy: a valid module that no waiver covers."""
    folder = write_module(bundle, scratch / "module")
    _change_resources(folder, break_it)
    known = {name: values[name] for name in _list_variables(folder) if name in values}
    commands = [["init", "-no-color", "-backend=false"], ["plan", "-no-color", "-out=plan"], ["show", "-json", "plan"]]
    results = run_core(folder, commands, scratch / "core", known)
    assert results[-1].code == 0, results[-1].text
    _, failed = scan_plan(results[-1].output, scratch)
    assert check in {one.check for one in list_open(failed, date.today())}


def _list_variables(folder: Path) -> set[str]:
    files = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.tf.json")]
    return {name for one in files for name in one.get("variable", {})}


def _change_resources(folder: Path, break_it: Break) -> None:
    """Move all resources into one file, changed by `break_it`."""
    resources: dict[str, Any] = {}
    for path in folder.glob("*.tf.json"):
        text = json.loads(path.read_text(encoding="utf-8"))
        for kind, named in text.pop("resource", {}).items():
            resources.setdefault(kind, {}).update(named)
        path.write_text(json.dumps(text), encoding="utf-8")
    break_it(resources)
    (folder / "resources.tf.json").write_text(json.dumps({"resource": resources}), encoding="utf-8")


def check_mutation(bundle: FileBundle, scratch: Path, break_it: Break, word: str) -> None:
    """The core rejects the broken module and names what is wrong."""
    folder = write_module(bundle, scratch / "module")
    _change_resources(folder, break_it)
    commands = [["init", "-no-color", "-backend=false"], ["validate", "-no-color"]]
    results = run_core(folder, commands, scratch / "core", {})
    assert results[-1].code == 1 and word in results[-1].errors, results[-1].text
