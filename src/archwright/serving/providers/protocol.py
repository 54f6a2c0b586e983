"""What a protocol of engines has to say: where its key goes, how a question is put, how its answer is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from archwright.http_client.client import NO_HEADERS, EngineClient, EngineRefused
from archwright.serving.events.engine_events import EventReader


class EngineRequest(msgspec.Struct, frozen=True, gc=False):
    """One question in the engine's language. `reader` None: the answer is OpenAI's own, and `whole` where it is to come
    in one piece instead of as a stream. `headers` are this question's own."""

    path: str
    body: dict[str, Any]
    reader: EventReader | None = None
    whole: bool = False
    headers: Mapping[str, str] = NO_HEADERS


class Provider(Protocol):
    def headers(self, key: str) -> Mapping[str, str]:
        """What carries the key, and whatever else every request needs."""

    def build_request(
        self, path: str, body: dict[str, Any], native: dict[str, Any] | None, *, whole: bool = False, betas: str = ""
    ) -> EngineRequest:
        """`body` is OpenAI's; `native` the client's own where it spoke the Messages interface, `betas` what it wants of
        that beside its version. `whole`: one piece would do. Raises Refusal 400 for what this protocol cannot say."""

    def adapt_request(self, asked: EngineRequest, error: EngineRefused) -> bool:
        """Whether the engine refused how we put the question, and `ask` puts it otherwise from now on."""

    async def count_tokens(
        self, client: EngineClient, body: dict[str, Any], native: dict[str, Any] | None, betas: str = ""
    ) -> int:
        """The tokens of the prompt, by the engine itself. Raises Refusal 400 where it counts none."""
