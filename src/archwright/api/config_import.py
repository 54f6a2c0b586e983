"""`import litellm`: a gateway.yaml from LiteLLM's proxy configuration."""

import sys
from pathlib import Path

from archwright.api.list_prices import read_price_list
from archwright.errors import ErrorLocation, UsageError
from archwright.home import write_atomic
from archwright.serving.settings.config import GatewayConfig
from archwright.serving.settings.gateway_file import read_gateway_file
from archwright.serving.settings.litellm_import import LeftOut, import_litellm_config


def import_litellm(config: str, *, output: str = "gateway.yaml") -> tuple[LeftOut, ...]:
    """Write a gateway.yaml; return the fields that were not carried over, by line, with the reason.

    Raises UsageError AW-USE-82 (not LiteLLM's file), AW-USE-83 (no usable model), AW-USE-84 (the output exists).
    """
    path = Path(output)
    if path.exists():
        hint = "choose another file with --output, or delete this file"
        raise UsageError("AW-USE-84", f"{path} exists already", where=ErrorLocation(str(path)), hint=hint)
    text, left_out = import_litellm_config(Path(config), read_price_list)
    write_atomic(path, text.encode(), mode=0o644)
    made = read_gateway_file(path, GatewayConfig(pools=(), endpoints=()), read_price_list)
    sys.stderr.write(f"note: wrote {path} with {len(made.config.endpoints)} models; not carried over:\n")
    return left_out
