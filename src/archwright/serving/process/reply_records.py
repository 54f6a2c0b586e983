"""The records of replies, for the OpenAPI document. A reply has at least the fields of its record.

Design: no reply is encoded from these records, since the writers in `events` build replies from parts of a stream. A
test decodes each route's reply as its record.
"""

from typing import Any, Literal

import msgspec


def _define(name: str, **fields: Any) -> type[msgspec.Struct]:
    return msgspec.defstruct(name, [*fields.items()])


_Fields, _Objects = dict[str, Any], list[dict[str, Any]]
_generation: dict[str, Any] = {"id": str, "created": int, "model": str, "choices": _Objects, "usage": _Fields}
_ended: dict[str, Any] = {"stop_reason": str | None, "stop_sequence": str | None, "usage": _Fields}

ChatReply = _define("ChatReply", object=Literal["chat.completion"], **_generation)
CompletionReply = _define("CompletionReply", object=Literal["text_completion"], **_generation)
MessageReply = _define("MessageReply", id=str, type=Literal["message"], model=str, content=_Objects, **_ended)
ResponseReply = _define("ResponseReply", id=str, object=Literal["response"], status=str, output=_Objects, usage=_Fields)
TokenCountReply = _define("TokenCountReply", input_tokens=int)
EmbeddingReply = _define("EmbeddingReply", model=str, data=_Objects, usage=_Fields)
TranscriptionReply = _define("TranscriptionReply", text=str, usage=_Fields)
RerankReply = _define("RerankReply", model=str, results=_Objects, usage=_Fields)
PredictReply = _define("PredictReply", model=str, endpoint=str, predictions=_Objects)
ModelReply = _define("ModelReply", id=str)
ListReply = _define("ListReply", data=_Objects)
ApiErrorReply = _define("ApiErrorReply", error=_Fields)
MessageErrorReply = _define("MessageErrorReply", type=Literal["error"], error=_Fields)
