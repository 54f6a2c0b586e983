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

from archwright.engines.onnx_file import Notes
from archwright.errors import ErrorLocation, TrainError, require_extra
from archwright.home import write_atomic
from archwright.training import classifier_data
from archwright.training.classifier_data import Trained
from archwright.training.trainer import Result, Setup, StepResult
from archwright.training.training_data import Part, TrainingData, features
from archwright.training.training_spec import Image, TrainSpec

LEARNING_RATE = 5e-3
CHANNELS = (16, 32)
# Every pixel is a weight of the last layer for each class: beyond this another kind of network is wanted.
PIXEL_LIMIT = 128 * 128 * 4
WEIGHTS_FILE = "model.safetensors"
IMAGE_COLUMN = "image"
OPSET = 17


def make(setup: Setup) -> Trainer:
    return Trainer(setup)


class Trainer:
    def __init__(self, setup: Setup) -> None:
        self._torch = torch = library()
        torch.set_num_threads(setup.threads)
        spec, data = setup.spec, setup.data
        self._crew = setup.crew
        names = pixels_of(data, spec)
        self._notes = notes_of(data, spec, names)
        self._rows = torch.from_numpy(pictures(data.train, names, data, spec))
        self._truth = torch.from_numpy(classifier_data.truth(data.train, data, spec, self._notes.labels))
        self._rows_per_step = spec.rows_per_step
        self._image = image_of(spec)
        self._net = network(torch, self._image, len(self._notes.labels), spec.seed)
        self._adam = torch.optim.Adam(self._net.parameters(), classifier_data.rate(spec, LEARNING_RATE), foreach=False)

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

    def save(self, folder: Path) -> Result:
        from safetensors.torch import save  # noqa: PLC0415

        write_atomic(folder / WEIGHTS_FILE, save(self._net.state_dict()))
        classifier_data.write_onnx(folder, exported(self._torch, self._net, self._notes), self._notes)
        return Result(
            format="onnx", file=classifier_data.ONNX_FILE, labels=self._notes.labels, input_shape=self._notes.shape
        )


def trained(folder: Path, data: TrainingData, spec: TrainSpec, labels: tuple[str, ...]) -> Trained:
    """The network in a run's `result` folder, answering without ONNX."""
    from safetensors.torch import load  # noqa: PLC0415

    torch, image = library(), image_of(spec)
    notes = notes_of(data, spec, pixels_of(data, spec), labels)
    net = network(torch, image, len(labels), spec.seed)
    untrained = network(torch, image, len(labels), spec.seed)
    net.load_state_dict(load((folder / WEIGHTS_FILE).read_bytes()))
    return Trained(notes, lambda rows: _answers(torch, net, rows), lambda rows: _answers(torch, untrained, rows))


def pixels_of(data: TrainingData, spec: TrainSpec) -> list[str]:
    """The columns that make a picture."""
    table = data.train.table
    if not spec.columns.features and IMAGE_COLUMN in table.column_names:
        return [IMAGE_COLUMN]
    return features(table, spec)


def notes_of(data: TrainingData, spec: TrainSpec, names: list[str], labels: tuple[str, ...] = ()) -> Notes:
    """Raises TrainError AW-TRN-44 when the columns do not make the spec's picture, or it is too large."""
    image = image_of(spec)
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
    return Notes(
        labels=labels or classifier_data.classes(data, spec), shape=shape, features=tuple(names) if named else ()
    )


def pictures(part: Part, names: list[str], data: TrainingData, spec: TrainSpec) -> Any:
    """Raw pixels, a row a picture. Raises TrainError AW-TRN-43 for a pixel that is missing."""
    np, _ = classifier_data.libraries()
    rows = classifier_data.matrix(part, names, data) if names != [IMAGE_COLUMN] else _lists(part, image_of(spec))
    absent = np.argwhere(np.isnan(rows))
    if absent.size:
        row, pixel = (int(place) for place in absent[0])
        raise classifier_data.not_a_number(part, row, f"pixel {pixel}", "has no value")
    return rows


def image_of(spec: TrainSpec) -> Image:
    if spec.image is None:
        raise TrainError("AW-TRN-02", "a picture's shape is missing", where=ErrorLocation(field="image"))
    return spec.image


def library() -> Any:
    with require_extra("train", "training an image classifier"):
        import torch  # noqa: PLC0415
    return torch


def network(torch: Any, image: Image, labels: int, seed: int) -> Any:
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
    return _with_pictures(torch, image, body)


def _with_pictures(torch: Any, image: Image, body: Any) -> Any:
    class Net(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.body = body

        def forward(self, rows: Any) -> Any:
            shaped = rows.reshape(-1, image.height, image.width, image.channels) / image.scale
            return self.body(shaped.permute(0, 3, 1, 2))

    return Net()


def exported(torch: Any, net: Any, notes: Notes) -> Any:
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


def _answers(torch: Any, net: Any, rows: Any) -> Any:
    with torch.inference_mode():
        return torch.softmax(net(torch.from_numpy(rows)), dim=1).double().numpy()


def _lists(part: Part, image: Image) -> Any:
    """The lists of the image column, flat or row by row; the lake keeps them as their JSON text."""
    np, _ = classifier_data.libraries()
    shape = (image.height, image.width, image.channels)
    allowed = {(image.height * image.width * image.channels,), shape, shape[:2] if image.channels == 1 else shape}
    found = np.empty((len(part.ids), image.height * image.width * image.channels), np.float32)
    for row, text in enumerate(part.table.column(IMAGE_COLUMN).to_pylist()):
        try:
            picture = np.array(msgspec.json.decode(text), np.float64)
        except (msgspec.DecodeError, TypeError, ValueError) as error:
            raise classifier_data.not_a_number(part, row, IMAGE_COLUMN, "is not a list of numbers") from error
        if picture.shape not in allowed:
            raise classifier_data.not_a_number(part, row, IMAGE_COLUMN, f"has the shape {picture.shape}, not {shape}")
        if (np.abs(picture) > classifier_data.LARGEST).any():
            raise classifier_data.not_a_number(part, row, IMAGE_COLUMN, "is beyond what 32 bits hold")
        found[row] = picture.reshape(-1)
    return found
