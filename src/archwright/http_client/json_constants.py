"""NaN and Infinity in JSON: the format has neither, and some servers write them as numbers."""

import re

# OpenAI's log probability of a token that is very unlikely.
LEAST_LOG_PROBABILITY = b"-9999.0"
_STRING_OR_CONSTANT = re.compile(rb'"(?:[^"\\]++|\\.)*+"|-Infinity|Infinity|NaN', re.DOTALL)


def replace_constants(data: bytes) -> bytes:
    """Return JSON with null for NaN and Infinity, and a large negative number for -Infinity. Strings stay."""
    return _STRING_OR_CONSTANT.sub(_replace_constant, data)


def _replace_constant(match: re.Match[bytes]) -> bytes:
    found = match[0]
    if found.startswith(b'"'):
        return found
    return LEAST_LOG_PROBABILITY if found.startswith(b"-") else b"null"
