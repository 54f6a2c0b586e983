"""The base of every record that is read, written or passed between rooms."""

from __future__ import annotations

import msgspec


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Immutable, keyword-only, refuses fields it does not know."""
