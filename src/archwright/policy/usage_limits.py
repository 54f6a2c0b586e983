"""Usage limits of keys, users and tenants: rate and budget checks in integers, without IO.

Rates are the continuous-state leaky bucket of ITU-T I.371 (GCRA): N per minute allows a burst of N, then N/60 per
second. The level is stored in units of 1/60,000,000 of a request (or token): at one per minute, one unit leaks per
microsecond, so nothing is rounded. Money is integer nano-USD: the worst-case cost rounded up, the real cost rounded to
the nearest.

Worst case of a text request: as many input tokens as its body has bytes, plus TEMPLATE_TOKENS. A token of a byte-level
BPE covers at least one byte of UTF-8, JSON is never shorter than UTF-8, and the JSON around a message is longer than a
chat template's special tokens. The allowance covers text that a template adds (default system text, tool preamble). An
image's bytes do not bound its tokens: it counts as the pool's `image_tokens`, by default IMAGE_TOKENS, the largest
known: gpt-4o-mini counts 2,833 tokens for an image and 5,667 for each tile of 512 x 512 pixels, at most 4 x 2 tiles
(OpenAI, "Images and vision", calculating costs). Others count less: Qwen2.5-VL 16,384 (12,845,056 pixels of its
preprocessor_config.json / 28^2), OpenAI's patch-based models 10,000, Claude 4,784, gpt-4o 1,445 (85 + 8 x 170).
"""

import math
from typing import Literal, NamedTuple, get_args

from archwright.contract.record import Record

BudgetPeriod = Literal["total", "month", "day"]
LimitKind = Literal["requests", "tokens", "budget", "unpriced", "parallel"]

UNITS_PER_REQUEST = 60_000_000
NUSD_PER_USD = 1_000_000_000
TEMPLATE_TOKENS = 512
IMAGE_TOKENS = 2_833 + 8 * 5_667
IMAGE_USUAL_TOKENS = 1_105  # gpt-4o, 2,048 x 4,096 pixels: charged if the engine ran but reported no usage
LARGEST_RATE = 10**9
LARGEST_BUDGET_USD = 1e9
LARGEST_LEVEL = 1 << 62  # an account is stored in 64 bits


class UsageLimits(Record):
    """Limits of an account; None: no limit. The budget is for all time or per calendar month or day (UTC).

    `parallel`: requests at once, from the reservation to the settlement, over all workers."""

    rpm: int | None = None
    tpm: int | None = None
    budget_usd: float | None = None
    period: BudgetPeriod = "total"
    parallel: int | None = None

    @property
    def is_unlimited(self) -> bool:
        caps = (self.rpm, self.tpm, self.budget_usd, self.parallel)
        return all(cap is None for cap in caps)


def find_limits_problem(limits: UsageLimits) -> str:
    """Describe the first invalid limit; "" if all are valid."""
    for name in ("rpm", "tpm", "parallel"):
        rate = getattr(limits, name)
        if rate is not None and not 0 <= rate <= LARGEST_RATE:
            return f"{name} must be from 0 to {LARGEST_RATE:,}, not {rate:,}"
    budget = limits.budget_usd
    if budget is not None and not 0 <= budget <= LARGEST_BUDGET_USD:  # also rejects NaN
        return f"budget_usd must be from 0 to {LARGEST_BUDGET_USD:,.0f}, not {budget}"
    if limits.period not in get_args(BudgetPeriod):
        return f"period must be one of {', '.join(get_args(BudgetPeriod))}, not {limits.period!r}"
    return ""


class AccountCaps(NamedTuple):
    """Limits in the units of the account; -1: no limit."""

    rpm: int
    tpm: int
    budget_nusd: int
    parallel: int = -1


# State of an account: (at_us, level of requests, level of tokens, nano-USD spent in the current period). A plain tuple,
# because every reservation and settlement creates one.
AccountLevel = tuple[int, ...]


# Worst case of one request: tokens, nano-USD (-1: no price). A plain tuple for the same reason.
WorstCaseAmount = tuple[int, int]


class LimitShortfall(NamedTuple):
    """The limit that a request exceeds. `retry_after_s` None: waiting does not help.

    `held`: running requests may release part of their reservation."""

    limit: LimitKind
    retry_after_s: int | None = None
    held: bool = False


def to_caps(limits: UsageLimits) -> AccountCaps:
    budget = None if limits.budget_usd is None else nearest_nusd(limits.budget_usd)
    return AccountCaps(*(-1 if cap is None else cap for cap in (limits.rpm, limits.tpm, budget, limits.parallel)))


def worst_nusd(usd: float) -> int:
    """Round up, except float errors: 0.003 USD are 3,000,000 nano-USD, not 3,000,001."""
    return math.ceil(usd * NUSD_PER_USD - 1e-3)


def nearest_nusd(usd: float) -> int:
    return round(usd * NUSD_PER_USD)


def worst_input_tokens(text_bytes: int, context_tokens: int, images_tokens: int = 0) -> int:
    """Bound the input tokens: text and images of a body, at most the engine's context."""
    return min(text_bytes + TEMPLATE_TOKENS + images_tokens, context_tokens)


def reserve_request(
    caps: AccountCaps,
    level: AccountLevel,
    held_nusd: int,
    amount: WorstCaseAmount,
    now_us: int,
    *,
    counted: bool = False,
) -> AccountLevel | LimitShortfall:
    """Take `amount` from the account's rates and return the new level, or the limit that `amount` exceeds.

    `held_nusd`: money reserved by running requests. The caller reserves money outside of the level. `counted`: the
    request was taken from the rate of requests before."""
    rpm, tpm, budget, _parallel = caps
    at_us, requests, tokens, spent_nusd = level
    passed = now_us - at_us
    if passed < 0:  # a worker may have read the clock before another worker wrote the account
        passed = 0
    if rpm >= 0:
        requests -= rpm * passed
        requests = requests if requests > 0 else 0
        if not counted:
            requests += UNITS_PER_REQUEST
            if requests > rpm * UNITS_PER_REQUEST:
                return LimitShortfall("requests", _leak_wait_s(requests, rpm) if rpm else None)
    if tpm >= 0:
        tokens -= tpm * passed
        tokens = (tokens if tokens > 0 else 0) + amount[0] * UNITS_PER_REQUEST
        if tokens > tpm * UNITS_PER_REQUEST:
            return LimitShortfall("tokens", _leak_wait_s(tokens, tpm) if amount[0] <= tpm else None, held=True)
    if budget >= 0:
        nusd = amount[1]
        if nusd < 0:
            return LimitShortfall("unpriced")
        if spent_nusd + held_nusd + nusd > budget:
            fits_later = spent_nusd + nusd <= budget
            return LimitShortfall("budget", 1 if fits_later else None, held=held_nusd > 0)
    return at_us + passed, requests, tokens, spent_nusd


def settle_request(caps: AccountCaps, level: AccountLevel, tokens: int, nusd: int, now_us: int) -> AccountLevel:
    """Return the level after a request that used `tokens` fewer than reserved (negative: more) and `nusd`."""
    at_us, requests, left, spent_nusd = level
    rpm, tpm, _budget, _parallel = caps
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
    """Return the seconds until the level has leaked enough for the request."""
    return max(1, -(-(level - per_minute * UNITS_PER_REQUEST) // (per_minute * 1_000_000)))
