"""Interface of an engine protocol: headers, requests and readers of replies."""

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from archwright.http_client.client import NO_HEADERS, EngineClient, EngineRefused
from archwright.serving.events.engine_events import EventReader

CHAT_PATH = "/chat/completions"
Body = dict[str, Any]


class EngineRequest(msgspec.Struct, frozen=True, gc=False):
    """One request in the engine's protocol. `headers`: additional headers.

    `reader` None: the reply is in OpenAI's format, a complete object if `whole`, else a stream."""

    path: str
    body: dict[str, Any]
    reader: EventReader | None = None
    whole: bool = False
    headers: Mapping[str, str] = NO_HEADERS


class Provider(Protocol):
    def headers(self, key: str) -> Mapping[str, str]:
        """Return the headers of every request, which include the key."""

    def build_request(
        self, path: str, body: Body, native: Body | None, *, whole: bool = False, betas: str = ""
    ) -> EngineRequest:
        """Translate a request. Raises ApiError 400 for a field that this protocol cannot express.

        `body`: OpenAI's fields. `native`, `betas`: body and header of a Messages client. `whole`: the reply need not
        be a stream."""

    def adapt_request(self, request: EngineRequest, error: EngineRefused) -> bool:
        """True if the engine refused the request's form and `build_request` uses another form from now on."""
        return False

    async def count_tokens(self, client: EngineClient, body: Body, native: Body | None, betas: str = "") -> int | None:
        """Return the engine's count of the prompt's tokens; None if the engine cannot count."""
