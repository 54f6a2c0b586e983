"""An engine someone else runs: any OpenAI-compatible URL. There is nothing to start."""

from __future__ import annotations

from collections.abc import Callable

from archwright.errors import ErrorLocation, UsageError
from archwright.http_client.client import EngineClient
from archwright.settings import read_variable


class ExternalEngine:
    """`url` ends in /v1; `key_env` names the environment variable that holds the key, never the key itself.

    Hosted services have no health page, so by default the list of models answers for their health."""

    def __init__(
        self,
        url: str,
        key_env: str | None = None,
        health_path: str = "/models",
        read: Callable[[str], str | None] = read_variable,
    ) -> None:
        self.address = url
        self.health_path = health_path
        self._key_env = key_env
        self._read = read

    def client(self) -> EngineClient:
        """Raises UsageError AW-USE-12 when the named variable is not set."""
        key = self._read(self._key_env) if self._key_env else None
        if self._key_env and not key:
            hint = f"export {self._key_env}=... with the key of {self.address}"
            message = f"the environment variable {self._key_env} holds no key"
            raise UsageError("AW-USE-12", message, where=ErrorLocation(field=self._key_env), hint=hint)
        return EngineClient(self.address, key)
