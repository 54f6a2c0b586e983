"""Answers of a paged interface in one file: one page, a JSON list of pages, or page after page as they were saved."""

from __future__ import annotations

from typing import TypeVar

import msgspec

T = TypeVar("T")


def decode_pages(data: bytes, page: type[T]) -> list[T]:
    """Raises ValueError for what is no page."""
    text = data.strip()
    if text.startswith(b"["):
        return msgspec.json.decode(text, type=list[page])  # type: ignore[valid-type]
    try:
        return [msgspec.json.decode(text, type=page)]
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        # A line each.
        return [
            msgspec.json.decode(line, type=page) for line in text.splitlines() if line.strip()
        ] or _refuse_empty_file()


def _refuse_empty_file() -> list[T]:
    raise ValueError("an empty file")
