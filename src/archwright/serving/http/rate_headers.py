"""The rate limits of a caller as response headers, by the names of OpenAI's interface or of Anthropic's.

Design: of several limits (key, user, tenant) the one with the least room counts. The room excludes what running
requests have reserved. "reset" is when the room is whole again: seconds for OpenAI, a time for Anthropic.
"""

import time
from collections.abc import Sequence
from datetime import UTC, datetime

from archwright.policy.usage_limits import AccountCaps, AccountLevel, compute_remaining_rate

Rates = Sequence[tuple[AccountCaps, AccountLevel]]
_PARTS, _RATES = (b"limit", b"remaining", b"reset"), (b"requests", b"tokens")
_OPENAI = [[b"x-ratelimit-%b-%b" % (part, rate) for part in _PARTS] for rate in _RATES]
_ANTHROPIC = [[b"anthropic-ratelimit-%b-%b" % (rate, part) for part in _PARTS] for rate in _RATES]


def build_rate_headers(rates: Rates, *, messages: bool) -> list[tuple[bytes, bytes]]:
    """Return limit, remaining and reset of requests and tokens per minute, as far as they are limited."""
    fields: list[tuple[bytes, bytes]] = []
    for kind, names in enumerate(_ANTHROPIC if messages else _OPENAI):
        left = [compute_remaining_rate(caps[kind], level[kind + 1]) for caps, level in rates if caps[kind] >= 0]
        if left:
            remaining, limit, reset_s = min(left)
            reset = b"%.3fs" % reset_s
            if messages:
                reset = datetime.fromtimestamp(time.time() + reset_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ").encode()
            fields += zip(names, (b"%d" % limit, b"%d" % remaining, reset), strict=True)
    return fields
