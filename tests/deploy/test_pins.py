"""Pins of a bundle: resolved on a connected machine, kept by the next rendering, and wanted by the installation."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from tests.deploy.conftest import MadeBundle
from tests.deploy.test_platform import pin_all, run_install

from archwright import __version__, api
from archwright.contract.record import replace
from archwright.deploy.rendering.bundle import FileBundle, read_pins, write_bundle
from archwright.deploy.rendering.components import ChartPin, ImagePin, ModelPin, Pins

from ..command_line import CommandLine
from ..tools.hub_server import HubServer
from ..tools.registry_server import RegistryServer, digest_of

REPOSITORY = "maker/model"


def mirror_pins(bundle: FileBundle, registry: RegistryServer) -> Pins:
    """Return the pins with images of a registry of this machine, and models of one repository of its hub."""
    images = {
        name: replace(pin, reference=f"{registry.host}/mirror/{name}:{pin.reference.rpartition(':')[2]}")
        for name, pin in bundle.pins.images.items()
    }
    for pin in images.values():
        registry.push_image(pin.reference.removeprefix(f"{registry.host}/"))
    charts = {name: replace(pin, digest=digest_of(name.encode())) for name, pin in bundle.pins.charts.items()}
    models = {name: replace(pin, repository=REPOSITORY) for name, pin in bundle.pins.models.items()}
    hosts = dict.fromkeys(bundle.pins.hosts, "ai.company.com")
    return Pins(images=images, charts=charts, models=models, hosts=hosts)


@pytest.mark.enable_socket
def test_a_rendered_bundle_is_resolved_and_rendered_again(
    made_bundle: MadeBundle, cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "bundle"
    model = tmp_path / "hub" / REPOSITORY
    model.mkdir(parents=True)
    (model / "model.safetensors").write_bytes(b"weights")
    (model / "config.json").write_bytes(b"{}")
    bundle = made_bundle("startup", "kubernetes", "cloud-aws")
    write_bundle(bundle, folder, __version__)
    listed = (folder / "unresolved.txt").read_text().splitlines()
    assert [line.partition(":")[0] for line in listed] == [one.subject for one in api.verify(str(folder)).problems]

    with RegistryServer() as registry, HubServer(tmp_path / "hub") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        (folder / "pins.json").write_bytes(msgspec.json.encode(mirror_pins(bundle, registry)))
        assert "render the plan into" in cli.text(f"resolve {folder}", 0)

    again = made_bundle("startup", "kubernetes", "cloud-aws", pins=read_pins(folder))
    write_bundle(again, folder, __version__)
    assert api.verify(str(folder)).problems == ()
    assert not (folder / "unresolved.txt").exists()
    texts = "".join(path.read_text() for path in folder.rglob("*.yaml"))
    assert "unresolved" not in texts
    assert "model.safetensors" in texts


@pytest.mark.parametrize("target", [pytest.param("kubernetes", marks=pytest.mark.nightly), "onprem"])
def test_models_that_are_trained_at_their_site_are_no_open_pins(made_bundle: MadeBundle, target: str) -> None:
    """Nobody can state the files of a model before its training, so install.sh would refuse the bundle for ever."""
    for example, served in (("manufacturer", "assistant"), ("clinic", "letters")):
        assert set(made_bundle(example, target, "on-premises").pins.models) == {served}


def empty_pin(pin: ImagePin | ChartPin | ModelPin | str) -> object:
    if isinstance(pin, str):
        return ""
    return replace(pin, files={}) if isinstance(pin, ModelPin) else replace(pin, digest="")


@pytest.mark.process
@pytest.mark.parametrize("target", ["kubernetes", "aws"])
@pytest.mark.parametrize("kind", ["images", "charts", "models", "hosts"])
def test_the_installation_refuses_what_is_not_resolved_with_the_list(
    made_bundle: MadeBundle, tmp_path: Path, target: str, kind: str
) -> None:
    """In the bundle of a cloud the script lies one folder deeper, and the pins are those of the root."""
    known = pin_all(made_bundle("startup", target, "cloud-aws"))
    name = sorted(getattr(known, kind))[0]
    open_pin = empty_pin(getattr(known, kind)[name])
    pins = replace(known, **{kind: {**getattr(known, kind), name: open_pin}})
    folder = "" if target == "kubernetes" else "kubernetes/"

    write_bundle(made_bundle("startup", target, "cloud-aws", pins=pins), tmp_path / "bundle", __version__)
    done, installed = run_install(tmp_path, f"{folder}platform/aws-us-east-1")
    assert (done.returncode, installed) == (1, [])
    first, *_, last = done.stderr.splitlines()
    assert first.startswith(f"{kind[:-1]} {name}: ")
    assert "archwright resolve" in last

    write_bundle(made_bundle("startup", target, "cloud-aws", pins=known), tmp_path / "bundle", __version__)
    done, installed = run_install(tmp_path, f"{folder}platform/aws-us-east-1")
    assert done.returncode == 0, done.stderr
    assert "keda" in installed
