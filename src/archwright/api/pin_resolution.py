"""`resolve`: look up what the pins of a bundle lack, at registries, chart repositories and the hub of models.

Nothing here trusts a name alone: a digest is computed from the bytes that came, or stated by the hub for a large file,
and the loader of weights compares that file again. A pin that cannot be found out stays open, with its reason.
"""

import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, urljoin

import msgspec
import yaml

from archwright import settings
from archwright.api.rendering import BundleProblem, list_pin_problems, read_bundle
from archwright.contract.record import Record, replace
from archwright.deploy.rendering.bundle import PINS, encode_json, read_pins
from archwright.deploy.rendering.components import ChartPin, ImagePin, ModelPin
from archwright.engines.hub import HubClient, HubFile, HubReference, HubRepository
from archwright.engines.model_files import compute_digest
from archwright.errors import MissingError
from archwright.home import write_atomic
from archwright.http_client.registry_client import RegistryClient
from archwright.journal import report_step

# Files that an engine reads beside the weights. Code of a repository is not among them: no engine here runs it.
SMALL_SUFFIXES = (".json", ".jinja", ".model", ".tiktoken", ".txt")
WEIGHTS_INDEX = "model.safetensors.index.json"
SIXTEEN_BITS = ("bf16", "fp16", "")


class PinResolution(Record):
    """`resolved`: pins that have a digest now, by kind and name; `problems`: those that have none, and why."""

    folder: str
    resolved: tuple[str, ...]
    problems: tuple[BundleProblem, ...]


def resolve(folder: str) -> PinResolution:
    """Write the digests that can be found out into pins.json of a bundle; pins that have one stay as they are.

    Raises PlanFileError AW-FILE-13 if the folder is no bundle, AW-FILE-11 for a broken pins.json.
    """
    path = Path(folder)
    read_bundle(path)
    pins = read_pins(path)
    resolver = _PinResolver()
    found = replace(
        pins,
        images={name: resolver.resolve_image(name, pin) for name, pin in pins.images.items()},
        charts={name: resolver.resolve_chart(name, pin) for name, pin in pins.charts.items()},
        models={name: resolver.resolve_model(name, pin) for name, pin in pins.models.items()},
    )
    if found != pins:
        write_atomic(path / PINS, encode_json(msgspec.to_builtins(found)).encode(), mode=0o644)
    return PinResolution(
        folder=folder,
        resolved=tuple(resolver.resolved),
        problems=tuple(_add_reason(problem, resolver.reasons) for problem in list_pin_problems(found)),
    )


def _add_reason(problem: BundleProblem, reasons: dict[str, str]) -> BundleProblem:
    reason = reasons.get(problem.subject, "")
    return replace(problem, problem=f"{problem.problem}: {reason}") if reason else problem


class _PinResolver:
    """Resolves pin after pin. `reasons`: why a pin stays open, by kind and name."""

    def __init__(self) -> None:
        self._registry = RegistryClient()
        self.resolved: list[str] = []
        self.reasons: dict[str, str] = {}

    def resolve_image(self, name: str, pin: ImagePin) -> ImagePin:
        if pin.digest:
            return pin
        with _Attempt(self, f"image {name}"):
            return replace(pin, digest=self._registry.read_image_digest(pin.reference))
        return pin

    def resolve_chart(self, name: str, pin: ChartPin) -> ChartPin:
        if pin.digest:
            return pin
        with _Attempt(self, f"chart {name}"):
            return replace(pin, digest=read_chart_digest(pin.source, self._registry))
        return pin

    def resolve_model(self, name: str, pin: ModelPin) -> ModelPin:
        if pin.files:
            return pin
        with _Attempt(self, f"model {name}"):
            return find_model_files(pin, settings.read_hub_access())
        return pin


class _Attempt:
    """Notes whether a pin was resolved; a digest that cannot be had is a reason, and no end of the command."""

    def __init__(self, resolver: _PinResolver, subject: str) -> None:
        self._resolver = resolver
        self._subject = subject

    def __enter__(self) -> None:
        report_step(f"resolving {self._subject}")

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        if error is None:
            self._resolver.resolved.append(self._subject)
        elif isinstance(error, MissingError):
            self._resolver.reasons[self._subject] = ". ".join(filter(None, (error.message, error.hint)))
        return isinstance(error, MissingError)


def read_chart_digest(source: str, registry: RegistryClient) -> str:
    """Return the digest of what a source names: URL of a manifest, chart of a registry, chart of a repository."""
    address, *chart = source.split()
    if not chart:
        return registry.read_file_digest(address)
    if len(chart) == 1:
        return registry.read_chart_digest(address, chart[0])
    name, version = chart
    folder = f"{address.rstrip('/')}/"
    archive, stated = _find_archive(registry.read_file(f"{folder}index.yaml"), name, version)
    found = registry.read_file_digest(urljoin(folder, archive))
    if stated and found != f"sha256:{stated.removeprefix('sha256:')}":
        raise _refuse(f"the index of {address} states {stated[:80]} for {name} {version}, and its archive has {found}")
    return found


def _find_archive(index: bytes, name: str, version: str) -> tuple[str, str]:
    """Return the URL and the stated digest of a chart's archive from the index of a repository."""
    try:
        versions = yaml.load(index, yaml.CSafeLoader)["entries"][name]
        wanted = next(entry for entry in versions if str(entry["version"]) == version)
        # YAML reads a digest of decimal digits as a number: it is refused below as another digest.
        stated = wanted.get("digest")
        return str(wanted["urls"][0]), "" if stated is None else str(stated)
    except (yaml.YAMLError, KeyError, TypeError, IndexError, StopIteration, RecursionError) as error:
        raise _refuse(f"the index of the repository has no chart {name} {version}") from error


def find_model_files(pin: ModelPin, access: settings.HubAccess) -> ModelPin:
    """Return the pin with the newest commit of its repository, or the stated one, and the SHA-256 of each file.

    Every shard of the weights is listed, or none. Raises MissingError as HubClient does, and AW-GET-14 for a repository
    without the weights of the plan's format.
    """
    if not pin.repository:
        raise _refuse("its repository is not known; write it into pins.json")
    if access.offline:
        raise _refuse("HF_HUB_OFFLINE is set")
    with closing(HubClient(access)) as client, tempfile.TemporaryDirectory() as scratch:
        repository = client.read_repository(HubReference(pin.repository, pin.revision))
        reader = _RepositoryReader(client, repository, Path(scratch))
        files = reader.read_quantised_files(pin) if pin.format.startswith("Q") else reader.read_weight_files(pin)
    made = replace(pin, revision=repository.commit, files=files)
    try:
        return msgspec.convert(msgspec.to_builtins(made), ModelPin)
    except msgspec.ValidationError as error:  # names and digests are the hub's
        raise _refuse(f"{pin.repository} has a file that a list of weights cannot name: {error}") from error


class _RepositoryReader:
    """Reads the digests of one repository. Small files have no SHA-256 at the hub, so they are downloaded."""

    def __init__(self, client: HubClient, repository: HubRepository, scratch: Path) -> None:
        self._client = client
        self._repository = repository
        self._scratch = scratch
        self._files = {file.name: file for file in repository.files}

    def read_quantised_files(self, pin: ModelPin) -> dict[str, str]:
        """Return the GGUF file of a quantisation, or its shards."""
        pattern = re.compile(rf"[.-]{re.escape(pin.format)}(-\d+-of-\d+)?\.gguf", re.IGNORECASE)
        found = [file for file in self._files.values() if pattern.search(file.name)]
        if not found:
            raise _refuse(f"{pin.repository} has no GGUF file of {pin.format}; write a repository that has one")
        return {file.name: self._read_digest(file) for file in found}

    def read_weight_files(self, pin: ModelPin) -> dict[str, str]:
        """Return weights in safetensors with their configuration and tokenizer."""
        weights = list(self._list_weights())
        small = [file for file in self._files.values() if file.name.endswith(SMALL_SUFFIXES)]
        if not weights:
            raise _refuse(f"{pin.repository} has no weights in safetensors")
        is_published = pin.format == pin.stored or pin.is_converted
        if not is_published and pin.format not in SIXTEEN_BITS and not self._is_quantised():
            raise _refuse(f"{pin.repository} has weights of 16 bits, and the plan wants {pin.format}")
        return {file.name: self._read_digest(file) for file in (*weights, *small)}

    def _list_weights(self) -> Iterator[HubFile]:
        """Yield the shards that the index names; without an index, the weights in the top folder."""
        if WEIGHTS_INDEX not in self._files:
            for file in self._files.values():
                if PurePosixPath(file.name).suffix == ".safetensors" and "/" not in file.name:
                    yield file
            return
        shards = self._read_json(WEIGHTS_INDEX).get("weight_map") or {}
        for name in sorted(set(shards.values())):
            if name not in self._files:
                raise _refuse(f"the index of {self._repository.id} names {name}, which is not there")
            yield self._files[name]

    def _is_quantised(self) -> bool:
        return "config.json" in self._files and "quantization_config" in self._read_json("config.json")

    def _read_json(self, name: str) -> dict[str, Any]:
        try:
            found = json.loads(self._download(self._files[name]).read_bytes())
        except (ValueError, RecursionError) as error:
            raise _refuse(f"{name} of {self._repository.id} is no JSON") from error
        return found if isinstance(found, dict) else {}

    def _read_digest(self, file: HubFile) -> str:
        return file.sha256 or compute_digest(self._download(file))

    def _download(self, file: HubFile) -> Path:
        path = self._scratch / quote(file.name, safe="")
        if not path.exists():
            self._client.download(self._repository, file, path)
        return path


def _refuse(reason: str) -> MissingError:
    return MissingError("AW-GET-14", reason)
