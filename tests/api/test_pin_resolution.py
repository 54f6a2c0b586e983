"""`resolve`: digests of images and charts from a registry, of models from a hub; what cannot be had stays open."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from archwright import api
from archwright.api.pin_resolution import PinResolution
from archwright.contract.record import replace
from archwright.deploy.rendering.bundle import read_pins
from archwright.deploy.rendering.components import ChartPin, ImagePin, ModelPin, Pins
from archwright.errors import InputError
from archwright.home import Home

from ..command_line import CommandLine
from ..tools.hub_server import HubServer
from ..tools.registry_server import TOKEN, RegistryServer, digest_of

pytestmark = pytest.mark.enable_socket
REPOSITORY = "maker/large-model"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
SMALL = {"config.json": b'{"architectures": ["X"]}', "tokenizer.json": b"{}", "chat_template.jinja": b"{{ messages }}"}


@pytest.fixture
def registry() -> Iterator[RegistryServer]:
    with RegistryServer() as server:
        yield server


@pytest.fixture
def hub(tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub with a model of two shards, beside files that are no part of what an engine reads."""
    folder = tmp_path / "hub" / REPOSITORY
    (folder / "original").mkdir(parents=True)
    for name in (*SHARDS, "consolidated.safetensors", "pytorch_model.bin", "original/x.safetensors"):
        (folder / name).write_bytes(f"bytes of {name}".encode())
    for name, data in SMALL.items():
        (folder / name).write_bytes(data)
    (folder / "README.md").write_text("about")
    weights = {f"layer.{number}": shard for number, shard in enumerate(SHARDS)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    with HubServer(tmp_path / "hub") as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def resolve_pins(folder: Path, pins: Pins) -> tuple[PinResolution, Pins]:
    """Resolve a folder with these pins; return the result and the pins that it holds then."""
    folder.mkdir(exist_ok=True)
    (folder / "archwright.json").write_text(
        json.dumps({"target": "kubernetes", "option": "o", "plan_digest": "d", "archwright": "1"})
    )
    (folder / "pins.json").write_bytes(msgspec.json.encode(pins))
    return api.resolve(str(folder)), read_pins(folder)


def reason_of(result: PinResolution, subject: str) -> str:
    return next(one.problem for one in result.problems if one.subject == subject)


def test_the_digest_of_an_image_is_that_of_its_index(registry: RegistryServer, home: Home, tmp_path: Path) -> None:
    wanted = registry.push_image("mirror/vllm:v1")
    pins = Pins(images={"vllm": ImagePin(reference=f"{registry.host}/mirror/vllm:v1")})
    result, found = resolve_pins(tmp_path / "bundle", pins)
    assert (result.resolved, result.problems) == (("image vllm",), ())
    assert found.images["vllm"].digest == wanted
    first, token, second = registry.heard
    assert token.query == {"service": ["registry"], "scope": ["repository:mirror/vllm:pull"]}
    assert [first.authorization, token.authorization, second.authorization] == ["", "", f"Bearer {TOKEN}"]
    assert "application/vnd.oci.image.index.v1+json" in second.accept


def test_an_image_that_cannot_be_read_stays_open_and_stops_no_other(
    registry: RegistryServer, home: Home, tmp_path: Path
) -> None:
    wanted = registry.push_image("good:1")
    for name in ("lies:1", "closed:1"):
        registry.push_image(name)
    registry.lies.add("lies:1")
    registry.closed.add("closed")
    references = {name: f"{registry.host}/{name}:1" for name in ("good", "lies", "closed", "missing")}
    references |= {"own": "archwright:0.1.0", "away": "127.0.0.1:1/x:1", "untagged": f"{registry.host}/good"}
    kept = ImagePin(reference=f"{registry.host}/good:1", digest=f"sha256:{'7' * 64}")
    images = {name: ImagePin(reference=reference) for name, reference in references.items()}
    result, found = resolve_pins(tmp_path / "bundle", Pins(images={**images, "kept": kept}))
    assert result.resolved == ("image good",)
    assert {name: pin.digest for name, pin in found.images.items() if pin.digest} == {
        "good": wanted,
        "kept": kept.digest,
    }
    assert "states sha256:" in reason_of(result, "image lies")
    assert "wants an account" in reason_of(result, "image closed")
    assert "status 404" in reason_of(result, "image missing")
    assert "cannot be reached" in reason_of(result, "image away")
    assert "has no tag" in reason_of(result, "image untagged")
    assert "names no registry" in reason_of(result, "image own"), "a stranger could own this name at a public registry"
    assert not any("archwright" in one.path for one in registry.heard)


def test_charts_have_the_digest_of_the_archive_that_helm_pulls(
    registry: RegistryServer, home: Home, tmp_path: Path
) -> None:
    archive, crds = b"archive of keda", b"kind: CustomResourceDefinition"
    index = "entries:\n  keda:\n    - {version: 2.0.0, urls: [other.tgz]}\n"
    index += f"    - {{version: 2.21.0, urls: [keda-2.21.0.tgz], digest: {digest_of(archive)[7:]}}}\n"
    index += f"  liar:\n    - {{version: 1.0.0, urls: [keda-2.21.0.tgz], digest: {'a' * 64}}}\n"
    index += f"  number:\n    - {{version: 1.0.0, urls: [keda-2.21.0.tgz], digest: {'0' * 64}}}\n"
    registry.files = {"/charts/index.yaml": index.encode(), "/charts/keda-2.21.0.tgz": archive, "/crds.yaml": crds}
    lws = registry.push_chart("charts/lws:0.10.0", b"archive of lws")
    registry.push_image("charts/image:1.0.0")
    sources = {
        "keda": f"http://{registry.host}/charts keda 2.21.0",
        "crds": f"http://{registry.host}/crds.yaml",
        "lws": f"oci://{registry.host}/charts/lws 0.10.0",
        "image": f"oci://{registry.host}/charts/image 1.0.0",
        "liar": f"http://{registry.host}/charts liar 1.0.0",
        "number": f"http://{registry.host}/charts number 1.0.0",
        "gone": f"http://{registry.host}/charts gone 1.0.0",
    }
    pins = Pins(charts={name: ChartPin(source=source) for name, source in sources.items()})
    result, found = resolve_pins(tmp_path / "bundle", pins)
    digests = {name: pin.digest for name, pin in found.charts.items() if pin.digest}
    assert digests == {"keda": digest_of(archive), "crds": digest_of(crds), "lws": lws}
    assert "states aaaa" in reason_of(result, "chart liar")
    assert "states 0 for number" in reason_of(result, "chart number")
    assert "has no chart gone 1.0.0" in reason_of(result, "chart gone")
    assert "no manifest of a chart" in reason_of(result, "chart image")


def test_a_model_has_every_shard_and_what_an_engine_reads_beside(hub: HubServer, tmp_path: Path) -> None:
    pins = Pins(models={"chat": ModelPin(model="M", repository=REPOSITORY, format="bf16")})
    result, found = resolve_pins(tmp_path / "bundle", pins)
    assert result.problems == ()
    pin = found.models["chat"]
    assert pin.revision == hub.commit(REPOSITORY)
    assert set(pin.files) == {*SHARDS, *SMALL, "model.safetensors.index.json"}
    folder = hub.root / REPOSITORY
    assert pin.files == {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in pin.files}
    assert not set(SHARDS) & set(hub.downloaded()), "hundreds of GB are not read to learn a digest that the hub states"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("no shard", f"names {SHARDS[1]}, which is not there"),
        ("no weights", "has no weights in safetensors"),
        ("int4", "weights of 16 bits, and the plan wants int4"),
        ("a name", "cannot name"),
        ("offline", "HF_HUB_OFFLINE"),
        ("no repository", "its repository is not known"),
    ],
)
def test_a_model_is_whole_or_open(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, reason: str
) -> None:
    folder, pin = hub.root / REPOSITORY, ModelPin(model="M", repository=REPOSITORY, format="bf16")
    if change == "no shard":
        (folder / SHARDS[1]).unlink()
    elif change == "no weights":
        for path in (*folder.glob("*.safetensors"), folder / "model.safetensors.index.json"):
            path.unlink()
    elif change == "int4":
        pin = replace(pin, format="int4")
    elif change == "a name":
        (folder / "a(b)&c.json").write_text("{}")
    elif change == "offline":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    else:
        pin = replace(pin, repository="")
    result, found = resolve_pins(tmp_path / "bundle", Pins(models={"chat": pin}))
    assert reason in reason_of(result, "model chat")
    assert found.models["chat"] == pin


def test_quantised_files_are_chosen_by_the_format_of_the_plan(hub: HubServer, tmp_path: Path) -> None:
    folder = hub.root / REPOSITORY
    for name in ("m-Q4_K_M.gguf", "m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf"):
        (folder / name).write_bytes(name.encode())
    pins = {name: ModelPin(model="M", repository=REPOSITORY, format=name) for name in ("Q4_K_M", "Q8_0", "Q6_K")}
    result, found = resolve_pins(tmp_path / "bundle", Pins(models=pins))
    assert sorted(found.models["Q4_K_M"].files) == ["m-Q4_K_M.gguf"]
    assert len(found.models["Q8_0"].files) == 2
    assert "no GGUF file of Q6_K" in reason_of(result, "model Q6_K")


def test_a_folder_that_is_no_bundle_is_refused_and_an_open_one_is_not_ready(
    cli: CommandLine, home: Home, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="no bundle") as caught:
        api.resolve(str(tmp_path))
    assert caught.value.code == "AW-FILE-13"
    resolve_pins(tmp_path, Pins(images={"own": ImagePin(reference="archwright:0.1.0")}))
    assert "image own" in cli.text(f"resolve {tmp_path}", 3)
