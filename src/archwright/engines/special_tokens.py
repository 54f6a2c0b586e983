"""Special tokens of a model in text of users: they are broken, so that the tokeniser reads them as text.

A chat template writes special tokens around messages, and the engine reads them in the finished prompt. The same
characters in a message would end it and begin another one, for example of the system. So a word joiner (U+2060) is put
behind the first character of each such token before the template is applied.

Design: the character is invisible, forbids a line break, and survives Unicode normalisation (NFC, NFKC); zero-width
spaces do not. Only the first character is consumed, so a token that begins inside another one is broken too. A text
that another text follows also loses the beginning of a token at its end, since a template may join both.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

WORD_JOINER = "\u2060"
# The fields of a body from which an engine makes a prompt that it writes itself. A raw `prompt` is the client's own.
TEXT_FIELDS = ("messages", "tools", "functions", "chat_template_kwargs", "instructions", "input", "query", "documents")
# The field of a tool call that holds JSON as a string.
ARGUMENTS = "arguments"
# Tokens of this form are marks even if the file of the tokeniser does not say so; llama.cpp treats them so, too.
_MARK = re.compile(r"<[|｜].*[|｜]>|</s>|<EOT>|<end_of_turn>|<end_of_utterance>|\[EO[ST]\]", re.DOTALL)
MARK_BEGINNINGS = (b"<", b"[")  # of every such token
_LEAST_CHARACTERS = 2  # a token of one character cannot be broken


class SpecialTokens:
    """The special tokens of one tokeniser."""

    def __init__(self, tokens: Iterable[str]) -> None:
        self._tokens = frozenset(token for token in tokens if len(token) >= _LEAST_CHARACTERS)
        self._lengths = sorted({len(token) for token in self._tokens})
        self._beginnings = frozenset(token[:end] for token in self._tokens for end in range(1, len(token)))
        self._firsts = tuple({token[0] for token in self._tokens})
        pairs = {token[:2] for token in self._tokens}
        self._pair = re.compile("|".join(f"{re.escape(pair[0])}(?={re.escape(pair[1])})" for pair in sorted(pairs)))

    def __bool__(self) -> bool:
        return bool(self._tokens)

    def break_body(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return the body of a request with broken tokens in its TEXT_FIELDS."""
        if not self._tokens:
            return body
        changed = {name: self._break_value(body[name], followed=False) for name in TEXT_FIELDS if name in body}
        return {**body, **changed}

    def break_text(self, text: str, *, followed: bool = False) -> str:
        """Return `text` without a special token. `followed`: another text may stand directly behind it."""
        if not any(first in text for first in self._firsts):
            return text
        text = self._pair.sub(self._break_match, text)
        return self._break_end(text) if followed else text

    def _break_match(self, match: re.Match[str]) -> str:
        text, start = match.string, match.start()
        if any(text[start : start + length] in self._tokens for length in self._lengths):
            return match[0] + WORD_JOINER
        return match[0]

    def _break_end(self, text: str) -> str:
        """Break the longest beginning of a token that ends the text."""
        longest = min(self._lengths[-1] - 1, len(text))
        for length in range(longest, 0, -1):
            if text[-length:] in self._beginnings:
                start = len(text) - length
                return f"{text[: start + 1]}{WORD_JOINER}{text[start + 1 :]}"
        return text

    def _break_value(self, value: Any, *, followed: bool) -> Any:
        if isinstance(value, str):
            return self.break_text(value, followed=followed)
        if isinstance(value, dict):
            return {self.break_text(name): self._break_field(name, inner, followed) for name, inner in value.items()}
        if isinstance(value, list):
            last = len(value) - 1
            return [self._break_value(item, followed=followed or index < last) for index, item in enumerate(value)]
        return value

    def _break_field(self, name: str, value: Any, followed: bool) -> Any:
        """Break a field of an object; engines decode the arguments of a tool call, where `\\u003c` stands for `<`."""
        if name == ARGUMENTS and isinstance(value, str):
            try:
                decoded = msgspec.json.decode(value)
            except (msgspec.MsgspecError, RecursionError):
                decoded = None
            if isinstance(decoded, dict | list | str):
                return msgspec.json.encode(self._break_value(decoded, followed=followed)).decode()
        return self._break_value(value, followed=followed)


def is_special(token: str, *, stated: bool) -> bool:
    """True if a token must not come from text. `stated`: the tokeniser's file calls it special."""
    return stated or _MARK.fullmatch(token) is not None


class _AddedToken(msgspec.Struct):
    """A token beside the vocabulary, in the files of a tokeniser in Hugging Face's format."""

    content: str = ""
    special: bool = False


class _TokenizerFile(msgspec.Struct):
    """The fields in use of tokenizer.json and tokenizer_config.json."""

    added_tokens: list[_AddedToken] = []
    added_tokens_decoder: dict[str, _AddedToken] = {}


def read_tokenizer_files(folder: Path) -> SpecialTokens:
    """Return the special tokens of a model folder; none if it has no file of a tokeniser that can be read."""
    tokens: set[str] = set()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        try:
            file = msgspec.json.decode((folder / name).read_bytes(), type=_TokenizerFile)
        except (OSError, msgspec.MsgspecError):
            continue
        added = [*file.added_tokens, *file.added_tokens_decoder.values()]
        tokens.update(token.content for token in added if is_special(token.content, stated=token.special))
    return SpecialTokens(tokens)
