"""Read an engine's refusal: a length that does not fit, or a fault of the gateway's configuration or account.

Design: a figure is believed only in an engine's own words at the beginning of its message, or in llama.cpp's fields.
Some engines quote the client's text, which could contain any figure.
"""

import re
from http import HTTPStatus
from typing import Any, NamedTuple

from archwright.http_client.client import EngineRefused

# The forms of OpenAI, of engines with its interface, and of this gateway, which may be an upstream itself.
_LENGTH_REFUSAL_FORMS = (
    r"(?:'max_tokens' or 'max_completion_tokens' is too large: \d+\. )?This model's maximum context length is "
    r"(?P<context>\d+) tokens(?:.*?(?:\(|has |contains |resulted in )(?P<least>at least )?(?P<prompt>\d+) )?",
    r"Requested token count exceeds the model's maximum context length of (?P<context>\d+) "
    r"(?:.*? tokens: (?P<prompt>\d+) )?",
    r"The input \((?P<prompt>\d+) tokens\) is longer than the model's context length \((?P<context>\d+) ",
    r"'max_(?:completion_)?tokens' is \d+, but this model's context holds (?P<context>\d+) tokens",
    r"prompt is too long: (?P<prompt>\d+) tokens > (?P<context>\d+) maximum",
    r"You passed (?P<prompt>\d+) input tokens and .*? the model's context length is only (?P<context>\d+) ",
)
_LENGTH_REFUSALS = [re.compile(form, re.DOTALL) for form in _LENGTH_REFUSAL_FORMS]
MAX_TOKENS = 1 << 30  # a larger figure is not plausible
OUTPUT_PART = 8  # an output gets this part of the context if the prompt's length is not known
_NO_CREDIT_KINDS = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"}
_NO_MODEL_KINDS = {"model_not_found", "DeploymentNotFound", "invalid_model"}
_MODEL_WORD = re.compile(r"\b(?:model|deployment)s?\b", re.IGNORECASE)


class LengthRefusal(NamedTuple):
    """`prompt` input tokens (`exact`, or at least so many; 0: not stated) and the output do not fit into `context`."""

    context: int
    prompt: int = 0
    exact: bool = True

    @property
    def is_prompt_too_long(self) -> bool:
        return not self.prompt or self.prompt >= self.context

    def fit_length(self, length: int) -> int:
        """Return an output length below `length` that fits; less than 1 if there is none."""
        if self.prompt and self.exact:
            return min(length - 1, self.context - self.prompt)
        return 0 if self.prompt >= self.context else min(length - 1, self.context // OUTPUT_PART)


def read_detail(error: EngineRefused) -> tuple[dict[str, Any], str]:
    """Return the fields of a refusal and its message. Some engines lack the level `error`, or say `detail`."""
    detail = error.body.get("error", error.body)
    fields = detail if isinstance(detail, dict) else {}
    return fields, str(fields.get("message") or fields.get("detail") or detail or "no reason given")


def parse_length_refusal(error: EngineRefused) -> LengthRefusal | None:
    fields, message = read_detail(error)
    prompt, context = fields.get("n_prompt_tokens"), fields.get("n_ctx")
    if type(prompt) is int and type(context) is int and 0 < context < MAX_TOKENS:
        return LengthRefusal(context, prompt)
    match = next(filter(None, (form.match(message) for form in _LENGTH_REFUSALS)), None)
    if match is None or error.status not in (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY):
        return None
    found = match.groupdict()
    refusal = LengthRefusal(int(found["context"]), int(found.get("prompt") or 0), not found.get("least"))
    return refusal if 0 < refusal.context < MAX_TOKENS else None


def is_without_credit(error: EngineRefused) -> bool:
    """True if the provider's account has no credit, so that no retry helps."""
    fields, message = read_detail(error)
    if error.status == HTTPStatus.PAYMENT_REQUIRED or "credit balance is too low" in message:
        return error.status in (HTTPStatus.PAYMENT_REQUIRED, HTTPStatus.BAD_REQUEST)
    return not _NO_CREDIT_KINDS.isdisjoint((str(fields.get("type")), str(fields.get("code"))))


def describe_upstream_problem(error: EngineRefused) -> str:
    """Return the fault of the gateway's configuration or account that a refusal shows; empty for any other refusal."""
    fields, message = read_detail(error)
    if is_without_credit(error):
        return f"its account has no credit (status {error.status})"
    if error.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return f"it rejects the gateway's key, or needs one (status {error.status})"
    missing = error.status == HTTPStatus.NOT_FOUND and _MODEL_WORD.search(message)
    if missing or str(fields.get("code")) in _NO_MODEL_KINDS:
        return f"it has no model of the configured name (status {error.status})"
    return ""
