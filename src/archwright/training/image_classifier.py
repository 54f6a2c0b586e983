"""Image classifier: two convolutions and a linear layer in PyTorch, for small pictures.

A picture is its pixel columns in order (row by row, channels last), or the one column `image` with a list of numbers.
The division by `scale` and the softmax are part of the exported model: who asks it sends raw pixels and gets
probabilities. Adam, cross-entropy over the rows as they come: a rare class is not weighted up, so that probabilities
stay probabilities. A missing pixel is refused, in training and in serving. A step of a crew is the same step as of
one worker up to rounding: gradients are averaged by rows.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec

from archwright.engines.onnx_file import ModelSignature
from archwright.errors import ErrorLocation, TrainError, require_extra
from archwright.home import write_atomic
from archwright.training import classifier_data
from archwright.training.classifier_data import TrainedClassifier
from archwright.training.trainer import StepResult, TrainedArtefact, TrainerSetup
from archwright.training.training_data import DataSplit, TrainingData, feature_columns
from archwright.training.training_spec import ImageSpec, TrainSpec

LEARNING_RATE = 5e-3
CHANNELS = (16, 32)
# Every pixel is a weight of the last layer for each class: beyond this another kind of network is wanted.
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
        self._adam = torch.optim.Adam(
            self._net.parameters(), classifier_data.choose_learning_rate(spec, LEARNING_RATE), foreach=False
        )

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
        classifier_data.write_onnx(folder, export_onnx(self._torch, self._net, self._notes), self._notes)
        return TrainedArtefact(
            format="onnx", file=classifier_data.ONNX_FILE, labels=self._notes.labels, input_shape=self._notes.shape
        )


def load_trained(folder: Path, data: TrainingData, spec: TrainSpec, labels: tuple[str, ...]) -> TrainedClassifier:
    """The network in a run's `result` folder, answering without ONNX."""
    from safetensors.torch import load  # noqa: PLC0415

    torch, image = import_torch(), require_image(spec)
    notes = build_notes(data, spec, select_pixel_columns(data, spec), labels)
    net = build_network(torch, image, len(labels), spec.seed)
    untrained = build_network(torch, image, len(labels), spec.seed)
    net.load_state_dict(load((folder / WEIGHTS_FILE).read_bytes()))
    return TrainedClassifier(
        notes,
        lambda rows: _predict_probabilities(torch, net, rows),
        lambda rows: _predict_probabilities(torch, untrained, rows),
    )


def select_pixel_columns(data: TrainingData, spec: TrainSpec) -> list[str]:
    """The columns that make a picture."""
    table = data.train.table
    if not spec.columns.features and IMAGE_COLUMN in table.column_names:
        return [IMAGE_COLUMN]
    return feature_columns(table, spec)


def build_notes(data: TrainingData, spec: TrainSpec, names: list[str], labels: tuple[str, ...] = ()) -> ModelSignature:
    """Raises TrainError AW-TRN-44 when the columns do not make the spec's picture, or it is too large."""
    image = require_image(spec)
    shape = (image.height, image.width, image.channels)
    size = image.height * image.width * image.channels
    where = ErrorLocation(field="image")
    if size > PIXEL_LIMIT:
        message = f"{size:,} numbers a picture are more than this small network takes ({PIXEL_LIMIT:,})"
        raise TrainError("AW-TRN-44", message, where=where, hint="scale the pictures down before they are ingested")
    named = names != [IMAGE_COLUMN]
    if named and len(names) != size:
        message = f"{data.version.id} has {len(names)} feature columns, a picture of {shape} needs {size}"
        hint = "correct height, width and channels, or name the pixel columns in columns: features"
        raise TrainError("AW-TRN-44", message, where=where, hint=hint)
    return ModelSignature(
        labels=labels or classifier_data.collect_labels(data, spec), shape=shape, features=tuple(names) if named else ()
    )


def build_pixel_matrix(part: DataSplit, names: list[str], data: TrainingData, spec: TrainSpec) -> Any:
    """Raw pixels, a row a picture. Raises TrainError AW-TRN-43 for a pixel that is missing."""
    np, _ = classifier_data.import_libraries()
    rows = (
        classifier_data.build_feature_matrix(part, names, data)
        if names != [IMAGE_COLUMN]
        else _parse_pixel_lists(part, require_image(spec))
    )
    absent = np.argwhere(np.isnan(rows))
    if absent.size:
        row, pixel = (int(place) for place in absent[0])
        raise classifier_data.invalid_value_error(part, row, f"pixel {pixel}", "has no value")
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
    """From rows of raw pixels to scores. Each convolution keeps the size, each pooling halves what can be halved."""
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
    """The network with its softmax as an ONNX model that takes any number of pictures at once."""
    import onnx  # noqa: PLC0415

    whole, file = torch.nn.Sequential(net, torch.nn.Softmax(dim=1)).train(False), BytesIO()
    with warnings.catch_warnings():
        # The exporter that needs no further package announces that it is the older one.
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
    """The lists of the image column, flat or row by row; the lake keeps them as their JSON text."""
    np, _ = classifier_data.import_libraries()
    shape = (image.height, image.width, image.channels)
    allowed = {(image.height * image.width * image.channels,), shape, shape[:2] if image.channels == 1 else shape}
    found = np.empty((len(part.ids), image.height * image.width * image.channels), np.float32)
    for row, text in enumerate(part.table.column(IMAGE_COLUMN).to_pylist()):
        try:
            picture = np.array(msgspec.json.decode(text), np.float64)
        except (msgspec.DecodeError, TypeError, ValueError) as error:
            raise classifier_data.invalid_value_error(part, row, IMAGE_COLUMN, "is not a list of numbers") from error
        if picture.shape not in allowed:
            raise classifier_data.invalid_value_error(
                part, row, IMAGE_COLUMN, f"has the shape {picture.shape}, not {shape}"
            )
        if (np.abs(picture) > classifier_data.FLOAT32_MAX).any():
            raise classifier_data.invalid_value_error(part, row, IMAGE_COLUMN, "is beyond what 32 bits hold")
        found[row] = picture.reshape(-1)
    return found
