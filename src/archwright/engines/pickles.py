"""Pickled weights: refused, because loading a pickle runs the code in it."""

import shlex
from pathlib import Path
from typing import NoReturn

from archwright.errors import ErrorLocation, ModelError

PICKLE_SUFFIXES = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt", ".joblib")


def refuse_pickle(path: Path) -> NoReturn:
    message = f"{path.name} is a pickle: loading a pickle runs the code in it"
    hint = f"convert it if you trust its source: {format_conversion_command(path)}"
    raise ModelError("AW-MOD-01", message, where=ErrorLocation(str(path)), hint=hint)


def format_conversion_command(path: Path) -> str:
    """The command that converts a pickled state dict to safetensors without running its code."""
    load = "torch.load" + f"({str(path)!r}, weights_only=True, map_location='cpu')"
    code = (
        "import torch, safetensors.torch; "
        f"safetensors.torch.save_file({{k: v.contiguous() for k, v in {load}.items()}}, "
        f"{str(path.with_suffix('.safetensors'))!r})"
    )
    # Plain quotes are easier to read; they are safe if the code has no character special to the shell.
    return f"python -c {shlex.quote(code)}" if set('"$`!\\') & set(code) else f'python -c "{code}"'
