"""Plain scalars as YAML 1.2 (core schema) reads them.

PyYAML follows YAML 1.1, where the country `NO` is false, `12:30:45` is a number and `1e3` is a text. This module
follows YAML 1.2.2, section 10.3.2.
"""

import re

# A longer text stays a text: Python refuses to convert integers beyond 4,300 digits.
NUMBER_CHARACTERS = 100

_WORDS: dict[str, bool | float | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((f"{sign}{word}" for sign in ("", "+") for word in (".inf", ".Inf", ".INF")), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
_DECIMAL = re.compile(r"[-+]?[0-9]+", re.ASCII)
_OCTAL = re.compile(r"0o([0-7]+)", re.ASCII)
_HEXADECIMAL = re.compile(r"0x([0-9a-fA-F]+)", re.ASCII)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", re.ASCII)


def resolve_scalar(text: str) -> str | int | float | bool | None:
    """Return the value of an unquoted scalar; a text that matches no rule stays a text."""
    if text in _WORDS:
        return _WORDS[text]
    if len(text) > NUMBER_CHARACTERS:
        return text
    if _DECIMAL.fullmatch(text):
        return int(text)
    if match := _OCTAL.fullmatch(text):
        return int(match[1], 8)
    if match := _HEXADECIMAL.fullmatch(text):
        return int(match[1], 16)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text
