"""How much a key, a user or a tenant may ask, and whether one more request fits: whole numbers, no IO.

Rates are the continuous-state leaky bucket of ITU-T I.371 (GCRA): N a minute is a burst of N, then N/60 a second. The
level is kept in units of 1/60,000,000 of a request (or token): one microsecond at one a minute leaks one unit, and
nothing is rounded. Money is whole nano-USD: a request's worst price rounded up, its real one to the nearest.

Worst case of a text request: at most as many input tokens as its body has bytes, plus TEMPLATE_TOKENS. A token of a
byte-level BPE covers at least one byte of UTF-8, JSON is never shorter than UTF-8, and the JSON around a message is
longer than a chat template's marks; the allowance is for what a template adds (a default system text, the preamble of
tools). An image's bytes do not bound its tokens: it counts as the pool's `image_tokens`, else IMAGE_TOKENS, the largest
known: gpt-4o-mini counts 2,833 tokens for an image and 5,667 for each tile of 512 x 512 pixels, at most 4 x 2 tiles
(OpenAI, "Images and vision", calculating costs). Others count less: Qwen2.5-VL 16,384 (12,845,056 pixels of its
preprocessor_config.json / 28^2), OpenAI's models of patches 10,000, Claude 4,784, gpt-4o 1,445 (85 + 8 x 170).
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, get_args

from archwright.contract.record import Record

BudgetPeriod = Literal["total", "month", "day"]
LimitKind = Literal["requests", "tokens", "budget", "unpriced"]

UNITS_PER_REQUEST = 60_000_000
NUSD_PER_USD = 1_000_000_000
TEMPLATE_TOKENS = 512
IMAGE_TOKENS = 2_833 + 8 * 5_667
IMAGE_USUAL_TOKENS = 1_105  # gpt-4o's of 2,048 x 4,096 pixels: charged where an engine that worked gave no count
LARGEST_RATE = 10**9
LARGEST_BUDGET_USD = 1e9
LARGEST_LEVEL = 1 << 62  # an account is kept in 64 bits


class UsageLimits(Record):
    """None: no limit. The budget counts over all time, or anew each calendar month or day (UTC)."""

    rpm: int | None = None
    tpm: int | None = None
    budget_usd: float | None = None
    period: BudgetPeriod = "total"

    @property
    def is_unlimited(self) -> bool:
        return self.rpm is None and self.tpm is None and self.budget_usd is None


def find_limits_problem(limits: UsageLimits) -> str:
    """What is wrong with them, "" when nothing."""
    for name in ("rpm", "tpm"):
        rate = getattr(limits, name)
        if rate is not None and not 0 <= rate <= LARGEST_RATE:
            return f"{name} must be 0 to {LARGEST_RATE:,}, not {rate:,}"
    budget = limits.budget_usd
    if budget is not None and not 0 <= budget <= LARGEST_BUDGET_USD:  # also refuses NaN
        return f"budget_usd must be 0 to {LARGEST_BUDGET_USD:,.0f}, not {budget}"
    if limits.period not in get_args(BudgetPeriod):
        return f"period must be one of {', '.join(get_args(BudgetPeriod))}, not {limits.period!r}"
    return ""


class AccountCaps(NamedTuple):
    """Limits in the units of the account; -1: none."""

    rpm: int
    tpm: int
    budget_nusd: int


# An account at a moment: (at_us, fill level of requests, of tokens, nano-USD spent in the period now running). A bare
# tuple, since one is made at every reservation and every settlement.
AccountLevel = tuple[int, ...]


# The worst case of one request: tokens, nano-USD (-1: it has no price). As bare as a Level.
WorstCaseAmount = tuple[int, int]


class LimitShortfall(NamedTuple):
    """Why it does not fit. `retry_after_s` None: waiting does not help; `held`: running requests may give it back."""

    limit: LimitKind
    retry_after_s: int | None = None
    held: bool = False


def to_caps(limits: UsageLimits) -> AccountCaps:
    budget = None if limits.budget_usd is None else nearest_nusd(limits.budget_usd)
    return AccountCaps(*(-1 if cap is None else cap for cap in (limits.rpm, limits.tpm, budget)))


def worst_nusd(usd: float) -> int:
    """Rounded up, but not for the last bits of a float: 0.003 USD are 3,000,000 nano-USD, not one more."""
    return math.ceil(usd * NUSD_PER_USD - 1e-3)


def nearest_nusd(usd: float) -> int:
    return round(usd * NUSD_PER_USD)


def worst_input_tokens(text_bytes: int, context_tokens: int, images_tokens: int = 0) -> int:
    """Upper bound of the input: text and images of a body, at most the engine's context."""
    return min(text_bytes + TEMPLATE_TOKENS + images_tokens, context_tokens)


def reserve_request(
    caps: AccountCaps, level: AccountLevel, held_nusd: int, ask: WorstCaseAmount, now_us: int
) -> AccountLevel | LimitShortfall:
    """The account with `ask` taken from its rates, or why not; nothing is taken then. `held_nusd` is what requests
    under way may still spend: money is reserved by the caller, beside the level."""
    rpm, tpm, budget = caps
    at_us, requests, tokens, spent_nusd = level
    passed = now_us - at_us
    if passed < 0:  # a worker may have read the clock before another that wrote first
        passed = 0
    if rpm >= 0:
        requests -= rpm * passed
        requests = requests + UNITS_PER_REQUEST if requests > 0 else UNITS_PER_REQUEST
        if requests > rpm * UNITS_PER_REQUEST:
            return LimitShortfall("requests", _leak_wait_s(requests, rpm) if rpm else None)
    if tpm >= 0:
        tokens -= tpm * passed
        tokens = (tokens if tokens > 0 else 0) + ask[0] * UNITS_PER_REQUEST
        if tokens > tpm * UNITS_PER_REQUEST:
            return LimitShortfall("tokens", _leak_wait_s(tokens, tpm) if ask[0] <= tpm else None, held=True)
    if budget >= 0:
        nusd = ask[1]
        if nusd < 0:
            return LimitShortfall("unpriced")
        if spent_nusd + held_nusd + nusd > budget:
            under_way = spent_nusd + nusd <= budget
            return LimitShortfall("budget", 1 if under_way else None, held=held_nusd > 0)
    return at_us + passed, requests, tokens, spent_nusd


def settle_request(caps: AccountCaps, level: AccountLevel, tokens: int, nusd: int, now_us: int) -> AccountLevel:
    """The account after a request: `tokens` fewer than reserved (negative: more), `nusd` spent."""
    at_us, requests, left, spent_nusd = level
    rpm, tpm, _budget = caps
    passed = now_us - at_us
    if passed < 0:
        passed = 0
    if rpm >= 0:
        requests -= rpm * passed
        if requests < 0:
            requests = 0
    if tpm >= 0:
        left -= tpm * passed
        left = (left if left > 0 else 0) - tokens * UNITS_PER_REQUEST
        left = min(max(left, 0), LARGEST_LEVEL)
    return at_us + passed, requests, left, min(spent_nusd + nusd, LARGEST_LEVEL)


def _leak_wait_s(level: int, per_minute: int) -> int:
    """Seconds until the level has leaked so far that the request fits."""
    return max(1, -(-(level - per_minute * UNITS_PER_REQUEST) // (per_minute * 1_000_000)))
