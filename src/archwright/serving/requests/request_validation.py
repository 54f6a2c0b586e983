"""A body becomes a question an engine can be asked: checked whole, with the endpoint it goes to.

The three tables below are the interface: a field not in them is refused by name (400, param), or passed on where the
engine stands behind a URL. What each does with its field is its check's to say: taken, passed on, or understood and
of no meaning to an engine (`label`, `metadata`, `only`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from archwright.contract.record import Record
from archwright.serving.http.errors import bad
from archwright.serving.requests.field_checks import (
    Check,
    at_list_price,
    boolean,
    checked,
    choices,
    integer,
    label,
    length,
    logit_bias,
    metadata,
    number,
    only,
    required,
    response_format,
    seed,
    stop,
    stream_options,
    unheard,
    unsupported,
)
from archwright.serving.requests.message_validation import agree, characters, messages, tool_choice, tools
from archwright.serving.requests.model_resolution import Directory, Found
from archwright.serving.requests.multimodal import TEXT_ALONE, Parts, parts_of
from archwright.serving.settings.config import Endpoint

INPUTS = 2_048
LAST_TOKEN = 2**31 - 1  # engines keep a token's id in 32 bits
# Rough characters per token, to weigh a prompt for routing; nothing is decided on its exactness.
CHARACTERS_PER_TOKEN = 4
WORKLOAD = b"x-archwright-workload"  # the header


class Question(Record):
    """What goes to the engine (`body`) and what the client wants to see of the answer. `plain`: the client asked for
    the plan's model itself, without an adapter. `parts` says what is no text in it. `native` is the client's own body
    where it spoke the Messages interface and the model's provider does too. `contexts`: so many texts each have
    the model's context to themselves; `input_tokens`: how many they are, where they came as token ids. `betas` go with
    what is native."""

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
    parts: Parts = TEXT_ALONE
    contexts: int = 1
    input_tokens: int | None = None

    @property
    def work_tokens(self) -> int:
        """What this may ask of a replica at most."""
        return int(self.body.get("max_tokens", 0)) + self.prompt_characters // CHARACTERS_PER_TOKEN


def prompt(value: Any, name: str, _endpoint: Endpoint) -> str:
    one = value[0] if type(value) is list and len(value) == 1 else value
    if type(one) is not str or not one:
        message = (
            f"{name!r} must be one non-empty string; several prompts or token ids are not supported in this release"
        )
        raise bad(message, name, "unsupported_value")
    return one


def inputs(value: Any, name: str, endpoint: Endpoint) -> list[str] | list[list[int]]:
    """Texts, or each text's token ids."""
    found = [value] if type(value) is str or _token_ids(value) else value
    fits = type(found) is list and 0 < len(found) <= INPUTS
    if not fits or not (all(type(i) is str and i for i in found) or all(map(_token_ids, found))):
        message = f"{name!r} must be a non-empty string, a list of token ids, or 1 to {INPUTS} of either"
        raise bad(message, name, "invalid_value")
    longest = max(len(i) for i in found if type(i) is list) if type(found[0]) is list else 0
    if longest > endpoint.context_tokens:
        message = f"{name!r} has {longest} tokens in one text, this model's context holds {endpoint.context_tokens}"
        raise bad(message, name, "context_length_exceeded")
    return found


def _token_ids(value: Any) -> bool:
    """There may be a million of them, so none is looked at alone."""
    return type(value) is list and set(map(type, value)) == {int} and min(value) >= 0 and max(value) <= LAST_TOKEN


def encoding(value: Any, name: str, _endpoint: Endpoint) -> str:
    if value not in ("float", "base64"):
        raise bad(f"{name!r} must be 'float' or 'base64'", name, "invalid_value")
    return str(value)


def top_k(value: Any, name: str, endpoint: Endpoint) -> int:
    """Elsewhere -1 may say: no limit."""
    found: int = integer(0 if endpoint.strict else -1, 1_000_000)(value, name, endpoint)
    return found


SAMPLING: dict[str, Check] = {
    "max_tokens": length,
    "temperature": number(0, 2),
    "top_p": number(0, 1),
    "top_k": top_k,
    "min_p": number(0, 1),
    "presence_penalty": number(-2, 2),
    "frequency_penalty": number(-2, 2),
    "logit_bias": logit_bias,
    "seed": seed,
    "stop": stop,
    "n": choices,
    "stream": boolean,
    "stream_options": stream_options,
    "user": label,
    "ignore_eos": boolean,
    "cache_prompt": boolean,
}

CHAT: dict[str, Check] = {
    **SAMPLING,
    "messages": messages,
    "tools": tools,
    "tool_choice": tool_choice,
    "parallel_tool_calls": boolean,
    "max_completion_tokens": length,
    "response_format": response_format,
    "logprobs": boolean,
    "top_logprobs": integer(0, 20),
    "safety_identifier": label,
    "prompt_cache_key": label,
    "prompt_cache_retention": label,
    "metadata": metadata,
    "store": only((False,), "replies are not stored"),
    "service_tier": only(("auto", "default"), "there is one tier"),
    **dict.fromkeys(("functions", "function_call", "audio", "modalities", "web_search_options"), unheard),
    **dict.fromkeys(
        (
            "prediction",
            "reasoning_effort",
            "verbosity",
        ),
        unsupported,
    ),
}

COMPLETION: dict[str, Check] = {
    **SAMPLING,
    "prompt": prompt,
    "logprobs": integer(0, 5),
    "echo": only((False,), "the prompt is not echoed in this release"),
    "best_of": only((1,), "this release makes one choice a request"),
    "suffix": only(("",), "inserting text is not supported in this release"),
}

EMBEDDING: dict[str, Check] = {
    "input": inputs,
    "encoding_format": encoding,
    "dimensions": unsupported,
    "user": label,
}


# Other engines' words for the length of an answer, and for answers that are made and not shown: passed on they would
# bring more than was reserved.
OUTRUNS = frozenset(
    {
        *("n_predict", "num_predict", "max_new_tokens", "max_output_tokens", "max_tokens_to_sample", "use_beam_search"),
        "n_cmpl",
    }
)
# What is for who runs an engine or a proxy, and would let one caller reach past what he was let in for: other hosts it
# fetches from or gives to, requests and slots by their names, a turn before others, code and templates it runs (of
# which no length of a body is a bound), another model or adapter than the one that was chosen and priced.
FOR_OPERATORS = frozenset(
    {
        *("kv_transfer_params", "ec_transfer_params", "vllm_xargs", "data_parallel_rank", "disagg_prefill_dp_rank"),
        *("bootstrap_host", "bootstrap_port", "bootstrap_room", "bootstrap_pair_key", "decode_tp_size"),
        *("request_id", "rid", "id_slot", "session_params", "priority", "data_sources"),
        *("custom_logit_processor", "custom_params", "logits_processors", "chat_template"),
        *("models", "plugins", "lora", "lora_path", "adapter_id"),
    }
)


def chat(body: Mapping[str, Any], directory: Directory, workload: str | None) -> Question:
    return conversation(_but_model(body), directory.find(body.get("model"), workload))


def conversation(body: Mapping[str, Any], found: Found) -> Question:
    """A chat's fields, but for the model's name, as a question to what was found."""
    fields = checked(body, CHAT, found.endpoints[0])
    required(fields.get("messages"), "messages")
    agree(fields)
    top = _chat_logprobs(fields)
    return _question(found, fields, top, characters(fields["messages"]), parts_of(fields))


def completion(body: Mapping[str, Any], directory: Directory, workload: str | None) -> Question:
    found = directory.find(body.get("model"), workload)
    fields = checked(_but_model(body), COMPLETION, found.endpoints[0])
    required(fields.get("prompt"), "prompt")
    top = fields.pop("logprobs", None)
    if top is not None:
        # An engine reads 0 as "none at all"; OpenAI means the chosen token alone. The surplus is cut from the reply.
        fields["logprobs"] = max(1, top)
    return _question(found, fields, top, len(fields["prompt"]))


def embedding(body: Mapping[str, Any], directory: Directory, workload: str | None) -> Question:
    found = directory.find(body.get("model"), workload)
    able = next((spec for spec in found.endpoints if spec.embeddings), None)
    if able is None:
        raise bad(f"the model {found.name!r} cannot make embeddings", "model", "unsupported_model")
    fields = checked(_but_model(body), EMBEDDING, able)
    _for_callers(fields)
    texts: list[str] | list[list[int]] = required(fields.get("input"), "input")
    asked = fields.get("encoding_format", "float")
    sent = {**fields, "model": able.model, "input": texts, "encoding_format": "float"}
    size, coded = sum(map(len, texts)), type(texts[0]) is list
    return Question(
        model=found.name,
        endpoint=able,
        body=sent,
        plain=found.plain,
        prompt_characters=size * CHARACTERS_PER_TOKEN if coded else size,
        base64=asked == "base64",
        contexts=len(texts),
        input_tokens=size if coded else None,
    )


def _but_model(body: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name != "model"}


def _chat_logprobs(fields: dict[str, Any]) -> int | None:
    """How many alternatives the client wants; None for no log-probabilities at all."""
    top = fields.pop("top_logprobs", None)
    if not fields.pop("logprobs", False):
        if top:
            raise bad("'top_logprobs' needs 'logprobs': true", "top_logprobs", "invalid_value")
        return None
    fields["logprobs"] = True
    fields["top_logprobs"] = max(1, top or 0)
    return top or 0


def _question(
    found: Found, fields: dict[str, Any], top: int | None, characters: int, parts: Parts = TEXT_ALONE
) -> Question:
    endpoint = found.endpoints[0]
    at_list_price(fields, endpoint)
    wanted = fields.pop("max_completion_tokens", None)
    if wanted is not None and fields.setdefault("max_tokens", wanted) != wanted:
        message = "'max_tokens' and 'max_completion_tokens' disagree: send one of them"
        raise bad(message, "max_completion_tokens", "invalid_value")
    fields.setdefault("max_tokens", endpoint.default_max_tokens)
    bounded(fields)
    stream = bool(fields.pop("stream", False))
    options = fields.pop("stream_options", None)
    if options is not None and not stream:
        raise bad("'stream_options' needs 'stream': true", "stream_options", "invalid_value")
    body = {**fields, "model": endpoint.model}
    return Question(
        model=found.name,
        endpoint=endpoint,
        body=body,
        plain=found.plain,
        stream=stream,
        include_usage=bool(options and options.get("include_usage")),
        top_logprobs=top,
        prompt_characters=characters,
        choices=fields.get("n", 1),
        parts=parts,
    )


def _for_callers(fields: Mapping[str, Any]) -> None:
    for name in FOR_OPERATORS & fields.keys():
        if fields[name] is not None:
            message = f"{name!r} is not supported: it is for who runs the engine"
            raise bad(message, name, "unsupported_parameter")


def bounded(fields: Mapping[str, Any]) -> None:
    """Nothing beside `max_tokens` and `n` says how much is made, nothing how an engine is run. Raises Refusal 400."""
    _for_callers(fields)
    for name in OUTRUNS & fields.keys():
        raise bad(
            f"{name!r} is not supported; 'max_tokens' says how long an answer may be", name, "unsupported_parameter"
        )
    if fields.get("best_of") not in (None, 1, fields.get("n", 1)):
        raise bad("'best_of' must be 1, or as much as 'n'", "best_of", "unsupported_value")
