"""Shorten the output that a validated request asks for, with its budget of reasoning."""

from typing import Any

from archwright.contract.record import replace
from archwright.serving.requests.request_validation import GenerationRequest

# OpenAI's and Anthropic's least output of a response, and least budget of reasoning.
LEAST_RESPONSE_TOKENS, LEAST_THINKING_TOKENS = 16, 1_024


def is_single(generation: GenerationRequest) -> bool:
    """True for one choice to one prompt: its output has one length."""
    return generation.choices == 1 and generation.contexts == 1


def shorten_output(generation: GenerationRequest, length: int) -> GenerationRequest | None:
    """Return the request for at most `length` output tokens.

    Its budget of reasoning keeps its share of them. None if a provider would refuse so small a number."""
    body, native = {**generation.body, "max_tokens": length}, generation.native
    share = length / generation.max_tokens
    options = body.get("chat_template_kwargs")
    if isinstance(options, dict) and isinstance(options.get("thinking_budget"), int):
        body["chat_template_kwargs"] = {**options, "thinking_budget": int(options["thinking_budget"] * share)}
    if native is not None and "max_tokens" in native:  # of the Messages interface
        thinking = _shorten_thinking(native.get("thinking"), share)
        if thinking is None:
            return None
        native = {**native, **thinking, "max_tokens": length}
    elif native is not None:  # of the Responses interface
        if length < LEAST_RESPONSE_TOKENS:
            return None
        native = {**native, "max_output_tokens": length}
    return replace(generation, body=body, native=native, max_tokens=length)


def _shorten_thinking(thinking: Any, share: float) -> dict[str, Any] | None:
    """Return the changed field `thinking`, if the request has a budget; None if it became too small."""
    if not isinstance(thinking, dict) or not isinstance(thinking.get("budget_tokens"), int):
        return {}
    budget = int(thinking["budget_tokens"] * share)
    if budget < LEAST_THINKING_TOKENS:
        return None
    return {"thinking": {**thinking, "budget_tokens": budget}}
