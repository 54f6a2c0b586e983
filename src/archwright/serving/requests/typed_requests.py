"""The typed record of each OpenAI endpoint's body.

The types state kind, range, length and literal of a field; `request_validation` makes the checks that no type states.
A null field counts as absent. JSON booleans are no numbers, and numbers with a fraction are no integers. An unknown
field inside an object is invalid. `field_selection` judges the fields of a body that its record does not have.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from archwright.serving.http.errors import ApiError, bad_request

MAX_TEXT_CHARACTERS = 512
MAX_MODEL_NAME_CHARACTERS = 256
MAX_MESSAGES = 4_096
MAX_TOOLS = 128
MAX_CHOICES = 128
MAX_DOCUMENTS = 1_024
MAX_PROBLEM_CHARACTERS = 200

Label = Annotated[str, Meta(max_length=MAX_TEXT_CHARACTERS)]
Text = Annotated[str, Meta(min_length=1)]
Share = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Temperature = Annotated[float, Meta(ge=0, le=2)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
TokenCount = Annotated[int, Meta(ge=1)]
ModelName = Annotated[str, Meta(max_length=MAX_MODEL_NAME_CHARACTERS)]
Stop = Annotated[str, Meta(min_length=1, max_length=MAX_TEXT_CHARACTERS)]
TokenId = Annotated[str, Meta(pattern=r"^[0-9]{1,9}\Z")]
LogitBias = Annotated[dict[TokenId, Annotated[float, Meta(ge=-100, le=100)]], Meta(max_length=1_024)]
Metadata = Annotated[dict[Annotated[str, Meta(max_length=64)], Label], Meta(max_length=16)]


class RequestPart(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """An object inside a body, of which every field is known."""


class RequestBody(msgspec.Struct, gc=False, kw_only=True):
    """A body; its other fields are not looked at."""


class StreamOptions(RequestPart, kw_only=True):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    continuous_usage_stats: bool | None = None  # accepted and not passed on: the last chunk has the usage


class TextFormat(RequestPart, tag="text", tag_field="type"):
    """The reply is text."""


class JsonObjectFormat(RequestPart, tag="json_object", tag_field="type"):
    """The reply is a JSON object."""


class JsonSchema(RequestPart, kw_only=True):
    name: Label
    schema: dict[str, Any]
    description: Label | None = None
    strict: bool | None = None


class JsonSchemaFormat(RequestPart, tag="json_schema", tag_field="type"):
    """The reply is a JSON document of the schema."""

    json_schema: JsonSchema


class PredictedContent(RequestPart):
    type: Literal["content"]
    content: str | list[dict[str, str]]


class ModelRequest(RequestBody, kw_only=True):
    """A body that names its model."""

    model: ModelName


class GenerationBody(ModelRequest, kw_only=True):
    """The fields that chats and completions share. `top_k` -1: no limit, for some engines behind a URL."""

    max_tokens: TokenCount | None = None
    temperature: Temperature | None = None
    top_p: Share | None = None
    top_k: Annotated[int, Meta(ge=-1, le=1_000_000)] | None = None
    min_p: Share | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: LogitBias | None = None
    seed: Seed | None = None
    stop: Stop | Annotated[list[Stop], Meta(max_length=4)] | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Label | None = None
    ignore_eos: bool | None = None
    cache_prompt: bool | None = None


class ChatRequest(GenerationBody, kw_only=True):
    """POST /v1/chat/completions. `message_validation` checks messages, tools and the choice of a tool."""

    messages: Annotated[list[dict[str, Any]], Meta(min_length=1, max_length=MAX_MESSAGES)]
    tools: Annotated[list[dict[str, Any]], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    max_completion_tokens: TokenCount | None = None
    response_format: TextFormat | JsonObjectFormat | JsonSchemaFormat | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None
    prompt_cache_retention: Label | None = None
    metadata: Metadata | None = None
    store: bool | None = None
    service_tier: Label | None = None
    reasoning_effort: Label | None = None
    verbosity: Label | None = None
    prediction: PredictedContent | None = None
    modalities: list[str] | None = None
    functions: list[Any] | None = None


class CompletionRequest(GenerationBody, kw_only=True):
    """POST /v1/completions."""

    prompt: str | list[Any]
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    echo: bool | None = None
    best_of: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    suffix: str | None = None


class EmbeddingRequest(ModelRequest, kw_only=True):
    """POST /v1/embeddings. An embedding has no output, so it has no length. `input`: texts or token ids."""

    input: str | list[Any]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: TokenCount | None = None
    user: Label | None = None


class RerankDocument(RequestPart):
    text: Text


class RerankRequest(ModelRequest, kw_only=True):
    """POST /v1/rerank."""

    query: Text
    documents: Annotated[list[Text | RerankDocument], Meta(min_length=1, max_length=MAX_DOCUMENTS)]
    top_n: TokenCount | None = None
    return_documents: bool | None = None


R = TypeVar("R", bound=msgspec.Struct)


def check_types(body: Mapping[str, Any], kind: type[R], *, dotted: bool = False, strict: bool = True) -> R:
    """Return the record of a body. Raises ApiError 400.

    `dotted`: name a place as messages.0.content. `strict` False: for a form, whose values are texts."""
    try:
        return msgspec.convert(body, kind, strict=strict)
    except msgspec.ValidationError as error:
        raise describe_invalid(error, dotted=dotted) from None


def describe_invalid(error: msgspec.ValidationError, at: str = "", *, dotted: bool = False) -> ApiError:
    """Return the error 400 that names the invalid field of the object at the place `at`."""
    problem, _, path = str(error).partition(" - at ")
    place = path.rpartition("`$")[2].strip("`").replace("[...]", "")
    name = (at + place).lstrip(".")
    if dotted:
        name = name.replace("[", ".").replace("]", "")
    quoted = problem.split("`")[1][:80] if "`" in problem else ""
    for start, said, code in (
        ("Object missing required field", "{} is required", "missing_required_parameter"),
        ("Object contains unknown field", "unknown field {}", "unknown_parameter"),
    ):
        if problem.startswith(start):
            name = f"{name}.{quoted}" if name else quoted
            return bad_request(said.format(repr(name)), name, code)
    if problem.endswith("got `null`"):  # every optional field may be null
        return bad_request(f"{name!r} is required", name, "missing_required_parameter")
    problem = problem.replace("`", "").replace(" | null", "")[:MAX_PROBLEM_CHARACTERS]
    code = "invalid_type" if ", got " in problem else "invalid_value"
    return bad_request(f"{name!r}: {problem[:1].lower()}{problem[1:]}", name or None, code)
