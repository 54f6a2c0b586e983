"""The output of `serve`, which then waits until the gateway is stopped."""

import sys

import msgspec

from archwright.api.serving import GatewayHandle

# In place of a key that was made before.
_KEY_COMMANDS = "see archwright key list, or make another: archwright key create"
HIDDEN_KEY = f"(shown when it was made; {_KEY_COMMANDS})"


def as_json(result: GatewayHandle) -> int:
    """Print one line, so that a waiting program reads one line."""
    sys.stdout.write(msgspec.json.encode(result.ready).decode() + "\n")
    sys.stdout.flush()
    return result.wait()


def print_serving(result: GatewayHandle) -> int:
    ready = result.ready
    text = f"ready  {ready.url}/v1\nkey  {ready.key or HIDDEN_KEY}\n"
    if ready.admin:
        text += f"admin  {ready.admin}\n"
    sys.stdout.write(text + "Ctrl-C stops the gateway\n")
    sys.stdout.flush()
    return result.wait()
