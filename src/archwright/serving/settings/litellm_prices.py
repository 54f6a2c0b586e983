"""Prices of LiteLLM's configuration as the price of an upstream. LiteLLM states USD per token."""

import re
from collections.abc import Callable, Iterable
from typing import Any

from archwright.serving.settings.prices import DEAREST_UNIT_USD, MILLION

# LiteLLM's field of each price of gateway.yaml.
TOKEN_COSTS = {
    "input": "input_cost_per_token",
    "output": "output_cost_per_token",
    "cache_read": "cache_read_input_token_cost",
    "cache_write": "cache_creation_input_token_cost",
    "cache_write_1h": "cache_creation_input_token_cost_above_1hr",
    "audio": "input_cost_per_audio_token",
    "reasoning": "output_cost_per_reasoning_token",
}
UNIT_COSTS = {"image": "input_cost_per_image", "request": "input_cost_per_request"}
# The end of a field with the price of long prompts, in thousands of tokens.
_LONG_CONTEXT = re.compile(r"_above_([1-9][0-9]{0,5})k_tokens")
USD_DIGITS = 9

TakeAmount = Callable[[str, float], float | None]
"""Removes and returns a field with a number from 0 to the limit; None if there is none."""


def take_price(names: Iterable[str], take: TakeAmount) -> dict[str, Any]:
    """Return the price that the fields `names` of a deployment state; empty if none has a cost."""
    found = sorted({int(match[1]) for name in names if (match := _LONG_CONTEXT.search(name))})
    stated = _take_token_prices("", take)
    stated |= {ours: usd for ours, theirs in UNIT_COSTS.items() if (usd := take(theirs, DEAREST_UNIT_USD))}
    tiers = []
    for thousands in found:
        tier = _take_token_prices(f"_above_{thousands}k_tokens", take)
        if tier:
            # A tier names only the prices that differ.
            tiers.append({"above": thousands * 1_000, **_choose_base(stated), **tier})
    price: dict[str, Any] = {**_choose_base(stated), **stated} if stated or tiers else {}
    return {**price, "long_context": tiers} if tiers else price


def _choose_base(stated: dict[str, float]) -> dict[str, float]:
    return {name: stated.get(name, 0.0) for name in ("input", "output")}


def _take_token_prices(suffix: str, take: TakeAmount) -> dict[str, float]:
    """Return the prices in USD per million tokens; a cost of 0 means that the kind has no price of its own."""
    costs = {ours: take(theirs + suffix, 1.0) for ours, theirs in TOKEN_COSTS.items()}
    return {ours: round(usd * MILLION, USD_DIGITS) for ours, usd in costs.items() if usd}
