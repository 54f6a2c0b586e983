"""Checks of a rendered cloud site: its options, its form, Terraform's core through a stand-in, and the policies."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from datetime import date
from pathlib import Path
from typing import Any

from tests.deploy.conftest import MadeBundle, MadePlan

from archwright.catalog.load import load_catalog
from archwright.contract.record import replace
from archwright.deploy.cluster.cloud_site import list_cloud_sites
from archwright.deploy.cluster.log_retention import LogRetention
from archwright.deploy.deployment import Deployment
from archwright.deploy.render import find_target
from archwright.deploy.rendering.bundle import FileBundle, compose_files
from archwright.deploy.rendering.templating import expand_templates

from .checkov_scan import Finding, judge_findings, read_waivers, scan_plan
from .configuration_rules import (
    find_broken_references,
    find_other_forms,
    find_secrets,
    walk_values,
)
from .terraform_core import check_by_core, merge_configuration, run_core

EXAMPLES = ("startup", "clinic", "manufacturer")
Configuration = dict[str, Any]
Files = dict[str, str]
Break = Callable[[Configuration], object]


def render_options(target: str, made_plan: MadePlan, made_bundle: MadeBundle) -> dict[str, FileBundle]:
    """Return the bundle of each option of the examples on a cloud, by "example/option"."""
    return {
        f"{name}/{option.name}": made_bundle(name, target, option.name)
        for name in EXAMPLES
        for option in made_plan(name).options
        if find_target(target).can_render(option)
    }


def render_without_gateway(folder: str, deployment: Deployment) -> Files:
    """Return the Terraform files of a cloud site whose gateway runs elsewhere."""
    clouds = [
        replace(one, site=replace(one.site, is_main=False)) for one in list_cloud_sites(deployment, load_catalog())
    ]
    context = {
        "clouds": clouds,
        "deployment": deployment,
        "plan": deployment.plan,
        "option": deployment.option,
        "site": deployment.main_site,
        "log_retention": LogRetention(),
    }
    found = [one for name in ("cloud", folder) for one in expand_templates(name, context)]
    return {path: one.text for path, one in compose_files(found).items() if path.endswith(".tf.json")}


def find_faults(files: Files) -> list[str]:
    """Return what is wrong with a root module without a look at its provider."""
    configuration = merge_configuration(files)
    faults = [*find_other_forms(files), *find_broken_references(files), *find_secrets(files)]
    texts = [str(value) for path, value in walk_values(configuration) if path[-1] != "//"]
    names = [
        f"{kind}.{name}" for kind, key in (("var", "variable"), ("local", "locals")) for name in configuration[key]
    ]
    faults += [f"nothing uses {name}" for name in names if not any(name in text for text in texts)]
    for name, one in configuration["variable"].items():
        faults += [f"{name} has no {word}" for word in ("description", "validation") if not one.get(word)]
    for kind, named in configuration["resource"].items():
        faults += [f"{kind}.{name} has no reason" for name, body in named.items() if not body.get("//")]
    return faults


def write_files(folder: Path, files: Files) -> Path:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def _choose_values(files: Files, values: dict[str, str]) -> dict[str, str]:
    return {name: values[name] for name in merge_configuration(files)["variable"] if name in values}


def apply_site(files: Files, scratch: Path, values: dict[str, str]) -> list[Finding]:
    """Apply a module, plan it again without changes, and return the findings of the policies on its first plan."""
    results = check_by_core(write_files(scratch / "in", files), scratch / "out", _choose_values(files, values))
    return scan_plan(results[3].output, scratch)


def judge_site(target: str, findings: Iterable[Finding]) -> list[str]:
    """Return the findings without a waiver, and the waivers of a target that end or that nothing needs."""
    return judge_findings(list(findings), [one for one in read_waivers() if one.target == target], date.today())


def break_files(files: Files, change: Break) -> Files:
    """Return a module in one file, with changed resources."""
    configuration = merge_configuration(files)
    change(configuration["resource"])
    return {"main.tf.json": json.dumps(configuration)}


def check_rejection(files: Files, scratch: Path, change: Break, word: str) -> None:
    """The core rejects the broken module and names what is wrong."""
    folder = write_files(scratch / "in", break_files(files, change))
    results = run_core(folder, [["init", "-no-color"], ["validate", "-no-color"]], scratch / "out", {})
    assert results[-1].code == 1 and word in results[-1].errors, results[-1].text


def scan_broken(files: Files, scratch: Path, values: dict[str, str], change: Break) -> list[Finding]:
    """Return the findings of the policies on a module that the core accepts and a policy forbids."""
    broken = break_files(files, change)
    commands = [["init", "-no-color"], ["plan", "-no-color", "-out=plan"], ["show", "-json", "plan"]]
    folder = write_files(scratch / "in", broken)
    results = run_core(folder, commands, scratch / "out", _choose_values(broken, values))
    assert results[-1].code == 0, results[-1].text
    return scan_plan(results[-1].output, scratch)
