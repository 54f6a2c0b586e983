"""Finds names of people by a token classifier that the user brings.

Its folder has model.onnx, tokenizer.json and config.json, whose labels (`id2label`) are BIO tags: B-PER, I-PER.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from archwright.engines.onnx_session import OnnxSession
from archwright.engines.onnx_text import ELEMENT_TYPES, INPUTS, make_batches
from archwright.engines.text_model_folder import LOAD_HINT, read_model_folder
from archwright.errors import DataError, ErrorLocation
from archwright.lake.personal_data.span_finder import PersonalSpan

PERSON_LABELS = frozenset({"PER", "PERSON", "NAME", "FIRSTNAME", "LASTNAME", "GIVENNAME", "SURNAME"})
WINDOW_TOKENS, OVERLAP_TOKENS, BATCH_TOKENS = 512, 64, 4096


class _Labels(msgspec.Struct):
    id2label: dict[int, str] = {}


class _Window(NamedTuple):
    """A part of the text `row`; `tokens` has the ids, and the place of each in the text."""

    row: int
    tokens: Any


@cache
def open_name_model(path: str) -> "NameModel":
    """The model in the folder `path`, loaded once per process."""
    return NameModel(Path(path))


class NameModel:
    """Raises DataError AW-DATA-72 for labels without people, EngineError for a folder that is damaged."""

    def __init__(self, path: Path) -> None:
        folder = read_model_folder(path)
        labels = msgspec.json.decode((path / "config.json").read_bytes(), type=_Labels).id2label
        self._begins = {number for number, label in labels.items() if label.upper().startswith("B-")}
        self._people = sorted(n for n, label in labels.items() if label.upper().split("-")[-1] in PERSON_LABELS)
        if not self._people:
            message = "the model has no label for people: id2label of config.json names none of B-PER, I-PER, B-PERSON"
            hint = "choose a model for named entities, exported with its config.json"
            raise DataError("AW-DATA-72", message, where=ErrorLocation(str(path / "config.json")), hint=hint)
        window = min(folder.context_tokens or WINDOW_TOKENS, WINDOW_TOKENS)
        self._tokenizer, self._padding_id = folder.tokenizer, folder.padding_id
        self._tokenizer.enable_truncation(window, stride=min(OVERLAP_TOKENS, window // 4))
        self._session = OnnxSession(path / "model.onnx", 1, LOAD_HINT)

    def find_names(self, texts: Sequence[str], threshold: float) -> list[list[PersonalSpan]]:
        """The names in each text, with at least the probability `threshold` (0 to 1) for each of their tokens."""
        windows = [
            _Window(row, tokens)
            for row, found in enumerate(self._tokenizer.encode_batch(list(texts)))
            for tokens in (found, *found.overflowing)
            if tokens.ids
        ]
        places: list[set[tuple[int, int]]] = [set() for _ in texts]
        for batch in make_batches([len(one.tokens.ids) for one in windows], BATCH_TOKENS) if windows else ():
            chosen = [windows[index] for index in batch]
            for window, best, people in zip(chosen, *self._classify(chosen), strict=True):
                places[window.row].update(self._list_names(window.tokens, best, people >= threshold))
        return [_merge_places(text, sorted(found)) for text, found in zip(texts, places, strict=True)]

    def _classify(self, windows: Sequence[_Window]) -> tuple[Any, Any]:
        """The most probable label of each token, and the probability that it belongs to a name."""
        np = self._session.numpy
        shape = len(windows), max(len(one.tokens.ids) for one in windows)
        ids = np.full(shape, self._padding_id)
        mask = np.zeros_like(ids)
        for row, one in enumerate(windows):
            ids[row, : len(one.tokens.ids)], mask[row, : len(one.tokens.ids)] = one.tokens.ids, 1
        offered = (ids, mask, np.zeros_like(ids), np.broadcast_to(np.arange(shape[1]), shape))
        given = dict(zip(INPUTS, offered, strict=True))
        feed = {name: given[name].astype(ELEMENT_TYPES[kind]) for name, kind in self._session.inputs.items()}
        (logits,) = self._session.run(feed, [self._session.outputs[0][0]])
        shares = np.exp(self._session.require_finite(logits.astype(np.float32)) - logits.max(-1, keepdims=True))
        return logits.argmax(-1), shares[..., self._people].sum(-1) / shares.sum(-1)

    def _list_names(self, tokens: Any, best: Any, people: Any) -> Iterator[tuple[int, int]]:
        start = end = -1
        for place, (first, last) in enumerate(tokens.offsets):
            inside = people[place] and not tokens.special_tokens_mask[place]
            if start >= 0 and (not inside or int(best[place]) in self._begins):
                yield start, end
                start = -1
            if inside:
                start, end = (first if start < 0 else start), last
        if start >= 0:
            yield start, end


def _merge_places(text: str, places: Sequence[tuple[int, int]]) -> list[PersonalSpan]:
    """Spans of whole words; places of two windows that overlap, or pieces of one word, are one span."""
    merged: list[PersonalSpan] = []
    for start, end in places:
        while start and text[start - 1].isalnum() and text[start].isalnum():
            start -= 1
        while end < len(text) and text[end].isalnum() and text[end - 1].isalnum():
            end += 1
        if merged and start <= merged[-1].end:
            start, end = merged[-1].start, max(end, merged.pop().end)
        merged.append(PersonalSpan(start, end, "name"))
    return merged
