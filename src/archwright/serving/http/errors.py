"""Error responses of both interfaces.

Design: no error shows a path, an address, a stack trace or the name of another tenant. An engine's own message is
passed on only after locations are removed from it.
"""

import re
from http import HTTPStatus

import msgspec

from archwright.errors import ArchwrightError, EngineError, InternalError, StoreError
from archwright.http_client.client import EngineRefused
from archwright.serving.http.engine_refusals import (
    describe_upstream_problem,
    is_without_credit,
    parse_length_refusal,
    read_detail,
)
from archwright.serving.http.rate_headers import Rates, build_rate_headers

RETRY_S, LOAD_RETRY_S = 1, 5
MAX_MESSAGE_CHARACTERS = 400

_ERROR_TYPES = {
    HTTPStatus.UNAUTHORIZED: "authentication_error",
    HTTPStatus.FORBIDDEN: "permission_error",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
}
_MESSAGES_ERROR_TYPES = {
    **_ERROR_TYPES,
    HTTPStatus.NOT_FOUND: "not_found_error",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "request_too_large",
    HTTPStatus.SERVICE_UNAVAILABLE: "overloaded_error",
    HTTPStatus.GATEWAY_TIMEOUT: "timeout_error",
}
MESSAGES_PATH = "/v1/messages"  # of the Messages interface
RESPONSES_PATH = "/v1/responses"  # of the Responses interface
THREAD_UNSUPPORTED = "thread_unsupported_request"  # a Messages client then sends the complete conversation
TOO_LONG_WORDS = ("exceed_context", "context length", "context_length", "too large to process")
NOT_RETRIED = ("insufficient_quota", "upstream_misconfigured")
INVALID_REPLY_CODE = "AW-ENG-03"
ENGINE_OVERLOADED = 529  # status of an overloaded hosted provider

# Absolute paths, sockets and URLs in an engine's message.
_LOCATION = re.compile(r"(?:(?<!\w)\w++://\S+|unix:\S+|(?<![\w.])/(?:[\w.\-]+/)*[\w.\-]+)")


class ApiError(ArchwrightError):
    """A request that is not served; `status` and `openai_code`, a code of the OpenAI interface, state the reason.

    `rates`: limits and levels of the caller whose limit has no room. `is_callers_limit`: a limit of the caller refused
    the request, no lack of capacity."""

    rates: Rates = ()
    is_callers_limit = False

    def __init__(
        self,
        status: int,
        message: str,
        openai_code: str | None = None,
        *,
        param: str | None = None,
        retry_after_s: int | None = None,
        allow: tuple[str, ...] = (),
    ) -> None:
        super().__init__("AW-SRV-01", message)
        self.status, self.openai_code, self.param = status, openai_code, param
        self.retry_after_s, self.allow = retry_after_s, allow

    def openai_body(self) -> dict[str, object]:
        fallback = "server_error" if self.status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
        quota = self.openai_code == "insufficient_quota"
        kind = "insufficient_quota" if quota else _ERROR_TYPES.get(HTTPStatus(self.status), fallback)
        return {"error": {"message": self.message, "type": kind, "code": self.openai_code, "param": self.param}}

    def messages_body(self) -> dict[str, object]:
        fallback = "api_error" if self.status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
        kind = _MESSAGES_ERROR_TYPES.get(HTTPStatus(self.status), fallback)
        error: dict[str, object] = {"type": kind, "message": self.message}
        if self.openai_code == THREAD_UNSUPPORTED:
            error["details"] = {"error_code": self.openai_code}
        return {"type": "error", "error": error}

    def encode_body(self, path: str = "") -> bytes:
        """Encode the body in the format of the interface at `path`."""
        return msgspec.json.encode(self.messages_body() if path.startswith(MESSAGES_PATH) else self.openai_body())

    def encode_event(self, path: str) -> bytes:
        kind = b"event: error\n" if path.startswith(MESSAGES_PATH) else b""
        return b"%bdata: %b\n\n" % (kind, self.encode_body(path))

    def headers(self, path: str = "") -> list[tuple[bytes, bytes]]:
        fields = build_rate_headers(self.rates, messages=path.startswith(MESSAGES_PATH))
        if self.retry_after_s is not None:
            fields.append((b"retry-after", str(self.retry_after_s).encode()))
        if self.status == HTTPStatus.UNAUTHORIZED:
            fields.append((b"www-authenticate", b"Bearer"))
        if self.openai_code in NOT_RETRIED and self.retry_after_s is None:
            fields.append((b"x-should-retry", b"false"))  # read by the SDKs of OpenAI and Anthropic
        if self.allow:
            fields.append((b"allow", ", ".join(self.allow).encode()))
        return fields


class CallersLimitReached(ApiError):
    """A 429 that a limit of the caller causes."""

    is_callers_limit = True


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """Return a 400: the body, or the field `param` of the body, is not valid."""
    return ApiError(HTTPStatus.BAD_REQUEST, message, code, param=param)


def invalid_value(message: str, param: str) -> ApiError:
    return bad_request(message, param, "invalid_value")


def unsupported_value(message: str, param: str) -> ApiError:
    return bad_request(message, param, "unsupported_value")


def unsupported_field(message: str, param: str) -> ApiError:
    return bad_request(message, param, "unsupported_parameter")


def unknown_model(model: str, scope: str = "") -> ApiError:
    message = f"the model {model!r} does not exist{scope}; GET /v1/models lists the models"
    return ApiError(HTTPStatus.NOT_FOUND, message, "model_not_found", param="model")


def too_many_requests(message: str, code: str, retry_after_s: int | None = None, rates: Rates = ()) -> ApiError:
    error = ApiError(HTTPStatus.TOO_MANY_REQUESTS, message, code, retry_after_s=retry_after_s)
    error.rates = rates
    return error


def limit_reached(message: str, code: str, retry_after_s: int | None = None, rates: Rates = ()) -> ApiError:
    """Return a 429 that a limit of the caller causes, such as its rate, its budget or its quota."""
    error = CallersLimitReached(HTTPStatus.TOO_MANY_REQUESTS, message, code, retry_after_s=retry_after_s)
    error.rates = rates
    return error


def service_unavailable(message: str, code: str, retry_after_s: int = RETRY_S) -> ApiError:
    return ApiError(HTTPStatus.SERVICE_UNAVAILABLE, message, code, retry_after_s=retry_after_s)


def audit_unavailable() -> ApiError:
    return service_unavailable("The access decision could not be recorded. Retry the request.", "audit_unavailable")


def model_not_loaded() -> ApiError:
    message = "This model could not be loaded in time. Retry the request later."
    return service_unavailable(message, "model_not_loaded", LOAD_RETRY_S)


def engine_unavailable() -> ApiError:
    return service_unavailable("The model's engine is not available. Retry the request.", "engine_unavailable")


def invalid_reply() -> ApiError:
    message = "The reply of the model's engine is not valid. Retry the request, and report it if it repeats."
    return ApiError(HTTPStatus.BAD_GATEWAY, message, "engine_reply_invalid")


def gateway_timeout(message: str) -> ApiError:
    return ApiError(HTTPStatus.GATEWAY_TIMEOUT, message, "timeout", retry_after_s=RETRY_S)


def to_api_error(error: ArchwrightError) -> ApiError:
    if isinstance(error, ApiError):
        return error
    if isinstance(error, EngineRefused):
        return _from_engine_error(error)
    if isinstance(error, EngineError):
        return invalid_reply() if error.code == INVALID_REPLY_CODE else engine_unavailable()
    if isinstance(error, StoreError):
        return audit_unavailable()
    if isinstance(error, InternalError):
        message = "Internal error. Report the request id to the operator."
        return ApiError(HTTPStatus.INTERNAL_SERVER_ERROR, message, "bug")
    return service_unavailable("The service is not available. Retry the request.", "unavailable")


def _from_engine_error(error: EngineRefused) -> ApiError:
    """Return the error for an engine's refusal.

    Design: a wrong key, model name or path of the engine is the gateway's fault (502); a 400, or a request that the
    engine does not support, is the client's.
    """
    fields, message = read_detail(error)
    if is_without_credit(error):
        message = "The account of the model's provider has no credit left. This is no limit of your key."
        return too_many_requests(f"{message} Retrying does not help. Contact the operator.", "insufficient_quota")
    if problem := describe_upstream_problem(error):
        message = f"The gateway's configuration for this model's upstream is wrong: {problem}."
        message += " Retrying does not help. Contact the operator."
        return ApiError(HTTPStatus.BAD_GATEWAY, message, "upstream_misconfigured")
    if fields.get("code") == "content_filter" and error.status == HTTPStatus.BAD_REQUEST:
        message = f"The content filter of the model's provider refused the request: {redact_locations(message)}"
        return bad_request(message, code="content_filter")
    if (refusal := _read_length_refusal(error)) is not None:
        return refusal
    if error.unable or error.status in (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY):
        return bad_request(
            f"The model's engine refused the request: {redact_locations(message)}", code="engine_refused"
        )
    retry_s = error.retry_after_s or RETRY_S
    again = f"Retry after {retry_s} s."
    if error.status == HTTPStatus.TOO_MANY_REQUESTS:
        return too_many_requests(f"The model's engine is overloaded. {again}", "engine_overloaded", retry_s)
    if error.status == ENGINE_OVERLOADED:
        return service_unavailable(f"The model's provider is overloaded. {again}", "engine_overloaded", retry_s)
    if error.status == HTTPStatus.SERVICE_UNAVAILABLE:
        return service_unavailable(f"The model's engine is not ready. {again}", "engine_unavailable", retry_s)
    message = "The model's engine failed on this request. Retry the request."
    return ApiError(HTTPStatus.BAD_GATEWAY, message, "engine_failed", retry_after_s=RETRY_S)


def _read_length_refusal(error: EngineRefused) -> ApiError | None:
    """Return the error for a prompt or a `max_tokens` that does not fit; None for any other refusal."""
    (fields, text), length = read_detail(error), parse_length_refusal(error)
    if length is None and not any(words in f"{fields} {text}".lower() for words in TOO_LONG_WORDS):
        return None
    # In the exact words of both interfaces: clients look for them to shorten a conversation.
    message, param = f"prompt is too long: {redact_locations(text)}", "messages"
    if length is not None and not length.is_prompt_too_long:
        most = f"{length.prompt}. Send at most {length.context - length.prompt}"
        known = most if length.exact else f"at least {length.prompt}. Send less"
        message = f"this model's context holds {length.context} tokens; the prompt has {known}."
        message, param = f"'max_tokens' is too large: {message}", "max_tokens"
    elif length is not None and length.prompt:
        limit = f"{length.context} maximum. This model's maximum context length is {length.context} tokens."
        message = f"prompt is too long: {length.prompt} tokens > {limit}"
        message += f" However, your messages resulted in {length.prompt} tokens."
    return bad_request(message, param, "context_length_exceeded")


def redact_locations(text: str) -> str:
    """Return `text` on one line of limited length, without paths and addresses."""
    return _LOCATION.sub("...", " ".join(text.split()))[:MAX_MESSAGE_CHARACTERS]
