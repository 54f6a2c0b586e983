"""The rate limits of a caller as response headers, by the names of OpenAI's interface or of Anthropic's.

Design: of several limits (key, user, tenant) the one with the least room counts. The room excludes what running
requests have reserved. "reset" is when the room is whole again: seconds for OpenAI, a time for Anthropic.
"""

import time
from collections.abc import Sequence
from datetime import UTC, datetime

from archwright.policy.usage_limits import UNITS_PER_REQUEST, AccountCaps, AccountLevel

Rates = Sequence[tuple[AccountCaps, AccountLevel]]
_PARTS, _RATES = (b"limit", b"remaining", b"reset"), (b"requests", b"tokens")
_OPENAI = [[b"x-ratelimit-%b-%b" % (part, rate) for part in _PARTS] for rate in _RATES]
_ANTHROPIC = [[b"anthropic-ratelimit-%b-%b" % (rate, part) for part in _PARTS] for rate in _RATES]


def build_rate_headers(rates: Rates, *, messages: bool) -> list[tuple[bytes, bytes]]:
    """Return limit, remaining and reset of requests and tokens per minute, as far as they are limited."""
    fields: list[tuple[bytes, bytes]] = []
    for kind, names in enumerate(_ANTHROPIC if messages else _OPENAI):
        rate, left = -1, 0  # in the units of the account
        for caps, level in rates:
            other = caps[kind] * UNITS_PER_REQUEST - level[kind + 1]
            if caps[kind] >= 0 and (rate < 0 or other < left):
                rate, left = caps[kind], other
        if rate < 0:
            continue
        reset_s = 60 - left / (rate * 1_000_000) if rate else 0.0
        reset = b"%.3fs" % reset_s
        if messages:
            reset = datetime.fromtimestamp(time.time() + reset_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ").encode()
        remaining = left // UNITS_PER_REQUEST if left > 0 else 0
        fields += ((names[0], b"%d" % rate), (names[1], b"%d" % remaining), (names[2], reset))
    return fields
