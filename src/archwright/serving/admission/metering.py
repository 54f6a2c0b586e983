"""The cost of a request: the worst case is reserved before the work, the actual cost settled once at its end.

The worst case is a bound of the input and all tokens allowed for the answer, at the model's price. The actual cost is
the engine's count, else the delivered pieces and an estimate of the input, which is charged only if an engine worked
for the caller. A running request ends when it exceeds the reservation or its key or budget is withdrawn. An answer from
the cache counts as a request and costs nothing.
"""

from __future__ import annotations

import math
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Literal, NamedTuple

from archwright.access.accounts import Accounts, LimitDenial, Reservation
from archwright.access.api_keys import KeyStore
from archwright.access.key_cache import POLL_S
from archwright.access.tables import LimitScope, format_scope_name
from archwright.errors import StoreError
from archwright.home import Home
from archwright.journal import Journal
from archwright.monitor.usage_totals import DAY_S, NANO
from archwright.monitor.wal.compaction import read_usage_totals
from archwright.monitor.wal.writer import WalWriter
from archwright.policy.cache_key import CacheKeyParts, RequestKind
from archwright.policy.usage_limits import IMAGE_USUAL_TOKENS, nearest_nusd, worst_input_tokens
from archwright.serving.admission.response_cache import CachedResponse, ResponseCache
from archwright.serving.http.errors import ApiError, too_many_requests
from archwright.serving.http.http_exchange import HeaderField, HttpExchange
from archwright.serving.requests.multimodal import TEXT_ONLY
from archwright.serving.requests.request_validation import CHARACTERS_PER_TOKEN, GenerationRequest
from archwright.serving.settings.config import Endpoint, Prices

CHECK_INTERVAL_S = 0.25
LIMITS_PROPAGATION_S = 2 * POLL_S  # after a change of limits every worker knows of it
UNLIMITED = sys.maxsize
BILLABLE_STATUSES = ("ok", "cancelled", "ended")


class WorstCase(NamedTuple):
    """The most a request may take. `estimate`: input tokens charged if an engine worked and counted nothing."""

    tokens: int
    usd: float | None
    answer: int
    estimate: int


class CostAccounting(NamedTuple):
    """One per process; without `cache` nothing is kept."""

    accounts: Accounts
    keys: KeyStore
    journal: Journal
    cache: ResponseCache | None = None

    def set_worst_case(self, exchange: HttpExchange, question: GenerationRequest) -> None:
        """Set what the request may take at most, to be reserved together with others."""
        answer = int(question.body.get("max_tokens", 0)) * question.choices
        worst_input, estimate = _bound_input_tokens(len(exchange.body), question)
        usd = compute_cost_usd(question.endpoint.prices, worst_input, answer)
        exchange.asks = WorstCase(worst_input + answer, usd, answer, min(worst_input, estimate))

    def reserve(self, exchanges: list[HttpExchange]) -> None:
        """Reserve the worst cases of all exchanges at once; `open_charge` raises for those that got no room."""
        if exchanges:
            # If the table refuses, each reserves again by itself and gets the error.
            with suppress(StoreError):
                found = self.accounts.reserve_all([(one.require_principal(), one.asks[:2]) for one in exchanges])
                for exchange, reserved in zip(exchanges, found, strict=True):
                    exchange.reserved = None if isinstance(reserved, StoreError) else reserved

    def release(self, exchange: HttpExchange) -> None:
        """Give back what was reserved for a request that never began."""
        if isinstance(exchange.reserved, Reservation):
            self.accounts.settle(exchange.reserved, 0, 0.0)
            self.flush()  # no reply follows that would flush
        exchange.reserved = None

    def open_charge(self, exchange: HttpExchange, question: GenerationRequest, kind: RequestKind) -> RequestCharge:
        """Charge a request whose worst case was estimated. Raises ApiError 429 and 403, StoreError."""
        bill = self._create_charge(exchange, question.endpoint, exchange.asks)
        bill.look_up_cache(question, kind)
        return bill

    def open_flat_charge(self, exchange: HttpExchange, spec: Endpoint) -> RequestCharge:
        """Charge a request that has no tokens. Raises as `open_charge` does."""
        return self._create_charge(exchange, spec, WorstCase(0, compute_cost_usd(spec.prices, 0, 0), 0, 0))

    def count_request(self, exchange: HttpExchange) -> None:
        """Count a request that costs nothing. Raises as `open_charge` does."""
        found = self.accounts.reserve(exchange.require_principal(), (0, 0.0))
        if isinstance(found, LimitDenial):
            raise limit_exceeded(found)
        self.accounts.settle(found, 0, 0.0)

    def flush(self) -> None:
        """Write what was settled to the accounts; called before the ledger is flushed."""
        count = len(self.accounts.ended)
        try:
            self.accounts.flush()
        except StoreError as error:
            # The ledger's records count: new accounts are built from them.
            self.journal.error("not settled", requests=count, **error.as_dict())

    def _create_charge(self, exchange: HttpExchange, spec: Endpoint, asks: WorstCase) -> RequestCharge:
        found, exchange.reserved = exchange.reserved, None
        if found is None:
            found = self.accounts.reserve(exchange.require_principal(), asks[:2])
        if isinstance(found, LimitDenial):
            raise limit_exceeded(found)
        found.version = exchange.keys_version  # so that later revocations are noticed
        bill = exchange.bill = RequestCharge(self, exchange, spec, found)
        bill.estimate = asks.estimate
        if found.limited:
            bill.most = asks.answer
            # A count above the possible is not believed. Without a price nothing was reserved.
            bill.most_usd = math.inf if None in bill.prices else found.usd
        return bill


class RequestCharge:
    """The charge of one request. `most` pieces may be delivered and `most_usd` billed; `usd` is set when it is settled,
    None without a price."""

    __slots__ = (
        *("asked", "cache", "estimate", "known", "look_at", "most", "most_usd", "prices", "reservation", "saved_usd"),
        *("spec", "usd", "_cached_at", "_exchange", "_till", "_version"),
    )

    def __init__(self, till: CostAccounting, exchange: HttpExchange, spec: Endpoint, reservation: Reservation) -> None:
        self.reservation = reservation
        self.spec = spec
        self.prices = spec.prices  # of the dearest pool, until one has answered
        self.cache: Literal["hit", "miss", "off"] = "off"
        self.known: CachedResponse | None = None
        self.asked = False  # an engine has been asked
        self.estimate = 0
        self.most = UNLIMITED
        self.most_usd = math.inf
        self.look_at = exchange.received_at + CHECK_INTERVAL_S
        self.usd: float | None = None
        self.saved_usd = 0.0
        self._till = till
        self._exchange = exchange
        self._cached_at: bytes | None = None
        self._version = spec.serves

    def look_up_cache(self, question: GenerationRequest, kind: RequestKind) -> None:
        """Find the answer in the cache, or whether it may be cached."""
        cache, spec = self._till.cache, self.spec
        if cache is None or spec.cache == "off":
            return
        if question.plain:
            self._version = spec.model
        control = self._exchange.header(b"cache-control") or ""
        words = question.body if question.native is None else question.native
        shown = question.model, question.top_logprobs, question.base64
        asked = CacheKeyParts(kind, self._version, words, (*shown, question.native is not None, question.betas))
        tenant = self.reservation.principal.tenant
        self._cached_at = cache.cache_key(tenant, asked, spec.cache, control)
        if self._cached_at is not None:
            self.known = cache.get(self._cached_at)
            self.cache = "miss" if self.known is None else "hit"
            if self.known is not None:
                self._exchange.model, self._exchange.route = self.known.version, self.spec.pool

    @property
    def is_cacheable(self) -> bool:
        return self._cached_at is not None and self.known is None

    def cache_response(self, body: bytes, input_tokens: int, output_tokens: int) -> None:
        """Cache the whole reply, unless another version gave it than was looked up."""
        cache = self._till.cache
        if cache is None or self._cached_at is None or self._exchange.model != self._version:
            return
        cache.put(self._cached_at, CachedResponse(body, input_tokens, output_tokens, self.usd or 0.0, self._version))

    def set_prices(self, prices: Prices) -> None:
        """Set the prices of the pool that answers, at most those reserved with."""
        (dear_in, dear_out), (most_in, most_out) = prices, self.spec.prices
        if dear_in is None or dear_out is None or most_in is None or most_out is None:
            self.prices = prices
        else:
            self.prices = min(dear_in, most_in), min(dear_out, most_out)

    def covers(self, input_tokens: int, output_tokens: int) -> bool:
        """True if a complete answer takes no more than was reserved."""
        reservation = self.reservation
        if not reservation.limited:
            return True
        usd = compute_cost_usd(self.prices, input_tokens, output_tokens) or 0.0
        return input_tokens + output_tokens <= reservation.tokens and usd <= self.most_usd

    def check_spend(self, delivered: int, now: float) -> None:
        """Called during an answer, at `look_at` and after more than `most` pieces. Raises ApiError to end it."""
        if delivered > self.most:
            message = "the answer is longer than was asked for and reserved; it ends here"
            raise too_many_requests(message, "insufficient_quota")
        self.look_at = now + CHECK_INTERVAL_S
        till, principal = self._till, self.reservation.principal
        if till.accounts.may_continue(self.reservation):
            return
        if not till.keys.is_live(principal.key_id):
            message = "the API key is no longer valid; the answer ends here"
            raise ApiError(HTTPStatus.UNAUTHORIZED, message, "invalid_api_key")
        message = "the budget was lowered below what is spent; the answer ends here"
        raise too_many_requests(message, "insufficient_quota")

    def settle(self, status: str, figures: dict[str, Any]) -> None:
        """Enter the actual cost once, into the accounts and into `figures`, the fields of the request's record."""
        known = figures.get("input_tokens", 0)
        output = figures.get("output_tokens", 0)
        if not known and self.known is None and (output or (self.asked and status in BILLABLE_STATUSES)):
            known = figures["input_tokens"] = self.estimate
        usd = compute_cost_usd(self.prices, known, output)
        # Rounded to nano-dollars once, here: separate rounding by each reader could differ.
        self.usd = None if usd is None else min(nearest_nusd(usd) / NANO, self.most_usd)
        reservation = self.reservation
        if self.known is not None:
            self.usd, self.saved_usd = 0.0, self.known.usd
        figures.update(
            cost_usd=self.usd,
            reserved_usd=reservation.usd if reservation.limited else None,
            saved_usd=self.saved_usd,
            cache=self.cache,
        )
        self._till.accounts.settle(reservation, min(known + output, reservation.tokens), self.usd or 0.0)

    def headers(self) -> list[HeaderField]:
        found = [(b"x-archwright-cache", self.cache.encode())]
        if self.usd is not None:
            found.append((b"x-archwright-cost-usd", b"%.9f" % self.usd))
        return found

    def add_cost(self, used: dict[str, Any] | None) -> dict[str, Any] | None:
        return used if used is None or self.usd is None else {**used, "cost_usd": round(self.usd, 9)}


def compute_cost_usd(prices: Prices, input_tokens: int, output_tokens: int) -> float | None:
    dear_in, dear_out = prices
    return None if dear_in is None or dear_out is None else input_tokens * dear_in + output_tokens * dear_out


def _bound_input_tokens(body_bytes: int, question: GenerationRequest) -> tuple[int, int]:
    """The most tokens the input may have, and the estimate (see WorstCase)."""
    spec, parts = question.endpoint, question.parts
    if question.input_tokens is not None:
        return question.input_tokens, question.input_tokens
    estimate = max(1, -(-question.prompt_characters // CHARACTERS_PER_TOKEN))
    if parts is TEXT_ONLY:
        return worst_input_tokens(body_bytes, spec.context_tokens * question.contexts), estimate
    estimate += parts.images * min(IMAGE_USUAL_TOKENS, spec.image_tokens)
    if parts.boundless:
        return spec.context_tokens, estimate
    text_bytes, images_tokens = max(0, body_bytes - parts.data_bytes), parts.images * spec.image_tokens
    return worst_input_tokens(text_bytes, spec.context_tokens, images_tokens), estimate


def limit_exceeded(by: LimitDenial) -> ApiError:
    if by.limit == "unpriced":
        message = f"this {by.scope} has a budget, and the model has no price"
        return ApiError(HTTPStatus.FORBIDDEN, message, "model_not_priced", param="model")
    if by.limit == "budget":
        code, message = "insufficient_quota", f"the budget of this {by.scope} has no room for the request"
    else:
        code, message = "rate_limit_exceeded", f"the limit of {by.limit} a minute of this {by.scope} is reached"
    return too_many_requests(message, code, by.retry_after_s)


class RecordedSpending:
    """The recorded spending of scopes, from the ledger. An account asks once, when it is new, so all scopes are summed
    together, and again only when `stamp` changes (limits or accounts), and once more when every worker knows of the
    change. Records with a future date, written while the clock was wrong, count for no earlier period."""

    def __init__(
        self,
        ledger: WalWriter,
        home: Home,
        stamp: Callable[[], object],
        now: Callable[[], float],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ledger = ledger
        self._home = home
        self._stamp = stamp
        self._now = now
        self._clock = clock
        self._read: object = None
        self._again_at = 0.0
        self._sums: dict[int, Counter[str]] = {}  # by the first day that counts

    def __call__(self, scope: LimitScope, since: float) -> float:
        now, stamp = self._now(), self._stamp()
        if stamp != self._read:
            self._read, self._again_at, self._sums = stamp, now + LIMITS_PROPAGATION_S, {}
        elif now >= self._again_at:
            self._again_at, self._sums = math.inf, {}
        day = int(since // DAY_S)
        if day not in self._sums:
            self._sums[day] = self._sum_since(day)
        return self._sums[day][scope.name] / NANO

    def _sum_since(self, day: int) -> Counter[str]:
        self._ledger.flush()
        found: Counter[str] = Counter()
        by, today = ("tenant", "key_id", "user", "shadow"), int(self._clock() // DAY_S)
        for one in read_usage_totals(self._ledger.store, self._home, ("day", *by) if day else by):
            if not one.shadow and (not day or day <= one.day <= today):
                found[format_scope_name("key", name=one.key_id)] += one.cost_nano_usd
                found[format_scope_name("user", one.tenant, one.user)] += one.cost_nano_usd
                found[format_scope_name("tenant", one.tenant)] += one.cost_nano_usd
        return found
