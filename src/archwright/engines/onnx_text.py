"""The engine of embedders and rerankers: serves a model folder (ONNX, tokenizer) on a Unix socket.

POST /v1/embeddings as in OpenAI's interface: normalised vectors of texts or token ids. POST /v1/rerank {"query",
"documents", "top_n"} -> {"results": [{"index", "relevance_score"}, ...]}, best first, as in Jina's interface.
Design: texts run in batches of at most `batch_tokens` with padding, shortest first, so memory is bounded by one batch,
and a cancelled request ends with its batch. A text longer than the context is refused and never cut.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta

from archwright.contract.record import Record
from archwright.engines.engine_config import EngineConfig, adapter_settings, require_digest
from archwright.engines.engine_server import (
    EngineReply,
    Routes,
    ServerRequest,
    SlotCounter,
    make_json_reply,
    parse_body,
    serve_until,
)
from archwright.engines.null_replies import ErrorReply, invalid_request_error
from archwright.engines.onnx_file import check_folder_onnx
from archwright.engines.onnx_session import OnnxSession
from archwright.engines.text_model_folder import LOAD_HINT, Pooling, TextModelFolder, encode_text, read_model_folder
from archwright.home import Home
from archwright.journal import Journal

MAX_TEXTS = 2_048
VECTOR_OUTPUT = "sentence_embedding"
# The names that exporters give to the vectors of texts, the vectors of tokens, and the scores.
OUTPUTS = {"embed": (VECTOR_OUTPUT, "last_hidden_state", "token_embeddings"), "rerank": ("logits",)}
TASK_PATHS = {"embed": "/v1/embeddings", "rerank": "/v1/rerank"}
OTHER_PATHS = ("/v1/chat/completions", "/v1/completions")
INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
NUMBERS = ("tensor(float)", "tensor(float16)")
ELEMENT_TYPES = {"tensor(int64)": "int64", "tensor(int32)": "int32"}


class TextSettings(Record):
    """`threads` are per request. `batch_tokens`: limit of a batch with its padding, unless a single text has more."""

    task: Literal["embed", "rerank"] = "embed"
    threads: Annotated[int, Meta(ge=1)] = 1
    batch_tokens: Annotated[int, Meta(ge=1)] = 1024


class EmbeddingInput(msgspec.Struct):
    """`dimensions`: only the model's own, since its vectors are not cut."""

    input: str | list[str | int | list[int]]
    encoding_format: Literal["float"] | None = None
    dimensions: int | None = None


class RerankInput(msgspec.Struct):
    query: Annotated[str, Meta(min_length=1)]
    documents: Annotated[list[str], Meta(min_length=1, max_length=MAX_TEXTS)]
    top_n: Annotated[int, Meta(ge=1)] | None = None


class TokenSequence(NamedTuple):
    """The tokens of a text, or of a query and a document, and the part (0 or 1) that each belongs to."""

    ids: list[int]
    parts: list[int]


def serve(
    config: EngineConfig,
    home: Home,
    journal: Journal,
    wait: Callable[[], Awaitable[object]] = lambda: asyncio.Event().wait(),
) -> None:
    """Serve on the home's socket until SIGTERM; returns only if `wait` does.

    Raises MissingError AW-GET-01 (no onnxruntime or tokenizers), EngineError AW-ENG-06, AW-ENG-10 (damaged folder),
    AW-ENG-11 (tensors elsewhere), AW-ENG-12 (a model that this engine cannot run), AW-ENG-13 (its tokenizer fails).
    """
    settings = adapter_settings(config, TextSettings)
    folder = read_model_folder(home.model_folder(require_digest(config)))
    journal.info("loading", model=config.alias, task=settings.task, slots=config.slots)
    model = TextModel(folder, settings, config.context_tokens)
    engine = TextEngine(config, model, settings)
    serve_until(wait, engine.routes(), home.engine_socket(config.socket), journal, config.alias)


class TextModel:
    """A model and its tokenizer; its methods may be called from several threads at once."""

    def __init__(self, folder: TextModelFolder, settings: TextSettings, context_tokens: int) -> None:
        self.context_tokens = min(context_tokens, folder.context_tokens or context_tokens)
        self._folder, self._reranks = folder, settings.task == "rerank"
        encode_text(folder.tokenizer, ("a", "a") if self._reranks else "a")  # its rules are followed only here
        path = folder.path / "model.onnx"
        check_folder_onnx(path, LOAD_HINT)
        self._session = OnnxSession(path, settings.threads, LOAD_HINT)
        self._numpy = self._session.numpy
        with self._session.checking():
            for name, kind in self._session.inputs.items():
                if name not in INPUTS or kind not in ELEMENT_TYPES:
                    raise ValueError(f"its input {name[:80]!r} ({kind}) is none of {', '.join(INPUTS)} with integers")
            names = dict(self._session.outputs)
            self._output = next((name for name in OUTPUTS[settings.task] if name in names), next(iter(names)))
            if names[self._output] not in NUMBERS:
                raise ValueError(f"its output {self._output!r} is {names[self._output]}, not {' or '.join(NUMBERS)}")
            if not folder.vectors_complete and self._output != VECTOR_OUTPUT:
                raise ValueError("the folder has layers after the pooling, which are not in the model")
            self.dimensions = self._try_shapes()

    def _try_shapes(self) -> int:
        """The width of a reply. A model with a wrong output is found here and not by the first caller."""
        width = 0
        for texts, tokens in ((1, 2), (2, 3)):
            found = self.run([TokenSequence([0] * tokens, [0] * tokens)] * texts)
            width = found.shape[1] if found.ndim == 2 and len(found) == texts else 0
            if not width or (width == 1) is not self._reranks:
                raise ValueError(f"its output {self._output!r} for {texts} texts has the shape {found.shape}")
        return width

    def tokenize(self, texts: Sequence[str], query: str | None = None) -> list[TokenSequence]:
        """The tokens of each text, or of each pair of query and text. Raises ErrorReply 400 for a text too long."""
        name = "input" if query is None else "documents"
        found = []
        for index, text in enumerate(texts):
            encoded = encode_text(self._folder.tokenizer, text if query is None else (query, text))
            found.append(TokenSequence(encoded.ids, encoded.type_ids))
            self._check_length(len(encoded.ids), f"{name}[{index}]")
        return found

    def take_ids(self, inputs: Sequence[list[int]]) -> list[TokenSequence]:
        """Token ids as the caller gives them, without further tokens. Raises ErrorReply 400."""
        highest = self._folder.tokenizer.get_vocab_size() - 1
        for index, ids in enumerate(inputs):
            self._check_length(len(ids), f"input[{index}]")
            if not 0 <= min(ids) <= max(ids) <= highest:
                raise invalid_request_error(f"input[{index}] has a token id that is not from 0 to {highest}")
        return [TokenSequence(ids, [0] * len(ids)) for ids in inputs]

    def _check_length(self, tokens: int, place: str) -> None:
        limit = self.context_tokens
        if not tokens:
            raise invalid_request_error(f"{place} has no tokens")
        if tokens > limit:
            message = f"{place} exceeds the available context size ({tokens} of {limit} tokens)"
            raise ErrorReply(400, "exceed_context_size_error", message, n_prompt_tokens=tokens, n_ctx=limit)

    def run(self, batch: Sequence[TokenSequence]) -> Any:
        """Normalised vectors, or logits, as one row per sequence. Raises EngineError AW-ENG-13 if the model fails."""
        np = self._numpy
        shape = len(batch), max(len(one.ids) for one in batch)
        ids = np.full(shape, self._folder.padding_id)
        mask, parts = np.zeros_like(ids), np.zeros_like(ids)
        for row, one in enumerate(batch):
            length = len(one.ids)
            ids[row, :length], mask[row, :length], parts[row, :length] = one.ids, 1, one.parts
        offered = dict(zip(INPUTS, (ids, mask, parts, np.broadcast_to(np.arange(shape[1]), shape)), strict=True))
        feed = {name: offered[name].astype(ELEMENT_TYPES[kind]) for name, kind in self._session.inputs.items()}
        (found,) = self._session.run(feed, [self._output])
        found = found.astype(np.float32)
        if self._reranks:
            return self._session.require_finite(found)
        if found.ndim == 3 and found.shape[:2] == shape:
            found = _pool(np, found, mask, self._folder.pooling)
        return self._session.require_finite(found / np.linalg.norm(found, axis=-1, keepdims=True).clip(1e-12))


class TextEngine:
    """Runs `config.slots` requests at once; the others wait in order of arrival."""

    def __init__(self, config: EngineConfig, model: TextModel, settings: TextSettings) -> None:
        self._alias, self._model, self._settings = config.alias, model, settings
        counts = ("prompt_tokens_total", "prompt_seconds_total")
        self._slots = SlotCounter("onnx_text", config.slots, counts, "g")

    def routes(self) -> Routes:
        others = dict.fromkeys((("POST", path) for path in (*TASK_PATHS.values(), *OTHER_PATHS)), self._refuse)
        own = self._rerank if self._settings.task == "rerank" else self._embed
        return self._slots.build_routes({**others, ("POST", TASK_PATHS[self._settings.task]): own})

    async def _refuse(self, _request: ServerRequest) -> EngineReply:
        """A 404 would say that this engine is broken."""
        raise ErrorReply(501, "not_supported_error", f"this engine serves only {TASK_PATHS[self._settings.task]}")

    async def _embed(self, request: ServerRequest) -> EngineReply:
        given = parse_body(request.body, EmbeddingInput)
        if given.dimensions not in (None, self._model.dimensions):
            raise invalid_request_error(f"dimensions must be {self._model.dimensions}, which this model's vectors have")
        inputs = check_inputs(given.input)
        take: Any = self._model.take_ids if isinstance(inputs[0], list) else self._model.tokenize
        async with self._slots.hold_slot():
            sequences = await asyncio.to_thread(take, inputs)
            rows = await self._run_batches(sequences)
            return await asyncio.to_thread(self._build_vectors, rows, sequences)

    async def _rerank(self, request: ServerRequest) -> EngineReply:
        given = parse_body(request.body, RerankInput)
        async with self._slots.hold_slot():
            sequences = await asyncio.to_thread(self._model.tokenize, given.documents, given.query)
            rows = await self._run_batches(sequences)
        logits = [float(row[0]) for row in rows]
        best = sorted(range(len(logits)), key=lambda index: -logits[index])[: given.top_n]
        results = [{"index": index, "relevance_score": sigmoid(logits[index])} for index in best]
        return self._reply({"results": results}, sequences)

    async def _run_batches(self, sequences: list[TokenSequence]) -> list[Any]:
        """The model's rows in the order of the sequences. A cancelled request ends between two batches."""
        rows: list[Any] = [None] * len(sequences)
        for batch in make_batches([len(one.ids) for one in sequences], self._settings.batch_tokens):
            began = time.perf_counter()
            # In a thread: a batch takes long, and the event loop must answer health checks meanwhile.
            found = await asyncio.to_thread(self._model.run, [sequences[index] for index in batch])
            self._slots.counts["prompt_seconds_total"] += time.perf_counter() - began
            self._slots.counts["prompt_tokens_total"] += sum(len(sequences[index].ids) for index in batch)
            for index, row in zip(batch, found, strict=True):
                rows[index] = row
        return rows

    def _build_vectors(self, rows: list[Any], sequences: list[TokenSequence]) -> EngineReply:
        data = [{"object": "embedding", "index": at, "embedding": row.tolist()} for at, row in enumerate(rows)]
        return self._reply({"data": data}, sequences)

    def _reply(self, results: dict[str, object], sequences: list[TokenSequence]) -> EngineReply:
        tokens = sum(len(one.ids) for one in sequences)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return make_json_reply({"object": "list", "model": self._alias, **results, "usage": usage})


def check_inputs(value: str | list[str | int | list[int]]) -> list[Any]:
    """Texts, or lists of token ids. Raises ErrorReply 400 for a mixture and for too many."""
    kinds = {type(one) for one in value} if isinstance(value, list) else {str}
    inputs: list[Any] = [value] if isinstance(value, str) or kinds == {int} else value
    if not 0 < len(inputs) <= MAX_TEXTS or len(kinds) > 1:
        raise invalid_request_error(f"input must be a text, a list of token ids, or 1 to {MAX_TEXTS} of either")
    return inputs


def sigmoid(logit: float) -> float:
    """Keeps the differences of very small scores, and never overflows."""
    return 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))


def make_batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indexes, shortest first. The longest of a batch times its count is at most `batch_tokens`, unless it is alone."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[index] > batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    yield batch


def _pool(np: Any, tokens: Any, mask: Any, pooling: Pooling) -> Any:
    """One vector per text, from the vectors of its tokens (texts, tokens, width)."""
    if pooling == "cls":
        return tokens[:, 0]
    if pooling == "last":
        return tokens[np.arange(len(tokens)), mask.sum(1) - 1]
    weights = (mask / mask.sum(1, keepdims=True)).astype(np.float32)
    return (weights[:, None, :] @ tokens)[:, 0]
