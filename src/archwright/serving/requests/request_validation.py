"""Validate a request body by the field tables below.

Design: the gateway validates although engines do, because engines accept anything: they silently ignore unknown fields
and invalid values, so a client's mistake would be charged and not reported. Unknown fields are rejected for our own
engines, and passed on to engines behind a URL.
"""

from collections.abc import Mapping
from typing import Any

from archwright.contract.record import Record
from archwright.serving.http.errors import bad_request, invalid_value, unsupported_field, unsupported_value
from archwright.serving.requests import field_checks, message_validation
from archwright.serving.requests.model_resolution import ModelDirectory, ResolvedModel
from archwright.serving.requests.multimodal import TEXT_ONLY, MultimodalParts, count_parts
from archwright.serving.settings.config import Endpoint

MAX_INPUTS = 2_048
MAX_TOKEN_ID = 2**31 - 1  # engines store a token id in 32 bits
CHARACTERS_PER_TOKEN = 4  # rough estimate for routing and charges
WORKLOAD_HEADER = b"x-archwright-workload"


class GenerationRequest(Record):
    """The body for the engine, and the client's options for the reply.

    `plain`: the plan's model itself, without an adapter. `native`, `betas`: the client's body and header if client and
    provider both use the Messages interface. `contexts`: number of texts, each with its own context. `input_tokens`:
    known only if the input is token ids."""

    model: str
    endpoint: Endpoint
    body: dict[str, Any]
    plain: bool = False
    stream: bool = False
    include_usage: bool = False
    top_logprobs: int | None = None
    prompt_characters: int = 0
    base64: bool = False
    choices: int = 1
    native: dict[str, Any] | None = None
    betas: str = ""
    parts: MultimodalParts = TEXT_ONLY
    contexts: int = 1
    input_tokens: int | None = None

    @property
    def work_tokens(self) -> int:
        """Upper bound of the request's work for a replica."""
        return int(self.body.get("max_tokens", 0)) + self.prompt_characters // CHARACTERS_PER_TOKEN


def check_prompt(value: Any, name: str, _endpoint: Endpoint) -> str:
    prompt = value[0] if type(value) is list and len(value) == 1 else value
    if type(prompt) is not str or not prompt:
        message = "must be one non-empty string; several prompts or token ids are not supported in this release"
        raise unsupported_value(f"{name!r} {message}", name)
    return prompt


def check_inputs(value: Any, name: str, endpoint: Endpoint) -> list[str] | list[list[int]]:
    inputs = [value] if type(value) is str or _is_token_ids(value) else value
    fits = type(inputs) is list and 0 < len(inputs) <= MAX_INPUTS
    if not fits or not (all(type(text) is str and text for text in inputs) or all(map(_is_token_ids, inputs))):
        message = f"must be a non-empty string, a list of token ids, or 1 to {MAX_INPUTS} of either"
        raise invalid_value(f"{name!r} {message}", name)
    longest = max(map(len, inputs)) if type(inputs[0]) is list else 0
    if longest > endpoint.context_tokens:
        message = f"a text of {name!r} has {longest} tokens, but this model's context holds {endpoint.context_tokens}"
        raise bad_request(message, name, "context_length_exceeded")
    return inputs


def _is_token_ids(value: Any) -> bool:
    """True for a list of token ids. Checked as a whole, because a list may hold a million ids."""
    return type(value) is list and set(map(type, value)) == {int} and min(value) >= 0 and max(value) <= MAX_TOKEN_ID


def check_encoding(value: Any, name: str, _endpoint: Endpoint) -> str:
    if value not in ("float", "base64"):
        raise invalid_value(f"{name!r} must be 'float' or 'base64'", name)
    return str(value)


def check_top_k(value: Any, name: str, endpoint: Endpoint) -> int:
    """Allow -1 for engines behind a URL, some of which read it as no limit."""
    checked: int = field_checks.integer_between(0 if endpoint.strict else -1, 1_000_000)(value, name, endpoint)
    return checked


SAMPLING_FIELDS: dict[str, field_checks.Check] = {
    "max_tokens": field_checks.check_max_tokens,
    "temperature": field_checks.number_between(0, 2),
    "top_p": field_checks.number_between(0, 1),
    "top_k": check_top_k,
    "min_p": field_checks.number_between(0, 1),
    "presence_penalty": field_checks.number_between(-2, 2),
    "frequency_penalty": field_checks.number_between(-2, 2),
    "logit_bias": field_checks.check_logit_bias,
    "seed": field_checks.check_seed,
    "stop": field_checks.check_stop,
    "n": field_checks.check_choice_count,
    "stream": field_checks.check_boolean,
    "stream_options": field_checks.check_stream_options,
    "user": field_checks.check_label,
    "ignore_eos": field_checks.check_boolean,
    "cache_prompt": field_checks.check_boolean,
}

CHAT_FIELDS: dict[str, field_checks.Check] = {
    **SAMPLING_FIELDS,
    "messages": message_validation.check_messages,
    "tools": message_validation.check_tools,
    "tool_choice": message_validation.check_tool_choice,
    "parallel_tool_calls": field_checks.check_boolean,
    "max_completion_tokens": field_checks.check_max_tokens,
    "response_format": field_checks.check_response_format,
    "logprobs": field_checks.check_boolean,
    "top_logprobs": field_checks.integer_between(0, 20),
    "safety_identifier": field_checks.check_label,
    "prompt_cache_key": field_checks.check_label,
    "prompt_cache_retention": field_checks.check_label,
    "metadata": field_checks.check_metadata,
    "store": field_checks.allow_only((False,), "replies are not stored"),
    "service_tier": field_checks.allow_only(("auto", "default"), "this model has one service tier"),
    **dict.fromkeys(
        ("functions", "function_call", "audio", "modalities", "web_search_options"), field_checks.reject_unrepresentable
    ),
    **dict.fromkeys(("prediction", "reasoning_effort", "verbosity"), field_checks.reject_unsupported),
}

COMPLETION_FIELDS: dict[str, field_checks.Check] = {
    **SAMPLING_FIELDS,
    "prompt": check_prompt,
    "logprobs": field_checks.integer_between(0, 5),
    "echo": field_checks.allow_only((False,), "the prompt is not echoed in this release"),
    "best_of": field_checks.allow_only((1,), "this release generates one choice per request"),
    "suffix": field_checks.allow_only(("",), "inserting text is not supported in this release"),
}

EMBEDDING_FIELDS: dict[str, field_checks.Check] = {
    "input": check_inputs,
    "encoding_format": check_encoding,
    "dimensions": field_checks.reject_unsupported,
    "user": field_checks.check_label,
}


# Fields of other engines for the reply length or for hidden replies. They would exceed the reservation.
LENGTH_OVERRIDES = frozenset(
    {"n_predict", "num_predict", "max_new_tokens", "max_output_tokens", "max_tokens_to_sample"}
    | {"use_beam_search", "n_cmpl"}
)
# Fields for the operator of an engine or proxy, which no caller may set: other hosts, requests and slots by name,
# priority, code and templates (of unbounded cost), a model or adapter other than the resolved and priced one.
OPERATOR_FIELDS = frozenset(
    {"kv_transfer_params", "ec_transfer_params", "vllm_xargs", "data_parallel_rank", "disagg_prefill_dp_rank"}
    | {"bootstrap_host", "bootstrap_port", "bootstrap_room", "bootstrap_pair_key", "decode_tp_size"}
    | {"request_id", "rid", "id_slot", "session_params", "priority", "data_sources"}
    | {"custom_logit_processor", "custom_params", "logits_processors", "chat_template"}
    | {"models", "plugins", "lora", "lora_path", "adapter_id"}
)


def validate_chat(body: Mapping[str, Any], directory: ModelDirectory, workload: str | None) -> GenerationRequest:
    return validate_chat_fields(_without_model(body), directory.resolve(body.get("model"), workload))


def validate_chat_fields(body: Mapping[str, Any], found: ResolvedModel) -> GenerationRequest:
    """Validate the fields of a chat, without its model name, for the resolved endpoint."""
    fields = field_checks.check_fields(body, CHAT_FIELDS, found.endpoints[0])
    field_checks.require_field(fields.get("messages"), "messages")
    message_validation.check_tool_consistency(fields)
    top = fields.pop("top_logprobs", None) or 0
    logprobs = fields.pop("logprobs", False)
    if top and not logprobs:
        raise invalid_value("'top_logprobs' needs 'logprobs': true", "top_logprobs")
    if logprobs:
        fields.update(logprobs=True, top_logprobs=max(1, top))
    characters = message_validation.count_characters(fields["messages"])
    return _build_request(found, fields, top if logprobs else None, characters, count_parts(fields))


def validate_completion(body: Mapping[str, Any], directory: ModelDirectory, workload: str | None) -> GenerationRequest:
    found = directory.resolve(body.get("model"), workload)
    fields = field_checks.check_fields(_without_model(body), COMPLETION_FIELDS, found.endpoints[0])
    field_checks.require_field(fields.get("prompt"), "prompt")
    top = fields.pop("logprobs", None)
    if top is not None:
        # Engines read 0 as "none", but OpenAI means only the chosen token. The extra entry is removed from the reply.
        fields["logprobs"] = max(1, top)
    return _build_request(found, fields, top, len(fields["prompt"]))


def validate_embedding(body: Mapping[str, Any], directory: ModelDirectory, workload: str | None) -> GenerationRequest:
    found = directory.resolve(body.get("model"), workload)
    endpoint = next((spec for spec in found.endpoints if spec.embeddings), None)
    if endpoint is None:
        raise bad_request(f"the model {found.name!r} does not support embeddings", "model", "unsupported_model")
    fields = field_checks.check_fields(_without_model(body), EMBEDDING_FIELDS, endpoint)
    _reject_operator_fields(fields)
    texts: list[str] | list[list[int]] = field_checks.require_field(fields.get("input"), "input")
    sent = {**fields, "model": endpoint.model, "input": texts, "encoding_format": "float"}
    size, is_tokens = sum(map(len, texts)), type(texts[0]) is list
    return GenerationRequest(
        model=found.name,
        endpoint=endpoint,
        body=sent,
        plain=found.plain,
        prompt_characters=size * CHARACTERS_PER_TOKEN if is_tokens else size,
        base64=fields.get("encoding_format") == "base64",
        contexts=len(texts),
        input_tokens=size if is_tokens else None,
    )


def _without_model(body: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name != "model"}


def _build_request(
    found: ResolvedModel, fields: dict[str, Any], top: int | None, characters: int, parts: MultimodalParts = TEXT_ONLY
) -> GenerationRequest:
    endpoint = found.endpoints[0]
    field_checks.require_list_price(fields, endpoint)
    length = fields.pop("max_completion_tokens", None)
    if length is not None and fields.setdefault("max_tokens", length) != length:
        message = "'max_tokens' and 'max_completion_tokens' differ; send one of them"
        raise invalid_value(message, "max_completion_tokens")
    fields.setdefault("max_tokens", endpoint.default_max_tokens)
    reject_unbounded(fields)
    stream = bool(fields.pop("stream", False))
    options = fields.pop("stream_options", None)
    if options is not None and not stream:
        raise invalid_value("'stream_options' needs 'stream': true", "stream_options")
    return GenerationRequest(
        model=found.name,
        endpoint=endpoint,
        body={**fields, "model": endpoint.model},
        plain=found.plain,
        stream=stream,
        include_usage=bool(options and options.get("include_usage")),
        top_logprobs=top,
        prompt_characters=characters,
        choices=fields.get("n", 1),
        parts=parts,
    )


def _reject_operator_fields(fields: Mapping[str, Any]) -> None:
    for name in OPERATOR_FIELDS & fields.keys():
        if fields[name] is not None:
            raise unsupported_field(f"{name!r} is not supported: only the operator of the engine may set it", name)


def reject_unbounded(fields: Mapping[str, Any]) -> None:
    """Raise ApiError 400 for operator fields, and for length fields other than `max_tokens` and `n`."""
    _reject_operator_fields(fields)
    for name in LENGTH_OVERRIDES & fields.keys():
        raise unsupported_field(f"{name!r} is not supported; limit the reply with 'max_tokens'", name)
    if fields.get("best_of") not in (None, 1, fields.get("n", 1)):
        raise unsupported_value("'best_of' must be 1 or equal to 'n'", "best_of")
