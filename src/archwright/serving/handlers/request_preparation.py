"""Prepare the handlers of requests that an engine answers: read, validate, choose the format of the reply."""

from typing import Any, TypeVar

from archwright.policy.cache_key import RequestKind
from archwright.serving.admission.metering import estimate_input_tokens
from archwright.serving.events.citation_writer import CitationWriter
from archwright.serving.events.messages_writer import MessagesWriter
from archwright.serving.events.response_formats import (
    ChatFormat,
    ChoiceFormat,
    CompletionFormat,
    OpenAIWriter,
    ResponseEnvelope,
    ResponseOptions,
)
from archwright.serving.events.responses_writer import ResponsesWriter
from archwright.serving.handlers.classification import ClassificationHandler, parse_classification_request
from archwright.serving.handlers.generation import GenerationHandler
from archwright.serving.handlers.request_handler import HandlerContext, HttpReply, json_reply
from archwright.serving.handlers.retrieval import RetrievalHandler
from archwright.serving.handlers.specialist_models import EmbeddingsHandler, RerankHandler
from archwright.serving.http.errors import ApiError
from archwright.serving.http.http_response import body_too_large
from archwright.serving.messages_api.request_translation import BETA_HEADER, translate_request
from archwright.serving.messages_api.schema import CountTokensRequest, MessagesRequest
from archwright.serving.requests.fast_path import parse_chat
from archwright.serving.requests.field_checks import decode_body
from archwright.serving.requests.model_resolution import ModelDirectory
from archwright.serving.requests.passage_prompt import parse_model_name, validate_passage_chat
from archwright.serving.requests.request_validation import (
    WORKLOAD_HEADER,
    GenerationRequest,
    validate_completion,
    validate_embedding,
    validate_rerank,
)
from archwright.serving.responses_api.request_translation import translate_request as translate_response
from archwright.serving.routing.attempts import start_attempts
from archwright.serving.routing.replica import Replica

W = TypeVar("W", bound=OpenAIWriter)


def _read_request(context: HandlerContext) -> tuple[dict[str, Any], ModelDirectory, str | None]:
    """Return the body, the models, and the workload that a header names."""
    return decode_body(context.request.body), context.gateway.directory, context.request.header(WORKLOAD_HEADER)


def prepare_chat(context: HandlerContext) -> GenerationHandler:
    request, directory = context.request, context.gateway.directory
    try:
        generation = parse_chat(request.body, directory, request.header(WORKLOAD_HEADER))
    except ApiError as error:
        if error.openai_code != "model_not_found":
            raise
        return _prepare_retrieval(context, error)
    return _prepare_generation(context, generation, "chat", ChatFormat())


def _prepare_retrieval(context: HandlerContext, unknown: ApiError) -> RetrievalHandler:
    """Prepare a chat about documents. Raises the error `unknown` if its model name does not mean one."""
    body = decode_body(context.request.body)
    dataset = parse_model_name(body.get("model"))
    if dataset is None:
        raise unknown
    workload = context.request.header(WORKLOAD_HEADER)
    chat = validate_passage_chat(body, dataset, context.gateway.directory, workload)
    check_text_size(context, chat.generation)
    return RetrievalHandler(context, chat, make_writer(context, chat.generation, ChatFormat(), CitationWriter))


def prepare_completion(context: HandlerContext) -> GenerationHandler:
    generation = validate_completion(*_read_request(context))
    prompt, choices = generation.body["prompt"], generation.choices // generation.contexts
    starts = [len(text) if type(text) is str else 0 for text in (prompt if generation.contexts > 1 else [prompt])]
    echoes = bool(generation.body.get("echo"))
    shape = CompletionFormat([0 if echoes else start for start in starts for _ in range(choices)])
    return _prepare_generation(context, generation, "completion", shape)


def _prepare_generation(
    context: HandlerContext, generation: GenerationRequest, kind: RequestKind, shape: ChoiceFormat
) -> GenerationHandler:
    writer = make_writer(context, generation, shape, OpenAIWriter)
    check_text_size(context, generation)
    return GenerationHandler(context, generation, kind, writer)


def make_writer(context: HandlerContext, generation: GenerationRequest, shape: ChoiceFormat, kind: type[W]) -> W:
    options = ResponseOptions(generation.top_logprobs, generation.include_usage, generation.choices)
    envelope = build_envelope(context, generation, shape.prefix)
    return kind(shape, envelope, options, stream=generation.stream)


def check_text_size(context: HandlerContext, generation: GenerationRequest) -> None:
    """Raise ApiError 413 if the body exceeds the limit for text by text that looks like image data."""
    limit = context.response.limits.body_bytes
    if len(context.request.body) - generation.parts.data_bytes > limit:
        raise body_too_large(limit)


def build_envelope(context: HandlerContext, generation: GenerationRequest, prefix: str) -> ResponseEnvelope:
    gateway = context.gateway
    reply_id = prefix + context.request.id[3:]
    return ResponseEnvelope(reply_id, int(gateway.clock()), generation.model, gateway.fingerprint)


def prepare_message(context: HandlerContext) -> GenerationHandler:
    generation = parse_message(context, MessagesRequest)
    stops = (generation.native or {}).get("stop_sequences") or generation.body.get("stop") or ()
    writer = MessagesWriter(build_envelope(context, generation, "msg_"), stops)
    return GenerationHandler(context, generation, "messages", writer)


def prepare_response(context: HandlerContext) -> GenerationHandler:
    generation, options = translate_response(*_read_request(context))
    check_text_size(context, generation)
    writer = ResponsesWriter(build_envelope(context, generation, "resp_"), options, context.gateway.clock)
    context.response.set_failure_format(writer.encode_error)
    return GenerationHandler(context, generation, "responses", writer)


def parse_message(context: HandlerContext, kind: type[MessagesRequest]) -> GenerationRequest:
    generation = translate_request(*_read_request(context), context.request.header(BETA_HEADER), kind)
    check_text_size(context, generation)
    return generation


async def count_tokens(context: HandlerContext) -> HttpReply:
    """Count the tokens of a message's prompt, by the engine that would answer it."""
    gateway = context.gateway
    if not context.request.admitted.counted:
        gateway.accounting.count_request(context.request.principal)
    generation = parse_message(context, CountTokensRequest)
    context.response.watch_disconnect()
    tenant = context.request.principal.tenant
    if generation.parts.urls:
        await gateway.images.insert_images(generation.parts.urls, context.response, tenant)
    if generation.documents:
        await gateway.documents.insert_texts(generation.documents, generation.body["messages"], tenant)
    content = generation.native or generation.body
    attempts = await start_attempts(gateway.router, context.request, context.response, generation, content)

    async def count(replica: Replica) -> int | None:
        model = replica.client.model_override
        native = None if generation.native is None else {**generation.native, **model}
        body = {**replica.break_special_tokens(generation.body), **model}
        return await replica.provider.count_tokens(replica.client, body, native, generation.betas)

    slot = gateway.router.build_slot_request(generation, attempts.tenant, attempts.data_class, attempts.until)
    tokens = await attempts.run(slot, count)
    if tokens is None:
        tokens = estimate_input_tokens(generation)
    return json_reply({"input_tokens": tokens})


def prepare_embeddings(context: HandlerContext) -> EmbeddingsHandler:
    return EmbeddingsHandler(context, validate_embedding(*_read_request(context)))


def prepare_rerank(context: HandlerContext) -> RerankHandler:
    return RerankHandler(context, validate_rerank(*_read_request(context)))


def prepare_classification(context: HandlerContext) -> ClassificationHandler:
    wanted = parse_classification_request(context.request.body, context.gateway.directory, context.name)
    return ClassificationHandler(context, wanted)
