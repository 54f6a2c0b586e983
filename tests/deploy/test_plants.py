"""Plants: machines that predict have units of systemd in the bundle, and no cluster with nothing to watch."""

from __future__ import annotations

import http.client
import json
from pathlib import Path

import pytest
from tests.deploy.conftest import MadeBundle, MadePlan
from tests.deploy.test_systemd import read_units
from tests.deploy.test_units import GATEWAY, SUPERVISOR, Machine
from tests.deploy.unit_runner import running_units
from tests.serving.conftest import free_port
from tests.tools.checks import WAIT_S, until

from archwright import __version__
from archwright.deploy.rendering.bundle import FileBundle, write_bundle
from archwright.plan.plan_file import write_plan

from ..engines.onnx_models import model as onnx_model

PLANTS = ("cn-plants", "fr-plants", "us-plants")
# Adds a trained version with the model of a file, and promotes it.
PROMOTE = """
import hashlib, sys, time
from pathlib import Path
from archwright.contract.lineage import ModelVersion
from archwright.home import Home
from archwright.lifecycle import model_registry
from archwright.store import Store
home, data = Home(sys.argv[1]), Path(sys.argv[2]).read_bytes()
store = Store(home.store_url)
made = ModelVersion(
    id="downtime@v1", name="downtime", version=1, at=time.time(), task="tabular-classifier", format="onnx",
    sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data), run="r", dataset_version="d@v1", base="",
)
home.model(made.sha256, "onnx").write_bytes(data)
home.model(made.sha256, "onnx").chmod(0o600)
store.append(model_registry.MODELS, [made])
model_registry.append_promotion(store, [], "promote", ("downtime", made.id), "local")
"""


def take_folder(bundle: FileBundle, folder: str) -> FileBundle:
    files = {path.removeprefix(f"{folder}/"): file for path, file in bundle.files.items() if path.startswith(folder)}
    return FileBundle(**{name: getattr(bundle, name) for name in bundle.__struct_fields__} | {"files": files})


@pytest.mark.parametrize("target", ["onprem", "kubernetes", "azure"])
def test_each_plant_has_units_and_no_cluster(target: str, made_bundle: MadeBundle) -> None:
    files = made_bundle("manufacturer", target).files
    assert {path.split("/")[1] for path in files if path.startswith("plants/")} == set(PLANTS)
    clustered = {part for path in files if "kubernetes/" in path or target == "kubernetes" for part in Path(path).parts}
    outside = {part for path in files if not path.startswith("plants/") for part in Path(path).parts}
    assert not {*PLANTS} & clustered & outside, "an overlay would be namespaces only"
    for plant in PLANTS:
        assert f"plants/{plant}/monitoring/rules/gateway.yml" in files


def test_the_readme_of_a_plant_names_its_machines(made_bundle: MadeBundle) -> None:
    bundle = made_bundle("manufacturer", "onprem")
    inventory = bundle.files["site/inventory.yaml"].text
    text = bundle.files["plants/fr-plants/README.md"].text
    assert "10 machines of FR plants, fr-plants-industrial-pc-01 to fr-plants-industrial-pc-10" in text
    assert "fr-plants-industrial-pc-10:" in inventory
    assert "archwright[train,predict]==" in text
    assert "| `plants/` |" in bundle.files["README.md"].text


def test_the_units_of_a_plant_serve_no_model_of_another_site(made_bundle: MadeBundle) -> None:
    bundle = take_folder(made_bundle("manufacturer", "onprem"), "plants/us-plants")
    backups = {"archwright-backup.service", "archwright-backup-drill.service"}
    served = {f"{GATEWAY}.service", f"{SUPERVISOR}.service", "archwright-engine@.service"}
    assert set(read_units(bundle)) == served | backups
    processes = json.loads(bundle.files["root/etc/archwright/bundle.json"].text)["processes"]
    assert [(one["name"], one["config"]["pools"]) for one in processes] == [("gateway", [])]


@pytest.mark.nightly
@pytest.mark.process
@pytest.mark.enable_socket
def test_a_machine_of_a_plant_answers_predictions_from_its_units(
    made_plan: MadePlan, made_bundle: MadeBundle, tmp_path: Path, processes: None
) -> None:
    folder, file, model, port = tmp_path / "bundle", tmp_path / "plan.json", tmp_path / "model.onnx", free_port()
    write_bundle(made_bundle("manufacturer", "onprem"), folder, __version__)
    write_plan(made_plan("manufacturer"), file)

    def prepare(root: Path) -> None:
        (root / "etc/archwright/archwright.env").write_text(f"ARCHWRIGHT_PORT={port}\n")
        model.write_bytes(onnx_model().SerializeToString())
        (root / "model.onnx").write_bytes(model.read_bytes())
        (root / "model.onnx").chmod(0o644)

    with running_units(folder / "plants/fr-plants", file, prepare) as runner:
        machine = Machine(runner, port)
        machine.open()
        assert predict(machine)[0] == 404
        given = (runner.python, "-c", PROMOTE, str(machine.home), str(runner.root / "model.onnx"))
        promoted = machine.run_as(SUPERVISOR, *given)
        assert promoted.returncode == 0, promoted.stderr
        labels: list[str] = []

        def is_answered() -> bool:
            labels.extend(list_labels(machine))
            return bool(labels)

        until(is_answered)
        assert labels == ["high", "low"]
        assert "archwright-engine@predict-downtime.v1" in runner.services, "the engine is a unit too"


def list_labels(machine: Machine) -> list[str]:
    """Return the predicted labels; none while the worker that answers does not know the model yet."""
    status, reply = predict(machine)
    return [one["label"] for one in reply["predictions"]] if status == 200 else []


def predict(machine: Machine) -> tuple[int, dict[str, list[dict[str, str]]]]:
    connection = http.client.HTTPConnection("127.0.0.1", machine.port, timeout=WAIT_S)
    body, headers = json.dumps({"inputs": [[1, 2, 3], [-1, -2, -3]]}), {"authorization": f"Bearer {machine.key}"}
    try:
        connection.request("POST", "/v1/predict/downtime", body, {**headers, "content-type": "application/json"})
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read())
    finally:
        connection.close()
