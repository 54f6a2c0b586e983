"""Launch lines of vLLM hold only arguments and names of parsers that the pinned version has, and those of the model."""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from archwright.catalog.catalog import Catalog
from archwright.contract.plan import Plan
from archwright.deploy.rendering.bundle import FileBundle
from archwright.engines.engine_config import EngineConfig
from archwright.engines.vllm import VllmSettings, build_arguments
from archwright.home import Home

from .clusters import craft_plans, read_clusters
from .conftest import MadeBundle, MadePlan
from .object_rules import Item, find_pods

# Component of the image -> where its reference says so.
IMAGES = {"vllm": "vllm/vllm-openai:", "vllm-rocm": "rocm/vllm:"}
PARSERS = ("--reasoning-parser", "--tool-call-parser")


class LaunchLine(NamedTuple):
    component: str
    model: str
    arguments: dict[str, str]


@functools.cache
def read_names() -> dict[tuple[str, str], frozenset[str]]:
    """Return the names by version and kind: argument, reasoning, tool."""
    with Path(__file__).with_name("vllm_arguments.csv").open(encoding="utf-8", newline="") as file:
        return {(row["version"], row["kind"]): frozenset(row["names"].split()) for row in csv.DictReader(file)}


def list_launch_lines(bundle: FileBundle) -> Iterator[LaunchLine]:
    for _, items in read_clusters(bundle):
        for item in items:
            if item["kind"] in ("Deployment", "LeaderWorkerSet"):
                yield from _read_launch_lines(item)


def _read_launch_lines(item: Item) -> Iterator[LaunchLine]:
    for pod in find_pods(item):
        container = pod.spec["containers"][0]
        found = [name for name, part in IMAGES.items() if part in container["image"]]
        words = (word.partition("=") for word in container["args"][1:] if found)
        arguments = {name: value for name, _, value in words}
        for component in found:
            yield LaunchLine(component, arguments["--served-model-name"], arguments)


@pytest.fixture(scope="module")
def lines(made_plan: MadePlan, made_bundle: MadeBundle) -> list[LaunchLine]:
    """Those of the examples."""
    plans = [made_plan(name) for name in ("startup", "clinic", "manufacturer")]
    return [line for plan in plans for line in list_launch_lines(made_bundle(plan, "kubernetes"))]


@pytest.fixture(scope="module")
def crafted(made_plan: MadePlan, made_bundle: MadeBundle) -> list[LaunchLine]:
    """Those of plans that no example has: several machines, AMD, a draft model."""
    plans = craft_plans(made_plan("startup")).values()
    return [line for plan in plans for line in list_launch_lines(made_bundle(plan, "kubernetes"))]


def test_every_argument_is_one_of_the_pinned_version(
    lines: list[LaunchLine], crafted: list[LaunchLine], catalog: Catalog
) -> None:
    assert {line.component for line in crafted} == IMAGES.keys()
    for line in (*lines, *crafted):
        version = catalog.components[line.component].version
        plain = {f"--{name.removeprefix('--').removeprefix('no-')}" for name in line.arguments} - {"--more"}
        assert plain <= read_names()[version, "argument"], line


@pytest.mark.parametrize("component", IMAGES)
def test_every_parser_of_the_catalog_is_one_of_the_pinned_versions(component: str, catalog: Catalog) -> None:
    version = catalog.components[component].version
    used = {"reasoning": set[str](), "tool": set[str]()}
    for row in catalog.serving_parsers.values():
        assert row.model in catalog.models, row
        assert row.reasoning_parser or row.tool_parser, row
        used["reasoning"].add(row.reasoning_parser)
        used["tool"].add(row.tool_parser)
    for kind, names in used.items():
        assert names - {""} <= read_names()[version, kind], version


def test_a_launch_line_has_the_parsers_of_its_model(lines: list[LaunchLine], catalog: Catalog) -> None:
    assert lines
    for line in lines:
        row = catalog.serving_parsers[line.model]
        wanted = {"--reasoning-parser": row.reasoning_parser, "--tool-call-parser": row.tool_parser}
        found = {name: line.arguments[name] for name in PARSERS if name in line.arguments}
        assert found == {name: value for name, value in wanted.items() if value}, line
        assert ("--enable-auto-tool-choice" in line.arguments) == ("--tool-call-parser" in line.arguments)


def test_the_engine_of_this_machine_uses_the_same_names(tmp_path: Path, catalog: Catalog) -> None:
    home = Home(tmp_path)
    home.model_folder("a" * 64).mkdir(parents=True)
    config = EngineConfig(
        engine="vllm", socket="e", model_sha256="a" * 64, alias="m", slots=2, context_tokens=512, default_max_tokens=64
    )
    settings = VllmSettings(reasoning_parser="qwen3", tool_parser="hermes", chunk_tokens=1024, kv_format="fp8")
    words = [word.partition("=")[0] for word in build_arguments(config, settings, home)[1:]]
    flags = {f"--{word.removeprefix('--').removeprefix('no-')}" for word in words if word.startswith("--")}
    assert {"--reasoning-parser", "--tool-call-parser", "--enable-auto-tool-choice"} <= flags
    assert flags <= read_names()[catalog.components["vllm"].version, "argument"]


def test_a_plan_of_this_option_carries_its_launch_line(made_plan: MadePlan) -> None:
    plan: Plan = made_plan("clinic")
    pool = next(pool for pool in plan.pools if pool.model == "gpt-oss-20b")
    assert "--reasoning-parser=openai_gptoss" in pool.launch.arguments
    assert "--enable-auto-tool-choice --tool-call-parser=openai" in pool.launch.arguments
