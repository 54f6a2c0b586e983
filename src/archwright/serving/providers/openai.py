"""Provider for OpenAI's API.

A request of the Responses interface is passed on to an engine that speaks it. The reply length of a chat is sent as
`max_tokens`, or as `max_completion_tokens` once the engine has requested that field.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from archwright.http_client.client import EngineClient, EngineRefused
from archwright.serving.events import tool_call_emulation
from archwright.serving.http.engine_refusals import parse_length_refusal
from archwright.serving.providers.protocol import CHAT_PATH, Body, EngineRequest
from archwright.serving.providers.responses_reader import PATH as RESPONSES_PATH
from archwright.serving.providers.responses_reader import ResponsesEventReader
from archwright.serving.settings.config import ToolSide

# The template already contains the special tokens, so they are parsed and none is added.
TOKENIZE_OPTIONS = {"add_special": False, "parse_special": True}
TEMPLATE_PATH, TOKENIZE_PATH = "/apply-template", "/tokenize"
PROMPT_FIELDS = ("model", "messages", "tools", "chat_template_kwargs")
ABSENT_STATUSES = frozenset(map(HTTPStatus, (403, 404, 405, 422, 501)))
MAX_TOKENS_FIELD, MAX_COMPLETION_TOKENS_FIELD = "max_tokens", "max_completion_tokens"
STREAM_FIELDS = {"stream": True, "stream_options": {"include_usage": True}}


class OpenAIProvider:
    def __init__(self, tool_side: ToolSide, key_header: str = "authorization") -> None:
        self._tool_side = tool_side
        self._key_header = key_header
        self._length = MAX_TOKENS_FIELD
        self._count_paths: tuple[str, ...] = (TEMPLATE_PATH, TOKENIZE_PATH)

    def headers(self, key: str) -> Mapping[str, str]:
        if not key:
            return {}
        return {"Authorization": f"Bearer {key}"} if self._key_header == "authorization" else {self._key_header: key}

    def build_request(
        self, path: str, body: Body, native: Body | None, *, whole: bool = False, betas: str = ""
    ) -> EngineRequest:
        del betas  # only for the Messages API
        if native is not None:
            sent = {**native, "model": body["model"], "max_output_tokens": body["max_tokens"]}
            return EngineRequest(RESPONSES_PATH, {**sent, "stream": True, "store": False}, ResponsesEventReader())
        if self._length != MAX_TOKENS_FIELD and MAX_TOKENS_FIELD in body and path == CHAT_PATH:
            body = {**body, self._length: body[MAX_TOKENS_FIELD]}
            del body[MAX_TOKENS_FIELD]
        if self._leaves_tools_to_engine(body):
            return EngineRequest(path, body, None, True) if whole else EngineRequest(path, {**body, **STREAM_FIELDS})
        emulated, reader = tool_call_emulation.emulate_tools(body)
        return EngineRequest(path, {**emulated, **STREAM_FIELDS}, reader)

    def _leaves_tools_to_engine(self, body: Body) -> bool:
        if self._tool_side == "engine" or not tool_call_emulation.involves_tools(body):
            return True
        return self._tool_side == "template" and tool_call_emulation.leaves_the_choice(body)

    def adapt_request(self, request: EngineRequest, error: EngineRefused) -> bool:
        if error.status != HTTPStatus.BAD_REQUEST or MAX_TOKENS_FIELD not in request.body or request.path != CHAT_PATH:
            return False
        detail = error.body.get("error")
        if not isinstance(detail, dict) or MAX_COMPLETION_TOKENS_FIELD not in str(detail.get("message")):
            return False
        if parse_length_refusal(error):  # some engines name both fields if the length is too large
            return False
        self._length = MAX_COMPLETION_TOKENS_FIELD
        return True

    async def count_tokens(self, client: EngineClient, body: Body, native: Body | None, betas: str = "") -> int | None:
        """Count with the template and tokenizer of llama.cpp, else with a tokenizer of messages; others have none."""
        built = self.build_request(CHAT_PATH, body, native, betas=betas).body
        given: dict[str, Any] = {name: built[name] for name in PROMPT_FIELDS if name in built}
        while self._count_paths:
            path = self._count_paths[0]
            try:
                if path == TEMPLATE_PATH:
                    prompt = (await client.post(path, given)).get("prompt")
                    given = {"content": prompt, **TOKENIZE_OPTIONS}
                tokens = (await client.post(TOKENIZE_PATH, given)).get("tokens")
                return len(tokens) if type(tokens) is list else None
            except EngineRefused as error:
                if error.status not in ABSENT_STATUSES:
                    raise
                self._count_paths = tuple(other for other in self._count_paths if other != path)
        return None
