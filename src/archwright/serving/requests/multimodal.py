"""Count input that is not text: images by number; other input (audio, documents) has no bound.

Input without a bound, which includes input of provider tools, counts as the whole context.
Design: an image comes as base64 data. An engine would fetch a URL from the operator's network. The gateway itself
fetches images of allowed hosts (`image_fetch`). The typed records refuse URLs in other parts.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from archwright.policy.image_hosts import ImageUrl, match_image_url
from archwright.serving.http.errors import bad_request, invalid_value

MAX_IMAGE_URLS = 8
_TEXT_KINDS = frozenset({"text", "refusal", "tool_use", "thinking", "redacted_thinking"})
# Tools whose input comes from the caller. The provider decides how much other tools read.
_CLIENT_TOOL_KINDS = frozenset({None, "function", "custom"})
# Kind of an image part -> the field with its data or URL: of a chat, of the Messages interface.
_IMAGE_FIELDS = {"image_url": "image_url", "image": "source"}
_IMAGE_DATA = re.compile("data:image/[a-z0-9.+-]{1,40};base64,[A-Za-z0-9+/=]+")


class ImageReference(NamedTuple):
    """An image that the gateway fetches; `at`: path of the URL in the request, `holder`: the object that holds it."""

    at: str
    url: ImageUrl
    holder: dict[str, Any]

    def insert(self, kind: str, data: str) -> None:
        """Replace the URL by base64 data. Changes the body, whose objects belong to this request alone."""
        if "type" in self.holder:
            self.holder.pop("url", None)
            self.holder.update(type="base64", media_type=kind, data=data)
        else:
            self.holder["url"] = f"data:{kind};base64,{data}"


class MultimodalParts(NamedTuple):
    """`data_bytes`: body bytes of images or their URLs. `boundless`: the context is the only bound."""

    images: int = 0
    data_bytes: int = 0
    boundless: bool = False
    urls: tuple[ImageReference, ...] = ()


TEXT_ONLY = MultimodalParts()


def count_parts(fields: Mapping[str, Any], hosts: Sequence[str] = ()) -> MultimodalParts:
    """Count the parts of a chat or Messages conversation, of which only `messages` must be a list.

    `hosts`: the hosts of images that the gateway fetches. Raises ApiError 400 for every other URL of an image."""
    images, data_bytes, tools, urls = 0, 0, fields.get("tools"), []
    boundless = type(tools) is list and any(_part_kind(tool) not in _CLIENT_TOOL_KINDS for tool in tools)
    for place, part in _find_parts(fields["messages"]):
        kind = _part_kind(part)
        if kind in _IMAGE_FIELDS:
            holder = part.get(_IMAGE_FIELDS[kind])
            images += 1
            data_bytes += _image_bytes(holder)
            if type(holder) is dict and "url" in holder:
                urls += _find_image_url(holder, _format_place(place, kind), hosts)
        elif kind not in _TEXT_KINDS:
            boundless = True
    if len(urls) > MAX_IMAGE_URLS:
        raise invalid_value(f"the request has more than {MAX_IMAGE_URLS} image URLs; send base64 data", urls[-1].at)
    return MultimodalParts(images, data_bytes, boundless, tuple(urls)) if images or boundless else TEXT_ONLY


def _find_parts(messages: Iterable[Any]) -> Iterable[tuple[tuple[int, ...], Any]]:
    """Yield the parts that are no text, and their places; instead of a tool result with parts, its parts."""
    for number, message in enumerate(messages):
        content = message.get("content") if type(message) is dict else None
        for index, part in enumerate(content if type(content) is list else ()):
            kind = part.get("type") if type(part) is dict else None
            if kind == "text":
                continue
            inner = part.get("content", "") if kind == "tool_result" else None
            if type(inner) is list:
                places = ((number, index, nested) for nested in range(len(inner)))
                yield from (found for found in zip(places, inner, strict=True) if _part_kind(found[1]) != "text")
            elif type(inner) is not str:
                yield (number, index), part


def _format_place(place: tuple[int, ...], kind: str) -> str:
    """Return the path of an image's URL in the notation of its interface."""
    message, *inner = place
    if kind == "image":
        return f"messages.{message}" + "".join(f".content.{index}" for index in inner) + ".source.url"
    return f"messages[{message}]" + "".join(f".content[{index}]" for index in inner) + ".image_url.url"


def _find_image_url(holder: dict[str, Any], at: str, hosts: Sequence[str]) -> list[ImageReference]:
    """Return the reference to an image of an allowed host; nothing for data."""
    url, kind = holder["url"], holder.get("type")
    if type(url) is str and kind in (None, "url"):
        if kind is None and _IMAGE_DATA.fullmatch(url):
            return []
        found = match_image_url(url, hosts)
        if found is not None:
            return [ImageReference(at, found, holder)]
    message = f"{at!r}: this URL is not allowed. Send the image as base64 data (data:image/png;base64,...)."
    message += " An operator allows hosts of images with the setting `image_hosts`."
    raise bad_request(message, at, "image_url_not_allowed")


def _part_kind(value: object) -> object:
    kind = value.get("type") if isinstance(value, Mapping) else ""
    return kind if kind is None or type(kind) is str else ""


def _image_bytes(source: object) -> int:
    """Return the bytes of an image's data or URL; 0 if it is malformed."""
    data = source.get("url") or source.get("data") if isinstance(source, Mapping) else None
    return len(data) if type(data) is str else 0
