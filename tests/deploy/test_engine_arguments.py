"""Launch lines of engines hold only arguments and parsers that the pinned version has, and the parsers of the model."""

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
IMAGES = {"vllm": "vllm/vllm-openai:", "vllm-rocm": "rocm/vllm:", "sglang": "lmsysorg/sglang:"}
ENGINES = {"vllm": "vllm", "vllm-rocm": "vllm", "sglang": "sglang"}
PARSERS = {"reasoning": "--reasoning-parser", "tool": "--tool-call-parser"}
# Models whose format SGLang has no parser for.
NOT_ON_SGLANG = {"Phi-4-mini-instruct", "Granite-3.3-8B-Instruct", "OLMo-3-7B-Instruct"}


class LaunchLine(NamedTuple):
    component: str
    model: str
    arguments: dict[str, str]


@functools.cache
def read_names() -> dict[tuple[str, str, str], frozenset[str]]:
    """Return the names by engine, version and kind: argument, reasoning, tool."""
    with Path(__file__).with_name("engine_arguments.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {(row["engine"], row["version"], row["kind"]): frozenset(row["names"].split()) for row in rows}


def find_names(component: str, kind: str, catalog: Catalog) -> frozenset[str]:
    return read_names()[ENGINES[component], catalog.components[component].version, kind]


def list_launch_lines(bundle: FileBundle) -> Iterator[LaunchLine]:
    for _, items in read_clusters(bundle):
        for item in items:
            if item["kind"] in ("Deployment", "LeaderWorkerSet"):
                yield from _read_launch_lines(item)


def _read_launch_lines(item: Item) -> Iterator[LaunchLine]:
    for pod in find_pods(item):
        container = pod.spec["containers"][0]
        found = [name for name, part in IMAGES.items() if part in container["image"]]
        words = (word.partition("=") for word in container["args"] if found and word.startswith("--"))
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
        plain = {f"--{name.removeprefix('--').removeprefix('no-')}" for name in line.arguments} - {"--more"}
        assert plain <= find_names(line.component, "argument", catalog), line


@pytest.mark.parametrize("component", IMAGES)
def test_every_parser_of_the_catalog_is_one_of_the_pinned_versions(component: str, catalog: Catalog) -> None:
    engine = catalog.engines[ENGINES[component]]
    for row in catalog.serving_parsers.values():
        assert row.model in catalog.models and (row.reasoning_parser or row.tool_parser), row
        words = " ".join(engine.list_parser_flags(row)).split()
        flags = dict(word.split("=") for word in words if "=" in word)
        for kind, flag in PARSERS.items():
            assert {flags.get(flag)} - {None} <= find_names(component, kind, catalog), row
        assert set(flags) <= set(PARSERS.values())
        assert flags or (engine.id == "sglang" and row.model in NOT_ON_SGLANG), row


def test_a_parser_has_the_name_that_the_engine_gives_it(catalog: Catalog) -> None:
    def list_flags(model: str) -> tuple[str, ...]:
        return catalog.engines["sglang"].list_parser_flags(catalog.serving_parsers[model])

    assert list_flags("gpt-oss-20b") == ("--reasoning-parser=gpt-oss", "--tool-call-parser=gpt-oss")
    assert list_flags("DeepSeek-R1-0528") == ("--reasoning-parser=deepseek-r1", "--tool-call-parser=deepseekv3")
    assert list_flags("Llama-3.3-70B-Instruct") == ("--tool-call-parser=llama3",)
    engine = catalog.engines["sglang"]
    for field, names in engine.parser_names.items():
        used = {getattr(row, field) for row in catalog.serving_parsers.values()}
        assert set(names) <= used, "a name that no model uses is left over"


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_every_flag_of_an_option_is_one_of_the_pinned_version(engine: str, catalog: Catalog) -> None:
    spec = catalog.engines[engine]
    templates = (*spec.option_flags.values(), spec.memory_flag, *spec.parser_flags.values())
    flags = {word.partition("=")[0] for text in templates for word in text.split() if word.startswith("--")}
    assert len(flags) > 6 and flags <= find_names(engine, "argument", catalog)


def test_a_launch_line_has_the_parsers_of_its_model(lines: list[LaunchLine], catalog: Catalog) -> None:
    assert lines
    for line in lines:
        row = catalog.serving_parsers[line.model]
        wanted = {"--reasoning-parser": row.reasoning_parser, "--tool-call-parser": row.tool_parser}
        found = {name: line.arguments[name] for name in PARSERS.values() if name in line.arguments}
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
    assert flags <= find_names("vllm", "argument", catalog)


def test_a_plan_of_this_option_carries_its_launch_line(made_plan: MadePlan) -> None:
    plan: Plan = made_plan("clinic")
    pool = next(pool for pool in plan.pools if pool.model == "gpt-oss-20b")
    assert "--reasoning-parser=openai_gptoss" in pool.launch.arguments
    assert "--enable-auto-tool-choice --tool-call-parser=openai" in pool.launch.arguments
