"""The interface of a protocol of engines: headers, requests, and how an answer is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from archwright.http_client.client import NO_HEADERS, EngineClient, EngineRefused
from archwright.serving.events.engine_events import EventReader


class EngineRequest(msgspec.Struct, frozen=True, gc=False):
    """One request in the engine's protocol. `reader` None: the answer is OpenAI's, in one piece if `whole`, else a
    stream. `headers` are additional ones."""

    path: str
    body: dict[str, Any]
    reader: EventReader | None = None
    whole: bool = False
    headers: Mapping[str, str] = NO_HEADERS


class Provider(Protocol):
    def headers(self, key: str) -> Mapping[str, str]:
        """The headers of every request, with the key."""

    def build_request(
        self, path: str, body: dict[str, Any], native: dict[str, Any] | None, *, whole: bool = False, betas: str = ""
    ) -> EngineRequest:
        """`body` is OpenAI's; `native` and `betas` are the client's body and header of the Messages interface. `whole`:
        the answer may come in one piece. Raises ApiError 400 for what this protocol cannot express."""

    def adapt_request(self, asked: EngineRequest, error: EngineRefused) -> bool:
        """True if the engine refused the form of the request and `build_request` uses another one from now on."""

    async def count_tokens(
        self, client: EngineClient, body: dict[str, Any], native: dict[str, Any] | None, betas: str = ""
    ) -> int:
        """The engine's count of the prompt's tokens. Raises ApiError 400 if it cannot count."""
