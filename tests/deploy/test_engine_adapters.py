"""An adapter from its pin to the engine that loads it and the gateway that serves it, on each target."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import yaml
from tests.deploy.conftest import MadeBundle, MadePlan
from tests.deploy.unit_runner import parse_unit
from tests.small_plans import OPTION, PLAN, POOL

from archwright import __version__
from archwright.catalog.catalog import Catalog
from archwright.contract.plan import Launch, Plan, Purchase
from archwright.contract.record import replace
from archwright.deploy.rendering.bundle import FileBundle, read_pins, write_bundle
from archwright.deploy.rendering.components import AdapterPin, ModelPin, Pins, list_open_pins
from archwright.engines.weight_files import check_weights, load_weights
from archwright.journal import Journal
from archwright.serving.settings.config import GatewayConfig, check_table
from archwright.settings import HubAccess

from .clusters import read_clusters
from .object_rules import find_pods
from .test_engine_arguments import find_names

FILES = {"adapter_config.json": "a" * 64, "adapter_model.safetensors": "b" * 64}
ADAPTER = AdapterPin(model="tone", files=FILES, rank=24)
PINNED = Pins(adapters={"chat/tone": ADAPTER})
TUNED = {"tone": "chat"}


@pytest.fixture(scope="module", params=["vllm", "sglang"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def owned(engine: str) -> Plan:
    """A plan for one owned machine whose chat has a tuned variant, and whose mail has none."""
    fields: dict[str, Any] = {"placement": "on-premises", "provider": "own", "machine": "4x-a100-80gb-pcie"}
    fields |= {"accelerator": "a100-80gb-pcie", "accelerator_count": 1, "model": "Qwen3-8B", "quantisation": "bf16"}
    pools = (
        replace(POOL, name="chat", workloads=("chat",), launch=Launch(engine=engine, adapters=TUNED), **fields),
        replace(POOL, name="mail", workloads=("mail",), launch=Launch(engine=engine), **fields),
    )
    bought = [Purchase(pool=one.name, machine=one.machine, kind="owned", machines=1.0, peak=1) for one in pools]
    shared = tuple(replace(one, shared_with=tuple({"chat", "mail"} - {one.pool})) for one in bought)
    place = {"name": "on-premises", "placement": "on-premises", "provider": "own"}
    option = replace(OPTION, **place, pools=pools, purchases=shared)
    return replace(PLAN, chosen=option.name, options=(option,), pools=pools)


class EngineStart(NamedTuple):
    """How a bundle starts an engine. `words` of its command line; `files`: folder of a file -> its SHA-256, by name."""

    pool: str
    words: list[str]
    files: dict[str, dict[str, str]]
    root: str

    @property
    def adapter_words(self) -> list[str]:
        return [word for word in self.words if "lora" in word or ("=/" in word and not word.startswith("--"))]


def read_systemd(bundle: FileBundle) -> Iterator[EngineStart]:
    for path, file in bundle.files.items():
        if "/archwright-engine-" in path and path.endswith(".service"):
            unit, pool = parse_unit(file.text), path.partition("-engine-")[2].removesuffix(".service")
            listed = json.loads(bundle.files[f"root/etc/archwright/engines/{pool}.weights.json"].text)
            *_, root = unit.get("ExecStartPre").split()
            yield EngineStart(pool, shlex.split(unit.get("ExecStart")), index_files(listed), root)


def read_compose(bundle: FileBundle) -> Iterator[EngineStart]:
    services = yaml.load(bundle.files["compose.yaml"].text, yaml.CSafeLoader)["services"]
    for name, service in services.items():
        if name.startswith("engine-"):
            pool = name.removeprefix("engine-").rpartition("-")[0]
            *_, root = services[f"weights-{pool}"]["entrypoint"]
            listed = json.loads(bundle.files[f"weights/{pool}.json"].text)
            yield EngineStart(pool, service["command"], index_files(listed), root)


def read_kubernetes(bundle: FileBundle) -> Iterator[EngineStart]:
    _, items = next(iter(read_clusters(bundle)))  # the others have parts of it that a user may choose
    named = {(item["kind"], item["metadata"]["name"]): item for item in items}
    for (kind, name), item in named.items():
        if kind == "Deployment" and item["metadata"]["namespace"] == "archwright-engines":
            pool = name.removeprefix("engine-")
            (pod,) = find_pods(item)
            listed = json.loads(named["ConfigMap", f"weights-{pool}"]["data"]["weights.json"])
            *_, root = pod.spec["initContainers"][0]["command"]
            yield EngineStart(pool, pod.spec["containers"][0]["args"], index_files(listed), root)


def index_files(listed: list[dict[str, Any]]) -> dict[str, dict[str, str]]:
    return {one["folder"]: one["files"] for one in listed}


READERS: dict[str, Callable[[FileBundle], Iterator[EngineStart]]] = {
    "systemd": read_systemd,
    "compose": read_compose,
    "onprem": read_kubernetes,
}


@pytest.fixture(params=READERS)
def target(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def read_gateway(bundle: FileBundle) -> GatewayConfig:
    if "root/etc/archwright/bundle.json" in bundle.files:
        process = json.loads(bundle.files["root/etc/archwright/bundle.json"].text)["processes"][-1]
        return msgspec.convert(process["config"], GatewayConfig)
    texts = [file.text for path, file in bundle.files.items() if path.endswith("gateway.json")]
    if bundle.target == "onprem":
        _, items = next(iter(read_clusters(bundle)))
        data = [item["data"] for item in items if item["kind"] == "ConfigMap"]
        texts = [one["gateway.json"] for one in data if "gateway.json" in one]
    (text,) = texts
    return msgspec.json.decode(text, type=GatewayConfig)


def test_a_bundle_without_a_pinned_adapter_loads_none(target: str, owned: Plan, made_bundle: MadeBundle) -> None:
    """The support for adapters costs capacity, and an adapter that is not trained yet stops no installation."""
    bundle = made_bundle(owned, target)
    started = list(READERS[target](bundle))
    assert {one.pool for one in started} == {"chat", "mail"}
    assert [one.adapter_words for one in started] == [[], []]
    assert bundle.pins.adapters == {"chat/tone": AdapterPin(model="tone")}
    assert not [one for one in list_open_pins(bundle.pins) if "tone" in one.problem]
    assert [spec.workload for spec in read_gateway(bundle).endpoints] == ["chat", "mail"]


def test_a_pinned_adapter_is_mounted_loaded_and_served(
    target: str, engine: str, owned: Plan, made_bundle: MadeBundle
) -> None:
    bundle = made_bundle(owned, target, pins=PINNED)
    chat, mail = sorted(READERS[target](bundle))
    folder = f"{chat.root}/adapter-tone"
    switches = {
        "vllm": ["--enable-lora", "--max-loras=1", "--max-lora-rank=32", "--lora-modules"],
        "sglang": ["--enable-lora", "--max-loras-per-batch=2", "--lora-paths"],
    }
    assert chat.adapter_words == [*switches[engine], f"tone={folder}"]
    assert chat.files["adapter-tone"] == FILES
    assert mail.adapter_words == [] and set(mail.files) == {"model"}
    for one in (chat, mail):
        assert any(word.endswith(f"{one.root}/model") for word in one.words), "the engine reads what the list verifies"

    config = read_gateway(bundle)
    check_table(config.pools, config.endpoints)
    tuned = next(spec for spec in config.endpoints if spec.workload == "tone")
    base = next(spec for spec in config.endpoints if spec.workload == "chat")
    assert tuned.tuned_model == {"vllm": "tone", "sglang": "Qwen3-8B:tone"}[engine]
    assert tuned.tuned_version.startswith("tone@") and base.tuned_model == ""
    assert tuned.targets == base.targets, "it shares the slots"


def test_the_loader_puts_a_trained_adapter_beside_the_weights_that_are_there(
    owned: Plan, made_bundle: MadeBundle, tmp_path: Path
) -> None:
    """The lists of two renderings: one before and one after a training. The volume of a pool is the folder `chat`."""
    contents = {"adapter_config.json": b'{"r": 24}', "adapter_model.safetensors": b"matrices"}
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    base = ModelPin(model="Qwen3-8B", format="bf16", files={"model.safetensors": hashlib.sha256(b"base").hexdigest()})
    folders = list[Path]()
    for adapters in ({}, {"chat/tone": replace(ADAPTER, files=digests)}):
        bundle = made_bundle(owned, "compose", pins=Pins(models={"chat": base}, adapters=adapters))
        chat, _ = sorted(read_compose(bundle))
        folder = tmp_path / "chat" / Path(chat.root).name
        if not folders:
            (folder / "model").mkdir(parents=True)
            (folder / "model/model.safetensors").write_bytes(b"base")
        else:
            (folder / "adapter-tone").mkdir(parents=True)
            for name, content in contents.items():
                (folder / "adapter-tone" / name).write_bytes(content)
        text = bundle.files["weights/chat.json"].text.encode()
        load_weights(text, folder, HubAccess("http://127.0.0.1:9", token=""), Journal("weights"))
        check_weights(text, folder)
        folders.append(folder)
    first, second = folders
    assert (second / "model/model.safetensors").samefile(first / "model/model.safetensors")
    loaded = Path(chat.adapter_words[-1].partition("=")[2])
    assert (tmp_path / "chat" / loaded.relative_to("/models") / "adapter_config.json").read_bytes() == b'{"r": 24}'


def test_another_training_is_another_version_in_another_folder(owned: Plan, made_bundle: MadeBundle) -> None:
    other = replace(ADAPTER, files={**FILES, "adapter_model.safetensors": "c" * 64})
    bundles = [made_bundle(owned, "compose", pins=Pins(adapters={"chat/tone": pin})) for pin in (ADAPTER, other)]
    roots = [next(one.root for one in read_compose(bundle) if one.pool == "chat") for bundle in bundles]
    versions = [read_gateway(bundle).endpoints[-1].tuned_version for bundle in bundles]
    assert len(set(roots)) == 2, "running engines keep their files"
    assert len(set(versions)) == 2


def test_every_argument_of_an_adapter_is_one_of_the_pinned_version(
    engine: str, owned: Plan, made_bundle: MadeBundle, catalog: Catalog
) -> None:
    chat, _ = sorted(read_compose(made_bundle(owned, "compose", pins=PINNED)))
    flags = {word.partition("=")[0] for word in chat.words if word.startswith("--")}
    assert flags <= find_names(engine, "argument", catalog)


def test_a_pin_of_an_adapter_is_kept_by_the_next_rendering(
    owned: Plan, made_bundle: MadeBundle, tmp_path: Path
) -> None:
    bundle = made_bundle(owned, "compose", pins=PINNED)
    write_bundle(bundle, tmp_path / "b", __version__)
    assert read_pins(tmp_path / "b").adapters == PINNED.adapters
    gone = replace(owned.options[0].pools[0], launch=Launch(engine="vllm"))
    option = replace(owned.options[0], pools=(gone, *owned.options[0].pools[1:]))
    after = made_bundle(
        replace(owned, options=(option,), pools=option.pools), "compose", pins=read_pins(tmp_path / "b")
    )
    assert after.pins.adapters == {}


def test_a_plan_names_the_adapters_of_its_tuned_workloads(made_plan: MadePlan, made_bundle: MadeBundle) -> None:
    plan = made_plan("startup")
    option = next(one for one in plan.options if one.name == "cloud-aws")
    tuned = {pool.name: pool.launch.adapters for pool in option.pools if pool.launch.adapters}
    assert tuned and all(adapters == {"tone": "support-chat"} for adapters in tuned.values())
    assert not [word for pool in option.pools for word in pool.launch.arguments if "lora" in word]
    bundle = made_bundle(plan, "kubernetes", "cloud-aws")
    assert set(bundle.pins.adapters) == {f"{pool}/tone" for pool in tuned}
    for pool in tuned:
        (path,) = (path for path in bundle.files if path.startswith("weights-data/") and path.endswith(f"{pool}.yaml"))
        pod = yaml.load(bundle.files[path].text, yaml.CSafeLoader)
        assert pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] == f"weights-{pool}"
        assert f"kubectl create -f {path}" in bundle.files["README.md"].text


def test_a_tuned_pool_is_not_served_by_ray(made_bundle: MadeBundle, made_plan: MadePlan) -> None:
    bundle = made_bundle("startup", "kubernetes", "cloud-aws")
    proxied = {path for path in bundle.files if path.startswith("ray/")}
    pins = Pins(adapters={name: ADAPTER for name in bundle.pins.adapters})
    pinned = made_bundle("startup", "kubernetes", "cloud-aws", pins=pins)
    assert proxied and len({path for path in pinned.files if path.startswith("ray/")}) < len(proxied)
