"""Image classifier for small pictures: two convolutions and a linear layer in PyTorch, with Adam.

A picture is its pixel columns in order (row by row, channels last), or the column `image` with a list of numbers. The
exported model includes the division by `scale` and the softmax: raw pixels in, probabilities out. Classes are not
weighted, so outputs stay probabilities. A missing pixel is refused. Several workers average gradients by rows.
"""

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
from archwright.errors import ErrorLocation, TrainError
from archwright.home import write_atomic
from archwright.lake.lazy_modules import np, tensor_files, torch
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


class ImageClassifierTrainer:
    def __init__(self, setup: TrainerSetup) -> None:
        torch.set_num_threads(setup.threads)
        spec, data = setup.spec, setup.data
        self._group = setup.group
        names = select_pixel_columns(data, spec)
        self._notes = build_notes(data, spec, names)
        self._rows = torch.from_numpy(build_pixel_matrix(data.train, names, data, spec))
        self._truth = torch.from_numpy(classifier_data.encode_labels(data.train, data, spec, self._notes.labels))
        self._rows_per_step = spec.rows_per_step
        self._net = build_network(require_image(spec), len(self._notes.labels), spec.seed)
        self._adam = torch.optim.Adam(self._net.parameters(), spec.learning_rate or LEARNING_RATE, foreach=False)

    def lengths(self) -> Sequence[int]:
        return [1] * len(self._truth)

    def budget(self) -> int:
        return self._rows_per_step

    def step(self, rows: Sequence[int]) -> StepResult:
        net = self._net
        self._adam.zero_grad(set_to_none=False)
        loss = torch.zeros(())
        if rows:
            chosen = torch.tensor(list(rows))
            loss = torch.nn.functional.cross_entropy(net(self._rows[chosen]), self._truth[chosen])
            loss.backward()
        loss = loss.detach()
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in net.parameters()]
        self._group.mean([*gradients, loss], float(len(rows)))
        for parameter, gradient in zip(net.parameters(), gradients, strict=True):
            parameter.grad = gradient
        self._adam.step()
        return StepResult(float(loss), len(rows))

    def state(self) -> dict[str, bytes]:
        kept = {f"net.{name}": tensor for name, tensor in self._net.state_dict().items()}
        held = self._adam.state_dict()["state"]
        for place, values in held.items():
            kept |= {f"adam.{place}.{name}": tensor for name, tensor in values.items()}
        return {"state.safetensors": tensor_files.save(kept), "state.json": json.dumps({"adam": sorted(held)}).encode()}

    def restore(self, state: Mapping[str, bytes]) -> None:
        kept = tensor_files.load(state["state.safetensors"])
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
        write_atomic(folder / WEIGHTS_FILE, tensor_files.save(self._net.state_dict()))
        return classifier_data.write_onnx(folder, export_onnx(self._net, self._notes), self._notes)


make_trainer = ImageClassifierTrainer


def load_trained(folder: Path, data: TrainingData, spec: TrainSpec, labels: tuple[str, ...]) -> TrainedClassifier:
    """The network in a run's `result` folder, evaluated in PyTorch."""
    notes = build_notes(data, spec, select_pixel_columns(data, spec), labels)
    net, untrained = (build_network(require_image(spec), len(labels), spec.seed) for _ in range(2))
    net.load_state_dict(tensor_files.load((folder / WEIGHTS_FILE).read_bytes()))
    return TrainedClassifier(notes, partial(_predict_probabilities, net), partial(_predict_probabilities, untrained))


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
        message = f"a picture has {size:,} numbers, the network takes at most {PIXEL_LIMIT:,}"
        raise TrainError("AW-TRN-44", message, where=where, hint="scale the pictures down before you ingest them")
    named = names != [IMAGE_COLUMN]
    if named and len(names) != size:
        message = f"{data.version.id} has {len(names)} feature columns, but a picture of {shape} needs {size}"
        hint = "correct height, width and channels, or name the pixel columns in columns: features"
        raise TrainError("AW-TRN-44", message, where=where, hint=hint)
    labels = labels or classifier_data.collect_labels(data, spec)
    return ModelSignature(labels=labels, shape=shape, features=tuple(names) if named else ())


def build_pixel_matrix(part: DataSplit, names: list[str], data: TrainingData, spec: TrainSpec) -> Any:
    """Raw pixels (pictures x pixels). Raises TrainError AW-TRN-43 for a missing pixel."""
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
        where = ErrorLocation(field="image")
        raise TrainError("AW-TRN-02", "the shape of the pictures is missing", where=where, hint="add height and width")
    return spec.image


def build_network(image: ImageSpec, labels: int, seed: int) -> Any:
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

    class Net(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.body = body

        def forward(self, rows: Any) -> Any:
            shaped = rows.reshape(-1, image.height, image.width, image.channels) / image.scale
            return self.body(shaped.permute(0, 3, 1, 2))

    return Net()


def export_onnx(net: Any, notes: ModelSignature) -> Any:
    """The network with its softmax as an ONNX model of any batch size."""
    import onnx  # noqa: PLC0415

    whole, file = torch.nn.Sequential(net, torch.nn.Softmax(dim=1)).train(False), BytesIO()
    with warnings.catch_warnings():
        # The exporter without further packages warns that it is deprecated.
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


def _predict_probabilities(net: Any, rows: Any) -> Any:
    with torch.inference_mode():
        return torch.softmax(net(torch.from_numpy(rows)), dim=1).double().numpy()


def _parse_pixel_lists(part: DataSplit, image: ImageSpec) -> Any:
    """The lists of the image column, flat or nested; the lake stores them as JSON text."""
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
            raise invalid_value_error(part, row, IMAGE_COLUMN, "exceeds a 32-bit float")
        found[row] = picture.reshape(-1)
    return found
