"""Turn the typed record of a request into the engine's request: the checks that no type states.

Design: the gateway validates although engines do, because engines accept anything: they silently ignore unknown fields
and invalid values, so a client's mistake would be charged and not reported. A field passes only if the rules of the
endpoint's engines name it (`engine_fields`). Reservation and settlement read the figures of `GenerationRequest`, which
are validated, and never the body.
"""

from collections.abc import Mapping
from typing import Any, Literal

from archwright.contract.record import Record, replace
from archwright.serving.http.engine_refusals import OUTPUT_PART
from archwright.serving.http.errors import bad_request, invalid_value, unsupported_value
from archwright.serving.requests import field_checks, message_validation
from archwright.serving.requests.document_text import DocumentReference
from archwright.serving.requests.field_selection import reject_field, select_fields
from archwright.serving.requests.model_resolution import ModelDirectory, ResolvedModel
from archwright.serving.requests.multimodal import TEXT_ONLY, MultimodalParts, count_parts
from archwright.serving.requests.typed_requests import (
    MAX_CHOICES,
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    GenerationBody,
    JsonSchemaFormat,
    RerankRequest,
    TextFormat,
    check_types,
)
from archwright.serving.settings.config import Endpoint
from archwright.serving.settings.prices import InputKind

MAX_INPUTS = 2_048
MAX_TOKEN_ID = 2**31 - 1  # engines store a token id in 32 bits
PAIR_TOKENS = 128  # most tokens of a reranker's template around a query and a document; Qwen3-Reranker's has some 90
USUAL_TEMPLATE_TOKENS = 32  # of a chat template around a short conversation
CHARACTERS_PER_TOKEN = 4  # rough estimate for routing and charges
WORKLOAD_HEADER = b"x-archwright-workload"
# llama.cpp keeps 32 bits of a seed; all ones means "choose a random seed".
SEED_MODULUS = 2**32 - 1
# Objects that no engine reads as a part of the prompt, beside the messages.
_UNREAD_OBJECTS = frozenset({"messages", "prompt", "logit_bias", "metadata", "stop"})


class GenerationRequest(Record):
    """The body for the engine, the figures that bound its cost, and the client's options for the reply.

    `max_tokens`: at most so many output tokens in each of `choices` (at least 1); 0 for an embedding. `plain`: the
    plan's model itself, without an adapter. `native`, `betas`: the client's body and header if client and provider both
    use the Messages interface. `structured`: the engine also reads tools, schemas or calls, which `prompt_characters`
    does not count. `contexts`: number of texts, each with its own context; `choices` belong to all of them.
    `repeated_bytes`: read in addition to the body, because every document is read with the query. `input_tokens`: known
    only if the input is token ids. `input_kinds`: kinds of input beside text.
    `top_n`, `return_documents`: of a rerank. `documents`: PDFs whose text is put
    into the messages later. `may_shorten`: the client did not choose `max_tokens`, so it may be reduced."""

    model: str
    endpoint: Endpoint
    body: dict[str, Any]
    max_tokens: int = 0
    plain: bool = False
    stream: bool = False
    include_usage: bool = False
    top_logprobs: int | None = None
    prompt_characters: int = 0
    structured: bool = False
    base64: bool = False
    choices: int = 1
    native: dict[str, Any] | None = None
    betas: str = ""
    parts: MultimodalParts = TEXT_ONLY
    contexts: int = 1
    input_tokens: int | None = None
    input_kinds: frozenset[InputKind] = frozenset()
    repeated_bytes: int = 0
    documents: tuple[DocumentReference, ...] = ()
    top_n: int | None = None
    return_documents: bool = False
    may_shorten: bool = False

    @property
    def work_tokens(self) -> int:
        """Upper bound of the request's work for a replica."""
        return self.max_tokens + self.prompt_characters // CHARACTERS_PER_TOKEN


def _check_inputs(
    value: str | list[Any], endpoint: Endpoint, name: str = "input", limit: int = MAX_INPUTS
) -> list[str] | list[list[int]]:
    inputs: Any = [value] if type(value) is str or _is_token_ids(value) else value
    fits = type(inputs) is list and 0 < len(inputs) <= limit
    if not fits or not (all(type(text) is str and text for text in inputs) or all(map(_is_token_ids, inputs))):
        message = f"{name!r} must be a non-empty string, a list of token ids, or 1 to {limit} of either"
        raise invalid_value(message, name)
    longest = max(map(len, inputs)) if type(inputs[0]) is list else 0
    if longest > endpoint.context_tokens:
        message = f"a text of {name!r} has {longest} tokens, but this model's context holds {endpoint.context_tokens}"
        raise bad_request(message, name, "context_length_exceeded")
    checked: list[str] | list[list[int]] = inputs
    return checked


def _is_token_ids(value: Any) -> bool:
    """True for a list of token ids. Checked as a whole, because a list may hold a million ids."""
    return type(value) is list and set(map(type, value)) == {int} and min(value) >= 0 and max(value) <= MAX_TOKEN_ID


def validate_chat(body: Mapping[str, Any], directory: ModelDirectory, workload: str | None) -> GenerationRequest:
    """Validate the body of a chat. Raises ApiError 400 and 404, as the following functions do."""
    chat = check_types(body, ChatRequest)
    return build_chat(chat, body, directory.resolve(chat.model, workload))


def build_chat(chat: ChatRequest, body: Mapping[str, Any], found: ResolvedModel) -> GenerationRequest:
    """Check a chat for the resolved endpoint. `chat`: the record of `body`."""
    endpoint = find_endpoint(found, "generates")
    fields = select_fields(body, endpoint, "chat")
    fields["messages"], characters = message_validation.check_messages(chat.messages, endpoint)
    if chat.tools is not None or chat.tool_choice is not None or chat.parallel_tool_calls is not None:
        message_validation.check_tool_fields(fields, endpoint)
    if isinstance(chat.response_format, TextFormat):
        del fields["response_format"]
    elif isinstance(chat.response_format, JsonSchemaFormat):
        field_checks.check_schema(chat.response_format.json_schema.schema, "response_format.json_schema.schema")
    top = None
    if chat.logprobs:
        top = chat.top_logprobs or 0
        fields["top_logprobs"] = max(1, top)
    elif chat.top_logprobs:
        raise invalid_value("'top_logprobs' needs 'logprobs': true", "top_logprobs")
    elif chat.logprobs is not None or chat.top_logprobs is not None:
        fields.pop("logprobs", None)
        fields.pop("top_logprobs", None)
    return _build_request(found, chat, fields, top, characters)


def validate_completion(body: Mapping[str, Any], directory: ModelDirectory, workload: str | None) -> GenerationRequest:
    asked = check_types(body, CompletionRequest)
    found = directory.resolve(asked.model, workload)
    fields = select_fields(body, find_endpoint(found, "generates"), "completions")
    endpoint, choices = found.endpoints[0], asked.n or 1
    prompts = _check_inputs(asked.prompt, endpoint, "prompt", MAX_CHOICES // choices)
    size, is_tokens = sum(map(len, prompts)), type(prompts[0]) is list
    for kind in ("prompt.token_ids",) * is_tokens + ("prompt.list",) * (len(prompts) > 1):
        rule = endpoint.rules["completions"].inner.get(kind)
        if rule is None or rule.handling == "never":
            raise reject_field(kind, endpoint, "completions", "prompt")
    fields["prompt"] = prompts[0] if len(prompts) == 1 else prompts
    if asked.logprobs is not None:
        # Engines read 0 as "none", but OpenAI means only the chosen token. The extra entry is removed from the reply.
        fields["logprobs"] = max(1, asked.logprobs)
    request = _build_request(found, asked, fields, asked.logprobs, size * CHARACTERS_PER_TOKEN if is_tokens else size)
    ids = size + len((asked.suffix or "").encode()) if is_tokens else None
    return replace(request, choices=choices * len(prompts), contexts=len(prompts), input_tokens=ids)


def validate_embedding(body: Mapping[str, Any], directory: ModelDirectory, workload: str | None) -> GenerationRequest:
    asked = check_types(body, EmbeddingRequest)
    found = directory.resolve(asked.model, workload)
    endpoint = find_endpoint(found, "embeddings")
    fields = select_fields(body, endpoint, "embeddings")
    texts = _check_inputs(asked.input, endpoint)
    sent = {**fields, "model": endpoint.model, "input": texts, "encoding_format": "float"}
    size, is_tokens = sum(map(len, texts)), type(texts[0]) is list
    return GenerationRequest(
        model=found.name,
        endpoint=endpoint,
        body=sent,
        plain=found.plain,
        prompt_characters=size * CHARACTERS_PER_TOKEN if is_tokens else size,
        base64=asked.encoding_format == "base64",
        contexts=len(texts),
        input_tokens=size if is_tokens else None,
    )


def validate_rerank(body: Mapping[str, Any], directory: ModelDirectory, workload: str | None) -> GenerationRequest:
    """Validate the body of a rerank. The engine gets texts only, and scores all of them."""
    asked = check_types(body, RerankRequest)
    found = directory.resolve(asked.model, workload)
    endpoint = find_endpoint(found, "rerank")
    fields = select_fields(body, endpoint, "rerank")
    documents = [one if isinstance(one, str) else one.text for one in asked.documents]
    count, query_bytes = len(documents), len(asked.query.encode())
    return GenerationRequest(
        model=found.name,
        endpoint=endpoint,
        body={**fields, "model": endpoint.model, "documents": documents},
        plain=found.plain,
        prompt_characters=count * len(asked.query) + sum(map(len, documents)),
        contexts=count,
        repeated_bytes=(count - 1) * query_bytes + count * PAIR_TOKENS,
        top_n=asked.top_n,
        return_documents=bool(asked.return_documents),
    )


def find_endpoint(
    found: ResolvedModel, ability: Literal["embeddings", "rerank", "transcriptions", "generates"]
) -> Endpoint:
    endpoint = next((spec for spec in found.endpoints if getattr(spec, ability)), None)
    if endpoint is None:
        problem = f"does not support {'reranking' if ability == 'rerank' else ability}"
        if ability == "generates":
            ranks = found.endpoints[0].rerank
            problem = "only ranks documents, at /v1/rerank" if ranks else "only embeds texts, at /v1/embeddings"
            if found.endpoints[0].transcriptions:
                problem = "only transcribes sound, at /v1/audio/transcriptions"
        raise bad_request(f"the model {found.name!r} {problem}", "model", "unsupported_model")
    return endpoint


def _build_request(
    found: ResolvedModel, asked: GenerationBody, fields: dict[str, Any], top: int | None, characters: int
) -> GenerationRequest:
    endpoint, stream, options = find_endpoint(found, "generates"), bool(asked.stream), asked.stream_options
    field_checks.require_list_price(fields, endpoint)
    requested = _check_length(asked, fields, endpoint)
    fields["max_tokens"] = length = requested or choose_length(endpoint, characters)
    fields["model"] = endpoint.model
    fields.pop("stream", None)
    if options is not None:
        del fields["stream_options"]
        if not stream:
            raise invalid_value("'stream_options' needs 'stream': true", "stream_options")
    if fields.get("best_of") not in (None, 1, asked.n or 1):
        raise unsupported_value("'best_of' must be 1 or equal to 'n'", "best_of")
    if asked.stop is not None:
        fields["stop"] = [asked.stop] if type(asked.stop) is str else asked.stop
    if endpoint.strict and asked.seed is not None:
        fields["seed"] = asked.seed % SEED_MODULUS
    if endpoint.strict and asked.top_k == -1:
        raise invalid_value("'top_k' must be at least 0", "top_k")
    parts = TEXT_ONLY
    if "messages" in fields:
        parts = count_parts(fields, endpoint.image_hosts)  # before images move: an error names the client's place
        if endpoint.protocol != "anthropic":
            fields["messages"] = message_validation.move_tool_images(fields["messages"])
    return GenerationRequest(
        model=found.name,
        endpoint=endpoint,
        body=fields,
        max_tokens=length,
        plain=found.plain,
        stream=stream,
        include_usage=options is not None and bool(options.include_usage),
        top_logprobs=top,
        prompt_characters=characters,
        structured=_has_structure(fields),
        choices=asked.n or 1,
        may_shorten=requested is None,
        parts=parts,
    )


def _has_structure(fields: Mapping[str, Any]) -> bool:
    """True if the engine reads more than texts: tools, a schema, or the calls and reasoning of messages."""
    if any(type(value) in (dict, list) and name not in _UNREAD_OBJECTS for name, value in fields.items()):
        return True
    return any(len(message) > 2 for message in fields.get("messages", ()))  # beside role and content


def choose_length(endpoint: Endpoint, prompt_characters: int) -> int:
    """Return the output length of a request that states none.

    Design: an engine behind a URL may refuse a length that does not fit beside the prompt; our own engines stop at the
    end of the context. The prompt's length is an estimate, so a part of the context is always tried."""
    context = endpoint.context_tokens
    free = context - prompt_characters // CHARACTERS_PER_TOKEN - USUAL_TEMPLATE_TOKENS
    fitting = endpoint.default_max_tokens if endpoint.strict else max(1, free, context // OUTPUT_PART)
    return min(endpoint.default_max_tokens, fitting)


def _check_length(asked: GenerationBody, fields: dict[str, Any], endpoint: Endpoint) -> int | None:
    """Return the requested output length."""
    length, name = asked.max_tokens, "max_tokens"
    other = fields.pop("max_completion_tokens", None)
    if other is not None:
        if length is not None and length != other:
            message = "'max_tokens' and 'max_completion_tokens' differ; send one of them"
            raise invalid_value(message, "max_completion_tokens")
        length, name = int(other), "max_completion_tokens"
    if length is not None:
        field_checks.check_length(length, name, endpoint)
    return length
