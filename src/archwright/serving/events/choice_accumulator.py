"""Build pieces of a reply from engine events and join the pieces of one choice."""

from typing import Any

from archwright.serving.events.engine_events import CompletionChoice, CustomCall, FunctionCall, ToolCall
from archwright.serving.events.response_formats import ResponsePiece, parse_logprobs


class ChoiceAccumulator:
    """Collects the streamed pieces of one choice."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.reasonings: list[str] = []
        self.refusals: list[str] = []
        self.entries: list[dict[str, Any]] = []
        self.calls: dict[int, tuple[ToolCall, list[str]]] = {}
        self.signature = self.stop = ""
        self.redacted: tuple[str, ...] = ()
        self.finish: str | None = None

    def add(self, piece: ResponsePiece) -> None:
        self.texts.append(piece.text)
        self.reasonings.append(piece.reasoning)
        self.refusals.append(piece.refusal)
        self.entries += piece.entries or ()
        for call in piece.calls:
            part, known = call.called_function, self.calls.get(call.index)
            if known is None:
                plain = call.custom is None
                function, custom = (FunctionCall(part.name), None) if plain else (None, CustomCall(part.name))
                known = self.calls[call.index] = ToolCall(call.index, call.id, function, custom, call.extra_content), []
            first, arguments = known
            first.id, first.called_function.name = first.id or call.id, first.called_function.name or part.name
            first.extra_content = first.extra_content or call.extra_content
            arguments.append(part.arguments or "")
        self.signature += piece.signature
        self.redacted += piece.redacted
        self.stop = piece.stop or self.stop
        self.finish = piece.finish or self.finish

    def to_piece(self, number: int) -> ResponsePiece:
        calls = []
        for _, (call, arguments) in sorted(self.calls.items()):
            call.called_function.arguments = "".join(arguments)
            calls.append(call)
        texts, refusal = ("".join(self.texts), "".join(self.reasonings)), "".join(self.refusals)
        return ResponsePiece(
            *texts, self.entries, self.finish, calls, refusal, number, self.signature, self.stop, self.redacted
        )


def build_piece(text: str, choice: CompletionChoice, *, logprobs: bool = True) -> ResponsePiece:
    delta, stop = choice.delta, choice.stop_reason if type(choice.stop_reason) is str else ""
    entries = parse_logprobs(choice.logprobs) if logprobs and choice.logprobs else None
    if delta is None:
        return ResponsePiece(text, "", entries, choice.finish_reason, number=choice.index, stop=stop)
    reasoning = delta.reasoning_content or delta.reasoning or ""
    refusal, signature = delta.refusal or "", delta.signature or ""
    calls = delta.tool_calls or ()
    redacted = (delta.redacted,) if delta.redacted else ()
    return ResponsePiece(
        text, reasoning, entries, choice.finish_reason, calls, refusal, choice.index, signature, stop, redacted
    )
