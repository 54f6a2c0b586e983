"""Image classifier for small pictures: two convolutions and a linear layer in PyTorch, with Adam.

A picture is its pixel columns in order (row by row, channels last), or the column `image` with a list of numbers. The
exported model includes the division by `scale` and the softmax: raw pixels in, probabilities out. Classes are not
weighted, so outputs stay probabilities. A missing pixel is refused. Several workers average gradients by rows.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec

from archwright.engines.onnx_file import ModelSignature
from archwright.errors import ErrorLocation, TrainError, require_extra
from archwright.home import write_atomic
from archwright.training import classifier_data
from archwright.training.classifier_data import FLOAT32_MAX, TrainedClassifier, invalid_value_error
from archwright.training.trainer import StepResult, TrainedArtefact, TrainerSetup
from archwright.training.training_data import DataSplit, TrainingData, feature_columns
from archwright.training.training_spec import ImageSpec, TrainSpec

LEARNING_RATE = 5e-3
CHANNELS = (16, 32)
# The last layer has weights per pixel and class: larger pictures need another network.
PIXEL_LIMIT = 128 * 128 * 4
WEIGHTS_FILE = "model.safetensors"
IMAGE_COLUMN = "image"
OPSET = 17


def make_trainer(setup: TrainerSetup) -> ImageClassifierTrainer:
    return ImageClassifierTrainer(setup)


class ImageClassifierTrainer:
    def __init__(self, setup: TrainerSetup) -> None:
        self._torch = torch = import_torch()
        torch.set_num_threads(setup.threads)
        spec, data = setup.spec, setup.data
        self._crew = setup.crew
        names = select_pixel_columns(data, spec)
        self._notes = build_notes(data, spec, names)
        self._rows = torch.from_numpy(build_pixel_matrix(data.train, names, data, spec))
        self._truth = torch.from_numpy(classifier_data.encode_labels(data.train, data, spec, self._notes.labels))
        self._rows_per_step = spec.rows_per_step
        self._image = require_image(spec)
        self._net = build_network(torch, self._image, len(self._notes.labels), spec.seed)
        rate = classifier_data.choose_learning_rate(spec, LEARNING_RATE)
        self._adam = torch.optim.Adam(self._net.parameters(), rate, foreach=False)

    def lengths(self) -> Sequence[int]:
        return [1] * len(self._truth)

    def budget(self) -> int:
        return self._rows_per_step

    def step(self, rows: Sequence[int]) -> StepResult:
        torch, net = self._torch, self._net
        self._adam.zero_grad(set_to_none=False)
        loss = torch.zeros(())
        if rows:
            chosen = torch.tensor(list(rows))
            loss = torch.nn.functional.cross_entropy(net(self._rows[chosen]), self._truth[chosen])
            loss.backward()
        loss = loss.detach()
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in net.parameters()]
        self._crew.mean([*gradients, loss], float(len(rows)))
        for parameter, gradient in zip(net.parameters(), gradients, strict=True):
            parameter.grad = gradient
        self._adam.step()
        return StepResult(float(loss), len(rows))

    def state(self) -> dict[str, bytes]:
        from safetensors.torch import save  # noqa: PLC0415

        kept = {f"net.{name}": tensor for name, tensor in self._net.state_dict().items()}
        held = self._adam.state_dict()["state"]
        for place, values in held.items():
            kept |= {f"adam.{place}.{name}": tensor for name, tensor in values.items()}
        return {"state.safetensors": save(kept), "state.json": json.dumps({"adam": sorted(held)}).encode()}

    def restore(self, state: Mapping[str, bytes]) -> None:
        from safetensors.torch import load  # noqa: PLC0415

        kept = load(state["state.safetensors"])
        self._net.load_state_dict({name: kept[f"net.{name}"] for name in self._net.state_dict()})
        whole = self._adam.state_dict()
        whole["state"] = {
            place: {name: kept[f"adam.{place}.{name}"] for name in ("step", "exp_avg", "exp_avg_sq")}
            for place in json.loads(state["state.json"])["adam"]
        }
        self._adam.load_state_dict(whole)

    def weights_sha256(self) -> str:
        return classifier_data.weights_sha256({name: tensor.numpy() for name, tensor in self._net.state_dict().items()})

    def save(self, folder: Path) -> TrainedArtefact:
        from safetensors.torch import save  # noqa: PLC0415

        write_atomic(folder / WEIGHTS_FILE, save(self._net.state_dict()))
        return classifier_data.write_onnx(folder, export_onnx(self._torch, self._net, self._notes), self._notes)


def load_trained(folder: Path, data: TrainingData, spec: TrainSpec, labels: tuple[str, ...]) -> TrainedClassifier:
    """The network in a run's `result` folder, evaluated in PyTorch."""
    from safetensors.torch import load  # noqa: PLC0415

    torch = import_torch()
    notes = build_notes(data, spec, select_pixel_columns(data, spec), labels)
    net, untrained = (build_network(torch, require_image(spec), len(labels), spec.seed) for _ in range(2))
    net.load_state_dict(load((folder / WEIGHTS_FILE).read_bytes()))
    answers = partial(_predict_probabilities, torch)
    return TrainedClassifier(notes, partial(answers, net), partial(answers, untrained))


def select_pixel_columns(data: TrainingData, spec: TrainSpec) -> list[str]:
    table = data.train.table
    if not spec.columns.features and IMAGE_COLUMN in table.column_names:
        return [IMAGE_COLUMN]
    return feature_columns(table, spec)


def build_notes(data: TrainingData, spec: TrainSpec, names: list[str], labels: tuple[str, ...] = ()) -> ModelSignature:
    """Raises TrainError AW-TRN-44 if the picture is too large or the columns do not match its size."""
    shape = require_image(spec).shape
    size = math.prod(shape)
    where = ErrorLocation(field="image")
    if size > PIXEL_LIMIT:
        message = f"{size:,} numbers a picture are more than this small network takes ({PIXEL_LIMIT:,})"
        raise TrainError("AW-TRN-44", message, where=where, hint="scale the pictures down before they are ingested")
    named = names != [IMAGE_COLUMN]
    if named and len(names) != size:
        message = f"{data.version.id} has {len(names)} feature columns, a picture of {shape} needs {size}"
        hint = "correct height, width and channels, or name the pixel columns in columns: features"
        raise TrainError("AW-TRN-44", message, where=where, hint=hint)
    labels = labels or classifier_data.collect_labels(data, spec)
    return ModelSignature(labels=labels, shape=shape, features=tuple(names) if named else ())


def build_pixel_matrix(part: DataSplit, names: list[str], data: TrainingData, spec: TrainSpec) -> Any:
    """Raw pixels (pictures x pixels). Raises TrainError AW-TRN-43 for a missing pixel."""
    np, _ = classifier_data.import_libraries()
    if names == [IMAGE_COLUMN]:
        rows = _parse_pixel_lists(part, require_image(spec))
    else:
        rows = classifier_data.build_feature_matrix(part, names, data)
    absent = np.argwhere(np.isnan(rows))
    if absent.size:
        row, pixel = (int(place) for place in absent[0])
        raise invalid_value_error(part, row, f"pixel {pixel}", "has no value")
    return rows


def require_image(spec: TrainSpec) -> ImageSpec:
    if spec.image is None:
        raise TrainError("AW-TRN-02", "a picture's shape is missing", where=ErrorLocation(field="image"))
    return spec.image


def import_torch() -> Any:
    with require_extra("train", "training an image classifier"):
        import torch  # noqa: PLC0415
    return torch


def build_network(torch: Any, image: ImageSpec, labels: int, seed: int) -> Any:
    """A network from raw pixels to scores. Convolutions keep the size, poolings halve each side above 1."""
    nn = torch.nn
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        height, width, inputs = image.height, image.width, image.channels
        layers: list[Any] = []
        for outputs in CHANNELS:
            pool = (min(2, height), min(2, width))
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(pool)]
            height, width, inputs = height // pool[0], width // pool[1], outputs
        body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(inputs * height * width, labels))
    return _wrap_network(torch, image, body)


def _wrap_network(torch: Any, image: ImageSpec, body: Any) -> Any:
    class Net(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.body = body

        def forward(self, rows: Any) -> Any:
            shaped = rows.reshape(-1, image.height, image.width, image.channels) / image.scale
            return self.body(shaped.permute(0, 3, 1, 2))

    return Net()


def export_onnx(torch: Any, net: Any, notes: ModelSignature) -> Any:
    """The network with its softmax as an ONNX model with a free batch size."""
    import onnx  # noqa: PLC0415

    whole, file = torch.nn.Sequential(net, torch.nn.Softmax(dim=1)).train(False), BytesIO()
    with warnings.catch_warnings():
        # The exporter that needs no further package warns that it is deprecated.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            whole,
            (torch.zeros(2, notes.size),),
            file,
            dynamo=False,
            opset_version=OPSET,
            input_names=["pictures"],
            output_names=["probabilities"],
            dynamic_axes={"pictures": {0: "items"}, "probabilities": {0: "items"}},
        )
    return onnx.load_from_string(file.getvalue())


def _predict_probabilities(torch: Any, net: Any, rows: Any) -> Any:
    with torch.inference_mode():
        return torch.softmax(net(torch.from_numpy(rows)), dim=1).double().numpy()


def _parse_pixel_lists(part: DataSplit, image: ImageSpec) -> Any:
    """The lists of the image column, flat or nested; the lake stores them as JSON text."""
    np, _ = classifier_data.import_libraries()
    shape, size = image.shape, math.prod(image.shape)
    allowed = {(size,), shape, shape[:2] if image.channels == 1 else shape}
    found = np.empty((len(part.ids), size), np.float32)
    for row, text in enumerate(part.table.column(IMAGE_COLUMN).to_pylist()):
        try:
            picture = np.array(msgspec.json.decode(text), np.float64)
        except (msgspec.DecodeError, TypeError, ValueError) as error:
            raise invalid_value_error(part, row, IMAGE_COLUMN, "is not a list of numbers") from error
        if picture.shape not in allowed:
            raise invalid_value_error(part, row, IMAGE_COLUMN, f"has the shape {picture.shape}, not {shape}")
        if (np.abs(picture) > FLOAT32_MAX).any():
            raise invalid_value_error(part, row, IMAGE_COLUMN, "is beyond what 32 bits hold")
        found[row] = picture.reshape(-1)
    return found
