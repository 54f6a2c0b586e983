"""An engine of ours: one child process behind a Unix socket of the home."""

from __future__ import annotations

from archwright.engines.engine_config import EngineConfig
from archwright.home import Home
from archwright.http_client.client import EngineClient


class EmbeddedEngine:
    """The side of the engine process that its users see; `python -m archwright.engines` is the other side."""

    health_path = "/health"

    def __init__(self, home: Home, config: EngineConfig) -> None:
        self.config = config
        self.address = f"unix:{home.socket(config.socket)}"

    def client(self) -> EngineClient:
        return EngineClient(self.address)
