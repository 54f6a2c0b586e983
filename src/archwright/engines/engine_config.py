"""The configuration file that an engine process reads at its start."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from archwright.contract.record import Record
from archwright.errors import EngineError, ErrorLocation, MissingError
from archwright.home import Home

R = TypeVar("R", bound=Record)


class EngineConfig(Record):
    """One engine process on the home's socket named `socket`; clients name its model `alias`.

    `slots` requests run at once, each with `context_tokens`. A request without `max_tokens` gets `default_max_tokens`,
    since it could fill the context otherwise. `engine` names a module of this package with a function `serve`.
    `adapter_sha256` is a low-rank adapter over the model; `settings` belong to the engine.
    """

    engine: str
    socket: str
    alias: str
    slots: int
    context_tokens: int
    default_max_tokens: int
    model_sha256: str | None = None
    adapter_sha256: str | None = None
    settings: dict[str, int | float | str | bool] = {}

    def __post_init__(self) -> None:
        for name in ("slots", "context_tokens", "default_max_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")


def read_config(path: Path) -> EngineConfig:
    """Raises EngineError AW-ENG-06 if the file is not an engine configuration."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=EngineConfig)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        hint = "run `archwright up` again: it rewrites this file"
        message = f"the configuration of the engine is invalid: {error}"
        raise EngineError("AW-ENG-06", message, where=ErrorLocation(str(path)), hint=hint) from error


def adapter_file(config: EngineConfig, home: Home) -> Path | None:
    """The file of the adapter, None without an adapter. Raises MissingError AW-GET-02."""
    if config.adapter_sha256 is None:
        return None
    return require_file(home.model(config.adapter_sha256), f"an adapter over {config.alias}")


def require_file(path: Path, subject: str) -> Path:
    """Return `path`. Raises MissingError AW-GET-02 if the file of a trained `subject` is missing."""
    if not path.is_file():
        hint = "copy the file from a restored backup: archwright restore --into DIR; or train the version again"
        raise MissingError("AW-GET-02", f"the file of {subject} is missing", where=ErrorLocation(str(path)), hint=hint)
    return path


def find_model_files(config: Mapping[str, object], home: Home) -> list[Path]:
    """The files in the home of the model and the adapter that a configuration names, even if they are missing."""
    form = "onnx" if config.get("engine") == "onnx" else "gguf"
    files: list[Path] = []
    for digest in filter(None, map(config.get, ("model_sha256", "adapter_sha256"))):
        inside = (path for path in home.model_folder(str(digest)).rglob("*") if path.is_file())
        files += sorted(inside) or [home.model(str(digest), form)]
    return files


def require_digest(config: EngineConfig) -> str:
    """The digest of the model file. Raises EngineError AW-ENG-06 if the configuration names no file."""
    if config.model_sha256 is None:
        hint = "run `archwright up` again: it rewrites the configuration"
        message = f"the configuration names no model file, and the engine {config.engine} needs one"
        raise EngineError("AW-ENG-06", message, where=ErrorLocation(field="model_sha256"), hint=hint)
    return config.model_sha256


def adapter_settings(config: EngineConfig, kind: type[R]) -> R:
    """The validated settings of an engine. Raises EngineError AW-ENG-06 for a wrong name or value."""
    try:
        return msgspec.convert(config.settings, kind)
    except msgspec.ValidationError as error:
        hint = f"use only these settings: {', '.join(kind.__struct_fields__)}"
        message = f"a setting of the engine {config.engine} is invalid: {error}"
        raise EngineError("AW-ENG-06", message, where=ErrorLocation(field="launch.settings"), hint=hint) from error
