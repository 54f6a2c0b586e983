"""Count input that is not text: images by number; other input (audio, documents) has no bound.

Input without a bound, which includes input of provider tools, counts as the whole context.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

_TEXT_KINDS = frozenset({"text", "refusal", "tool_use", "thinking", "redacted_thinking"})
# Tools whose input comes from the caller. The provider decides how much other tools read.
_CLIENT_TOOL_KINDS = frozenset({None, "function", "custom"})


class MultimodalParts(NamedTuple):
    """`data_bytes`: body bytes of images or their URLs. `boundless`: the context is the only bound."""

    images: int = 0
    data_bytes: int = 0
    boundless: bool = False


TEXT_ONLY = MultimodalParts()


def count_parts(fields: Mapping[str, Any]) -> MultimodalParts:
    """Count the parts of a chat or Messages conversation, of which only `messages` must be a list."""
    images, data_bytes, tools = 0, 0, fields.get("tools")
    boundless = type(tools) is list and any(_part_kind(tool) not in _CLIENT_TOOL_KINDS for tool in tools)
    for message in fields["messages"]:
        content = message.get("content") if type(message) is dict else None
        if type(content) is not list:
            continue
        for part in _flatten_parts(content):
            kind = _part_kind(part)
            if kind in ("image_url", "image"):
                images += 1
                data_bytes += _image_bytes(part)
            elif kind not in _TEXT_KINDS:
                boundless = True
    return MultimodalParts(images, data_bytes, boundless) if images or boundless else TEXT_ONLY


def _flatten_parts(content: list[Any]) -> Iterable[Any]:
    """Yield the parts, with the parts of tool results instead of the tool results."""
    for part in content:
        inner = part.get("content", "") if _part_kind(part) == "tool_result" else None
        if type(inner) is list:
            yield from inner
        elif inner is None or type(inner) is not str:
            yield part


def _part_kind(value: object) -> object:
    kind = value.get("type") if isinstance(value, Mapping) else ""
    return kind if kind is None or type(kind) is str else ""


def _image_bytes(part: Mapping[str, Any]) -> int:
    """Return the bytes of an image's data or URL; 0 if it is malformed."""
    source = part.get("image_url") or part.get("source")
    data = source.get("url") or source.get("data") if isinstance(source, Mapping) else None
    return len(data) if type(data) is str else 0
