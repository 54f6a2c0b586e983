"""The typed records of the Messages endpoints. Fields: API reference, version 2023-06-01.

Every field of every object is known, so nothing else reaches a provider. A chat has no place for cache control and
other hints, which `request_translation` drops.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta

from archwright.serving.requests.typed_requests import (
    MAX_MESSAGES,
    MAX_TOOLS,
    Label,
    ModelRequest,
    RequestPart,
    Share,
    TokenCount,
)


class CacheControl(RequestPart):
    """A mark for the cache of the provider; affects only its charge."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class MessageBlock(RequestPart, tag_field="type", kw_only=True):
    cache_control: CacheControl | None = None


class TextBlock(MessageBlock, tag="text", kw_only=True):
    text: str
    citations: list[dict[str, Any]] | None = None


class Base64Source(RequestPart, tag="base64", tag_field="type"):
    """Data without the characters of a URL, which an engine may fetch."""

    media_type: Annotated[str, Meta(pattern=r"^[a-z0-9.+-]{1,40}/[a-z0-9.+-]{1,100}\Z")]
    data: Annotated[str, Meta(pattern=r"^[A-Za-z0-9+/=\r\n]*\Z")]


class UrlSource(RequestPart, tag="url", tag_field="type"):
    url: str


class TextSource(RequestPart, tag="text", tag_field="type"):
    media_type: str
    data: str


class ContentSource(RequestPart, tag="content", tag_field="type"):
    content: str | list["TextBlock | EnclosedImageBlock"]


class EnclosedImageBlock(MessageBlock, tag="image", kw_only=True):
    """An image in a document, which cannot be a URL: the gateway fetches images of messages and tool results."""

    source: Base64Source


class ImageBlock(MessageBlock, tag="image", kw_only=True):
    source: Base64Source | UrlSource


class CitationsSwitch(RequestPart):
    enabled: bool | None = None


class DocumentBlock(MessageBlock, tag="document", kw_only=True):
    """A document in the request. A provider would fetch an address, and a file by its id may be another caller's."""

    source: Base64Source | TextSource | ContentSource
    title: str | None = None
    context: str | None = None
    citations: CitationsSwitch | None = None


class SearchResultBlock(MessageBlock, tag="search_result", kw_only=True):
    source: str
    title: str
    content: list[TextBlock]
    citations: CitationsSwitch | None = None


class ToolUseBlock(MessageBlock, tag="tool_use", kw_only=True):
    id: str
    name: str
    input: dict[str, Any]
    caller: dict[str, str] | None = None


class ToolResultBlock(MessageBlock, tag="tool_result", kw_only=True):
    tool_use_id: str
    content: str | list[TextBlock | ImageBlock | DocumentBlock | SearchResultBlock] = ""
    is_error: bool | None = None


class ThinkingBlock(MessageBlock, tag="thinking", kw_only=True):
    """Reasoning of an earlier reply; dropped in a chat."""

    thinking: str = ""
    signature: str = ""


class RedactedThinkingBlock(MessageBlock, tag="redacted_thinking", kw_only=True):
    """Reasoning of an earlier reply; dropped in a chat."""

    data: str = ""


ContentBlock = (
    TextBlock
    | ImageBlock
    | DocumentBlock
    | SearchResultBlock
    | ToolUseBlock
    | ToolResultBlock
    | ThinkingBlock
    | RedactedThinkingBlock
)


class InputMessage(RequestPart):
    role: Literal["user", "assistant", "system"]
    content: str | list[ContentBlock]


class ToolDefinition(RequestPart):
    """A tool that the client runs. The fields from `display_width_px` on belong to the provider's client tools."""

    name: str
    input_schema: dict[str, Any] | None = None
    description: str | None = None
    type: str | None = None
    strict: bool | None = None
    cache_control: CacheControl | None = None
    input_examples: list[dict[str, Any]] | None = None
    defer_loading: bool | None = None
    eager_input_streaming: bool | None = None
    display_width_px: int | None = None
    display_height_px: int | None = None
    display_number: int | None = None
    enable_zoom: bool | None = None
    max_characters: int | None = None


class ToolChoice(RequestPart):
    type: str
    name: str = ""
    disable_parallel_tool_use: bool = False


class OutputFormat(RequestPart):
    type: str
    schema: dict[str, Any] | None = None


class OutputConfig(RequestPart):
    effort: Label | None = None
    format: OutputFormat | None = None


class Thinking(RequestPart):
    type: Label
    budget_tokens: TokenCount | None = None
    display: Label | None = None


class CallerMetadata(RequestPart):
    """The caller's own user."""

    user_id: Label | None = None


class ContextEdit(RequestPart):
    type: str
    trigger: dict[str, Any] | None = None
    keep: str | dict[str, Any] | None = None
    clear_at_least: dict[str, Any] | None = None
    exclude_tools: list[str] | None = None
    clear_tool_inputs: bool | list[str] | None = None


class ContextManagement(RequestPart):
    """Edits by which a provider shortens the conversation."""

    edits: list[ContextEdit] = []


class MessagesRequest(ModelRequest, kw_only=True):
    """POST /v1/messages. `output_format`: the older form of `output_config.format`."""

    max_tokens: TokenCount
    messages: Annotated[list[InputMessage], Meta(min_length=1, max_length=MAX_MESSAGES)]
    system: str | list[TextBlock] | None = None
    stop_sequences: list[str] | None = None
    temperature: Share | None = None
    top_p: Share | None = None
    top_k: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    stream: bool | None = None
    metadata: CallerMetadata | None = None
    tools: Annotated[list[ToolDefinition], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None
    context_management: ContextManagement | None = None
    service_tier: Label | None = None
    speed: Label | None = None
    inference_geo: Label | None = None
    cache_control: CacheControl | None = None


class CountTokensRequest(MessagesRequest, kw_only=True):
    """POST /v1/messages/count_tokens: a message that needs no length."""

    max_tokens: TokenCount = 1
