"""Writes chat replies with `citations`: the numbered passages that the model was given, with their sources.

A stream has them in the event of the finish reason. `cited` says whether the text names the passage's number.
"""

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from archwright.lake.retrieval.index_search import Passage
from archwright.serving.events.response_formats import OpenAIWriter, ResponsePiece

QUOTE_CHARACTERS = 240
_NUMBERS = re.compile(r"\[(\d{1,3}(?:\s*[,;]\s*\d{1,3})*)\]")


class CitationWriter(OpenAIWriter):
    """Call `cite` before the first piece."""

    _passages: Sequence[Passage] = ()

    def cite(self, passages: Sequence[Passage]) -> None:
        self._passages, self._texts = passages, list[str]()

    def encode_text(self, text: str) -> bytes:
        self._texts.append(text)
        return super().encode_text(text)

    def encode_piece(self, piece: ResponsePiece) -> bytes:
        self._texts.append(piece.text)
        data = super().encode_piece(piece)
        if piece.finish is None:
            return data
        return (
            data[: -len(self._tail)] + b'],"citations":' + self._encode_citations("".join(self._texts)) + self._tail[1:]
        )

    def encode_response(self, pieces: Sequence[ResponsePiece], used: dict[str, Any] | None) -> bytes:
        citations = self._encode_citations("\n".join(piece.text for piece in pieces))
        return super().encode_response(pieces, used)[:-1] + b',"citations":' + citations + b"}"

    def _encode_citations(self, text: str) -> bytes:
        named = {int(number) for group in _NUMBERS.findall(text) for number in re.findall(r"\d+", group)}
        return msgspec.json.encode(
            [
                {
                    "number": number,
                    "cited": number in named,
                    "dataset": passage.dataset,
                    "version": passage.version,
                    "record_id": passage.record_id,
                    "file": passage.source_file,
                    "row": passage.source_row,
                    "page": passage.page,
                    "title": passage.title,
                    "start": passage.start,
                    "end": passage.end,
                    "score": round(passage.score, 6),
                    "quote": passage.text[:QUOTE_CHARACTERS],
                }
                for number, passage in enumerate(self._passages, 1)
            ]
        )
