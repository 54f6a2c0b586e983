"""What an engine process is told when it starts."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from archwright.contract.record import Record
from archwright.errors import EngineError, ErrorLocation, MissingError
from archwright.home import Home

R = TypeVar("R", bound=Record)


class EngineConfig(Record):
    """One engine process on the home's socket named `socket`; it knows its model as `alias`. `slots` requests run at
    once, each with `context_tokens`; one without `max_tokens` gets `default_max_tokens`, else it would fill the
    context. `adapter_sha256` is a low-rank adapter over the model, `settings` are the engine's own."""

    engine: Literal["llamacpp", "null", "onnx"]
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
    """Raises EngineError AW-ENG-06 when the file is not one of ours."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=EngineConfig)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        hint = "run `archwright up` again: it writes this file anew"
        message = f"the engine's configuration is wrong: {error}"
        raise EngineError("AW-ENG-06", message, where=ErrorLocation(str(path)), hint=hint) from error


def adapter_file(config: EngineConfig, home: Home) -> Path | None:
    """The file of the adapter, None where there is none. Raises MissingError AW-GET-02."""
    if config.adapter_sha256 is None:
        return None
    path = home.model(config.adapter_sha256)
    if not path.is_file():
        hint = "bring it back from a backup of the home, or train the version anew"
        message = f"the file of an adapter over {config.alias} is not here"
        raise MissingError("AW-GET-02", message, where=ErrorLocation(str(path)), hint=hint)
    return path


def adapter_settings(config: EngineConfig, kind: type[R]) -> R:
    """The adapter's own settings, checked; an unknown name or a wrong type is AW-ENG-06."""
    try:
        return msgspec.convert(config.settings, kind)
    except msgspec.ValidationError as error:
        hint = f"known settings: {', '.join(kind.__struct_fields__)}"
        message = f"a setting of the engine {config.engine} is wrong: {error}"
        raise EngineError("AW-ENG-06", message, where=ErrorLocation(field="launch.settings"), hint=hint) from error
