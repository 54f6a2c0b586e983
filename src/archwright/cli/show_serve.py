"""The output of `serve`, which then waits until the gateway is stopped."""

import sys

import msgspec

from archwright.api.serving import GatewayHandle


def as_json(result: GatewayHandle) -> int:
    """Print one line, so that a waiting program reads one line."""
    sys.stdout.write(msgspec.json.encode(result.ready).decode() + "\n")
    sys.stdout.flush()
    return result.wait()


def print_serving(result: GatewayHandle) -> int:
    ready = result.ready
    key = ready.key or "(shown when it was made; see archwright key list, or make another: archwright key create)"
    admin = f"\nadmin  {ready.admin}" if ready.admin else ""
    sys.stdout.write(f"ready  {ready.url}/v1\nkey  {key}{admin}\nCtrl-C stops the gateway\n")
    sys.stdout.flush()
    return result.wait()
