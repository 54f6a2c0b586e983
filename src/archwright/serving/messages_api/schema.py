"""The Messages request fields that a chat can express.

Other fields of a block (cache control, hints) are ignored.
"""

from typing import Any

import msgspec


class TextBlock(msgspec.Struct, tag="text", tag_field="type"):
    text: str


class Base64Source(msgspec.Struct, tag="base64", tag_field="type"):
    media_type: str
    data: str


class UrlSource(msgspec.Struct, tag="url", tag_field="type"):
    url: str


class ImageBlock(msgspec.Struct, tag="image", tag_field="type"):
    source: Base64Source | UrlSource


class ToolUseBlock(msgspec.Struct, tag="tool_use", tag_field="type"):
    id: str
    name: str
    input: dict[str, Any]


class ToolResultBlock(msgspec.Struct, tag="tool_result", tag_field="type"):
    tool_use_id: str
    content: str | list[TextBlock | ImageBlock] = ""


class ThinkingBlock(msgspec.Struct, tag="thinking", tag_field="type"):
    """Reasoning of an earlier reply; dropped in a chat."""


class RedactedThinkingBlock(msgspec.Struct, tag="redacted_thinking", tag_field="type"):
    """Reasoning of an earlier reply; dropped in a chat."""


ContentBlock = TextBlock | ImageBlock | ToolUseBlock | ToolResultBlock | ThinkingBlock | RedactedThinkingBlock


class InputMessage(msgspec.Struct):
    role: str
    content: str | list[ContentBlock]


class ToolDefinition(msgspec.Struct):
    name: str
    input_schema: dict[str, Any] | None = None
    description: str | None = None
    type: str | None = None
    strict: bool | None = None


class ToolChoice(msgspec.Struct):
    type: str
    name: str = ""
    disable_parallel_tool_use: bool = False


class OutputConfig(msgspec.Struct):
    effort: str | None = None
    format: dict[str, Any] | None = None


class ContextEdit(msgspec.Struct):
    type: str


class ContextManagement(msgspec.Struct):
    """Edits by which a provider shortens the conversation."""

    edits: list[ContextEdit] = []


class MessagesRequest(msgspec.Struct):
    """A request without its model. `output_format`: the older form of `output_config.format`."""

    max_tokens: int
    messages: list[InputMessage]
    system: str | list[TextBlock] | None = None
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stream: bool | None = None
    metadata: dict[str, Any] | None = None
    tools: list[ToolDefinition] | None = None
    tool_choice: ToolChoice | None = None
    thinking: dict[str, Any] | None = None
    output_config: OutputConfig | None = None
    output_format: dict[str, Any] | None = None
    context_management: ContextManagement | None = None
    service_tier: str | None = None
    cache_control: Any = None
