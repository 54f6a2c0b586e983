"""Translate requests of the Responses interface to chats for any model (`responses_writer` writes the reply).

Every request becomes a chat, whose checks hold for it. If all engines of the endpoint speak the interface themselves,
they get the validated body; the chat then only bounds its cost. Items of one reply (reasoning, message, calls) become
one assistant message.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from archwright.contract.record import replace
from archwright.serving.events.responses_writer import ResponsesOptions
from archwright.serving.http.errors import ApiError, unsupported_value
from archwright.serving.requests.field_selection import select_fields
from archwright.serving.requests.model_resolution import ModelDirectory
from archwright.serving.requests.request_validation import GenerationRequest, build_chat
from archwright.serving.requests.typed_requests import ChatRequest, JsonObjectFormat, ModelRequest, check_types
from archwright.serving.responses_api import schema
from archwright.serving.settings.engine_fields import RESPONSES, FieldRule

# The fields of a response that repeat the request, with their values if the client leaves them to the gateway or the
# engine (temperature and top_p: OpenAI's defaults). The fields up to `tool_usage` are always empty here.
SHOWN_FIELDS: dict[str, Any] = {
    **dict.fromkeys(("access_programs", "conversation", "image", "input_transformations", "moderation", "prompt")),
    **dict.fromkeys(("previous_response_id", "prompt_cache_diagnostics", "prompt_cache_options", "tool_usage")),
    **dict.fromkeys(("instructions", "max_tool_calls", "prompt_cache_key", "prompt_cache_retention")),
    **dict.fromkeys(("safety_identifier", "user")),
    **{"background": False, "frequency_penalty": 0, "metadata": {}, "parallel_tool_calls": True},
    **{"presence_penalty": 0, "temperature": 1, "tool_choice": "auto", "top_logprobs": 0, "top_p": 1},
}
# The search tool as Codex always sends it. It is left out, because a model works without it and Codex has no retry.
CODEX_SEARCHES = [{"type": "web_search", "external_web_access": access} for access in (False, True)]
LOGPROBS = "message.output_text.logprobs"
_SAME_IN_CHAT = (
    *("temperature", "top_p", "presence_penalty", "frequency_penalty", "user", "safety_identifier"),
    *("prompt_cache_key", "prompt_cache_retention", "service_tier", "parallel_tool_calls", "stream"),
)
# Fields of a chat in the errors of its checks -> the fields of this interface.
_NAMES = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "response_format.json_schema": "text.format",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
}
_CHAT_NAME = re.compile(rf"(?<![\w.])(?:messages\[(\d+)\]|{'|'.join(map(re.escape, _NAMES))})(?!\w)")
_KIND = re.compile(r"(?:input|tools)\[\d+\]\.type")


def translate_request(
    body: Mapping[str, Any], directory: ModelDirectory, workload: str | None
) -> tuple[GenerationRequest, ResponsesOptions]:
    """Validate a request for the endpoint that it names; return it as a chat. Raises ApiError."""
    found = directory.resolve(check_types(body, ModelRequest).model, workload)
    endpoint = found.endpoints[0]
    fields = select_fields(body, endpoint, RESPONSES)
    request = _read_request(fields, body)
    history = _ChatHistory(request)
    chat = {name: value for name, value in fields.items() if name not in schema.ResponsesRequest.__struct_fields__}
    chat |= {"model": request.model, "messages": history.messages, **_translate_options(request)}
    text, asked = request.text or schema.TextConfig(), request.reasoning or schema.ReasoningConfig()
    hints, rules = {"verbosity": text.verbosity, "reasoning_effort": asked.effort}, endpoint.rules["chat"].fields
    chat |= {name: value for name, value in hints.items() if rules.get(name, FieldRule("never")).handling == "pass"}
    tools, namespaces = _translate_tools(request.tools or ())
    chat |= _translate_choice(request, tools)
    try:
        generation = build_chat(check_types(chat, ChatRequest), chat, found)
    except ApiError as error:
        raise history.rename_fields(error) from None
    if endpoint.responses and not generation.parts.urls:  # images that the gateway fetches are inserted in the chat
        native = dict(fields)
        if type(fields["input"]) is list:  # the ids are the gateway's own
            native["input"] = [{key: value for key, value in item.items() if key != "id"} for item in fields["input"]]
        generation = replace(generation, native=native)
    summary = asked.summary or asked.generate_summary
    effort = asked.effort if generation.native else generation.body.get("reasoning_effort")
    shown = {
        **SHOWN_FIELDS,
        **{name: value for name, value in fields.items() if name in SHOWN_FIELDS},
        "max_output_tokens": generation.max_tokens,
        "model": generation.model,
        "reasoning": {"effort": effort, "summary": summary},
        "service_tier": "default" if request.service_tier in (None, "auto") else request.service_tier,
        "store": False,
        "text": {**msgspec.to_builtins(text), "verbosity": text.verbosity or "medium"},
        "tools": msgspec.to_builtins(request.tools or []),
        "truncation": "disabled",
    }
    return generation, ResponsesOptions(shown, namespaces, summary is not None, generation.top_logprobs)


def _read_request(fields: dict[str, Any], body: Mapping[str, Any]) -> schema.ResponsesRequest:
    """Return the record; in `fields`, name the type of each message and leave out the search of Codex."""
    if type(fields.get("input")) is list:
        fields["input"] = [{"type": "message", **item} if type(item) is dict else item for item in fields["input"]]
    if type(fields.get("tools")) is list:
        fields["tools"] = [tool for tool in fields["tools"] if tool not in CODEX_SEARCHES]
        if not fields["tools"]:
            del fields["tools"]
            if fields.get("tool_choice") == "auto":
                del fields["tool_choice"]
    try:
        return check_types({**body, "tools": None, "tool_choice": None, **fields}, schema.ResponsesRequest)
    except ApiError as error:
        if _KIND.fullmatch(error.param or ""):
            reason = f"{error.message} is not supported; the gateway keeps no responses and runs no tools"
            raise unsupported_value(reason, str(error.param)) from None
        raise


class _ChatHistory:
    """The messages of a chat, and for each the place in the request of the item that it begins with."""

    def __init__(self, request: schema.ResponsesRequest) -> None:
        self.messages: list[dict[str, Any]] = []
        self._places: list[str] = []
        self._reply: dict[str, Any] | None = None  # the assistant message that more items may join
        if request.instructions:
            self._add({"role": "system", "content": request.instructions}, "instructions")
        given = request.input
        items = [schema.MessageItem(role="user", content=given)] if isinstance(given, str) else given
        for number, item in enumerate(items):
            self._add_item(item, f"input[{number}]")
        for message in self.messages:
            if message["content"] is None and not {"tool_calls", "refusal"} & message.keys():
                message["content"] = ""  # reasoning alone

    def rename_fields(self, error: ApiError) -> ApiError:
        """Return the error of a chat's check with the names of this interface."""

        def rename(match: re.Match[str]) -> str:
            return _NAMES[match[0]] if match[1] is None else self._places[int(match[1])]

        message, param = (_CHAT_NAME.sub(rename, text or "") for text in (error.message, error.param))
        return ApiError(error.status, message, error.openai_code, param=param or None)

    def _add(self, message: dict[str, Any], at: str) -> None:
        self._reply = None
        self.messages.append(message)
        self._places.append(at)

    def _add_item(self, item: schema.AnyItem, at: str) -> None:
        if isinstance(item, schema.MessageItem) and item.role != "assistant":
            self._add({"role": item.role, "content": _translate_content(item.content)}, at)
        elif isinstance(item, schema.MessageItem):
            self._add_reply(_translate_content(item.content), at)
        elif isinstance(item, schema.FunctionOutputItem):
            content = _translate_content(item.output)
            self._add({"role": "tool", "tool_call_id": item.call_id, "content": content}, at)
        elif isinstance(item, schema.ReasoningItem):
            texts = [part.get("text", "") for part in item.content or item.summary]
            if texts:
                reply = self._open_reply(at)
                reply["reasoning_content"] = "\n\n".join(filter(None, (reply.get("reasoning_content"), *texts)))
        elif isinstance(item, schema.CustomCallItem):
            call = {"id": item.call_id, "type": "custom", "custom": {"name": item.name, "input": item.input}}
            self._open_reply(at).setdefault("tool_calls", []).append(call)
        else:
            function = {"name": join_namespace(item.namespace, item.name), "arguments": item.arguments}
            call = {"id": item.call_id, "type": "function", "function": function}
            self._open_reply(at).setdefault("tool_calls", []).append(call)

    def _open_reply(self, at: str) -> dict[str, Any]:
        if self._reply is None:
            reply: dict[str, Any] = {"role": "assistant", "content": None}
            self._add(reply, at)
            self._reply = reply
        return self._reply

    def _add_reply(self, content: str | list[dict[str, Any]], at: str) -> None:
        """Add an assistant's message to the calls before it, else as a message that calls may follow."""
        reply = self._reply
        if reply is not None and reply["content"] is not None and "tool_calls" not in reply:
            self._reply = None
        reply, parts = self._open_reply(at), _list_parts(content)
        if parts and all(part["type"] == "refusal" for part in parts):
            reply["refusal"] = "".join(part["refusal"] for part in parts)
        else:
            reply["content"] = content if reply["content"] is None else [*_list_parts(reply["content"]), *parts]


def _list_parts(content: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return content


def _translate_content(content: str | list[schema.ContentPart]) -> str | list[dict[str, Any]]:
    return content if isinstance(content, str) else [_translate_part(part) for part in content] or ""


def _translate_part(part: schema.ContentPart) -> dict[str, Any]:
    if isinstance(part, schema.InputImage):
        detail = {} if part.detail is None else {"detail": "high" if part.detail == "original" else part.detail}
        return {"type": "image_url", "image_url": {"url": part.image_url, **detail}}
    if isinstance(part, schema.RefusalText):
        return {"type": "refusal", "refusal": part.refusal}
    return {"type": "text", "text": part.text}


def join_namespace(namespace: str | None, name: str) -> str:
    return f"{namespace}__{name}" if namespace else name


def _translate_tools(
    tools: Iterable[schema.FunctionTool | schema.CustomTool | schema.NamespaceTool],
) -> tuple[list[dict[str, Any]], dict[str, tuple[str, str]]]:
    """Return the tools of the chat and the namespaces of its functions."""
    translated: list[dict[str, Any]] = []
    namespaces: dict[str, tuple[str, str]] = {}
    for tool in tools:
        if isinstance(tool, schema.CustomTool):
            form = tool.format
            if form is not None and form.get("type") == "grammar":  # an object of its own in a chat
                form = {"type": "grammar", "grammar": {key: value for key, value in form.items() if key != "type"}}
            custom = {"name": tool.name, "description": tool.description, "format": form}
            translated.append({"type": "custom", "custom": {key: value for key, value in custom.items() if value}})
            continue
        space = tool.name if isinstance(tool, schema.NamespaceTool) else None
        for inner in tool.tools if isinstance(tool, schema.NamespaceTool) else [tool]:
            named = {"name": join_namespace(space, inner.name), "description": inner.description}
            function = {**named, "parameters": inner.parameters, "strict": inner.strict}
            translated.append({"type": "function", "function": function})
            if space is not None:
                namespaces[join_namespace(space, inner.name)] = space, inner.name
    return translated, namespaces


def _translate_choice(request: schema.ResponsesRequest, tools: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the tools and the choice of a tool. If the choice allows only some tools, only these are sent."""
    choice: Any = request.tool_choice
    if isinstance(choice, schema.AllowedTools):
        names = {join_namespace(getattr(tool, "namespace", None), tool.name) for tool in choice.tools}
        tools, choice = [tool for tool in tools if tool[tool["type"]]["name"] in names], choice.mode
    elif isinstance(choice, schema.NamedFunction):
        choice = {"type": "function", "function": {"name": join_namespace(choice.namespace, choice.name)}}
    elif isinstance(choice, schema.NamedCustom):
        choice = {"type": "custom", "custom": {"name": choice.name}}
    return {"tools": tools or None, "tool_choice": None if choice == "auto" and not tools else choice}


def _translate_options(request: schema.ResponsesRequest) -> dict[str, Any]:
    chat: dict[str, Any] = {name: getattr(request, name) for name in _SAME_IN_CHAT}
    chat["max_tokens"] = request.max_output_tokens
    form = request.text.format if request.text else None
    if isinstance(form, schema.SchemaFormat):
        named = {name: value for name, value in msgspec.structs.asdict(form).items() if value is not None}
        chat["response_format"] = {"type": "json_schema", "json_schema": named}
    elif isinstance(form, JsonObjectFormat):
        chat["response_format"] = {"type": "json_object"}
    if request.top_logprobs or LOGPROBS in (request.include or ()):
        chat |= {"logprobs": True, "top_logprobs": request.top_logprobs or 0}
    return chat
