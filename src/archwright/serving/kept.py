"""What an engine says about one choice: a piece of it, and all of its pieces put together."""

from __future__ import annotations

from typing import Any

from archwright.serving.events import Call, Choice, Function
from archwright.serving.shapes import Piece, entries


class Kept:
    """What has come of one choice."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.reasonings: list[str] = []
        self.refusals: list[str] = []
        self.entries: list[dict[str, Any]] = []
        self.calls: dict[int, tuple[str | None, str | None, list[str]]] = {}
        self.signature = self.stop = ""
        self.finish: str | None = None

    def add(self, piece: Piece) -> None:
        self.texts.append(piece.text)
        self.reasonings.append(piece.reasoning)
        self.refusals.append(piece.refusal)
        self.entries += piece.entries or ()
        for call in piece.calls:
            name, arguments = (call.function.name, call.function.arguments) if call.function else (None, None)
            known_id, known_name, said = self.calls.get(call.index, (None, None, []))
            said.append(arguments or "")
            self.calls[call.index] = (known_id or call.id, known_name or name, said)
        self.signature += piece.signature
        self.stop = piece.stop or self.stop
        self.finish = piece.finish or self.finish

    def piece(self, number: int) -> Piece:
        calls = [
            Call(at, known, Function(name, "".join(said))) for at, (known, name, said) in sorted(self.calls.items())
        ]
        texts = "".join(self.texts), "".join(self.reasonings)
        refusal = "".join(self.refusals)
        return Piece(*texts, self.entries, self.finish, calls, refusal, number, self.signature, self.stop)


def piece_of(text: str, choice: Choice, *, logprobs: bool = True) -> Piece:
    delta, stop = choice.delta, choice.stop_reason if type(choice.stop_reason) is str else ""
    found = entries(choice.logprobs) if logprobs and choice.logprobs else None
    if delta is None:
        return Piece(text, "", found, choice.finish_reason, number=choice.index, stop=stop)
    reasoning = delta.reasoning_content or delta.reasoning or ""
    refusal, signature = delta.refusal or "", delta.signature or ""
    calls = delta.tool_calls or ()
    return Piece(text, reasoning, found, choice.finish_reason, calls, refusal, choice.index, signature, stop)
