"""The typed records of POST /v1/responses. Fields: Open Responses and OpenAI's API reference, November 2026.

Only what a stateless gateway serves: another item, tool or field is rejected by name. `Ignored` fields of earlier
replies come back from clients and have no effect.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, field

from archwright.serving.requests.typed_requests import (
    MAX_MESSAGES,
    MAX_TOOLS,
    JsonObjectFormat,
    Label,
    Metadata,
    ModelRequest,
    Penalty,
    RequestPart,
    Share,
    StreamOptions,
    Temperature,
    TextFormat,
    TokenCount,
)

Ignored = Any


class InputText(RequestPart, tag="input_text", tag_field="type"):
    text: str


class OutputText(RequestPart, tag="output_text", tag_field="type"):
    text: str
    annotations: Ignored = None
    logprobs: Ignored = None


class RefusalText(RequestPart, tag="refusal", tag_field="type"):
    refusal: str


class InputImage(RequestPart, tag="input_image", tag_field="type"):
    image_url: str
    detail: Literal["auto", "low", "high", "original"] | None = None


ContentPart = InputText | OutputText | RefusalText | InputImage


class InputItem(RequestPart, tag_field="type", kw_only=True):
    id: str | None = None
    status: Ignored = None
    caller: Ignored = None


class MessageItem(InputItem, tag="message", kw_only=True):
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[ContentPart]
    phase: Ignored = None


class FunctionCallItem(InputItem, tag="function_call", kw_only=True):
    call_id: str
    name: str
    arguments: str
    namespace: str | None = None


class CustomCallItem(InputItem, tag="custom_tool_call", kw_only=True):
    call_id: str
    name: str
    input: str


class FunctionOutputItem(InputItem, tag="function_call_output", kw_only=True):
    call_id: str
    output: str | list[ContentPart]


class CustomOutputItem(FunctionOutputItem, tag="custom_tool_call_output", kw_only=True):
    pass


class ReasoningItem(InputItem, tag="reasoning", kw_only=True):
    """Reasoning of an earlier reply. `encrypted_content` reaches only engines that speak the interface."""

    summary: list[dict[str, str]] = []
    content: list[dict[str, str]] | None = None
    encrypted_content: str | None = None


AnyItem = MessageItem | FunctionCallItem | CustomCallItem | FunctionOutputItem | CustomOutputItem | ReasoningItem


class ToolPart(RequestPart, tag_field="type", kw_only=True):
    name: str
    allowed_callers: Ignored = None
    defer_loading: Ignored = None


class FunctionTool(ToolPart, tag="function", kw_only=True):
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    output_schema: Ignored = None


class CustomTool(ToolPart, tag="custom", kw_only=True):
    description: str | None = None
    format: dict[str, Any] | None = None


class NamespaceTool(ToolPart, tag="namespace", kw_only=True):
    tools: list[FunctionTool]
    description: str = ""


class NamedFunction(RequestPart, tag="function", tag_field="type"):
    name: str
    namespace: str | None = None


class NamedCustom(RequestPart, tag="custom", tag_field="type"):
    name: str


class AllowedTools(RequestPart, tag="allowed_tools", tag_field="type"):
    mode: Literal["auto", "required"]
    tools: list[NamedFunction | NamedCustom]


class SchemaFormat(RequestPart, tag="json_schema", tag_field="type"):
    name: Label
    schema: dict[str, Any]
    description: Label | None = None
    strict: bool = False


class TextConfig(RequestPart):
    format: TextFormat | JsonObjectFormat | SchemaFormat = field(default_factory=TextFormat)
    verbosity: Label | None = None


class ReasoningConfig(RequestPart):
    """`generate_summary`: the older name of `summary`. A `mode` other than standard has another price."""

    effort: Label | None = None
    summary: Label | None = None
    generate_summary: Label | None = None
    context: Label | None = None
    mode: Literal["standard"] | None = None


class ResponsesRequest(ModelRequest, kw_only=True):
    """POST /v1/responses. A message in `input` may lack its type."""

    input: str | Annotated[list[AnyItem], Meta(min_length=1, max_length=MAX_MESSAGES)]
    instructions: str | None = None
    tools: Annotated[list[FunctionTool | CustomTool | NamespaceTool], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedFunction | NamedCustom | AllowedTools | None = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    reasoning: ReasoningConfig | None = None
    max_output_tokens: TokenCount | None = None
    max_tool_calls: TokenCount | None = None
    temperature: Temperature | None = None
    top_p: Share | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    include: list[Label] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    metadata: Metadata | None = None
    client_metadata: dict[str, Any] | None = None
    user: Label | None = None
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None
    prompt_cache_retention: Label | None = None
    service_tier: Label | None = None
