"""What one request may cost and what it did: reserved before the work, settled once however it ends, told the client.

The worst case is a bound of its input and every token it may be answered with, at the model's price; what does not fit
is refused before anything is asked of an engine. What it took is the engine's own count, else what was delivered and
an estimate of its input, which is charged where an engine worked for the caller: not where it only failed. A request
under way ends when it has been sent more than was reserved, or when its key or budget is taken away. An answer from
the cache costs nothing but its place among the requests.
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
from archwright.access.api_keys import KeyStore, Principal
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
from archwright.serving.http.errors import ApiError
from archwright.serving.http.http_exchange import HeaderField, HttpExchange
from archwright.serving.requests.multimodal import TEXT_ONLY
from archwright.serving.requests.request_validation import CHARACTERS_PER_TOKEN, GenerationRequest
from archwright.serving.settings.config import Endpoint, Prices

CHECK_INTERVAL_S = 0.25
LIMITS_PROPAGATION_S = 2 * POLL_S  # after a change of limits every worker knows of it
UNLIMITED = sys.maxsize
BILLABLE_STATUSES = ("ok", "cancelled", "ended")


class WorstCase(NamedTuple):
    """The worst that a request may take: its input, its `answer`, what both cost. `estimate` is what is charged for the
    input of an engine that worked and counted nothing."""

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

    def estimate_worst_case(self, exchange: HttpExchange, question: GenerationRequest) -> None:
        """What the request may take at most: with it, it is reserved together with others."""
        answer = int(question.body.get("max_tokens", 0)) * question.choices
        worst_input, estimate = _bound_input_tokens(len(exchange.body), question)
        usd = compute_cost_usd(question.endpoint.prices, worst_input, answer)
        exchange.asks = WorstCase(worst_input + answer, usd, answer, min(worst_input, estimate))

    def reserve(self, exchanges: list[HttpExchange]) -> None:
        """Room for the worst case of each that was weighed, in one go; whether there was any, `open` says."""
        if exchanges:
            # Where the table refuses, each asks once more by itself, and is told why.
            with suppress(StoreError):
                found = self.accounts.reserve_all([(_require_principal(one), one.asks[:2]) for one in exchanges])
                for exchange, reserved in zip(exchanges, found, strict=True):
                    exchange.reserved = None if isinstance(reserved, StoreError) else reserved

    def release(self, exchange: HttpExchange) -> None:
        """What was reserved for a request that never began."""
        if isinstance(exchange.reserved, Reservation):
            self.accounts.settle(exchange.reserved, 0, 0.0)
            self.flush()  # no reply follows that would: to other workers it would stay held
        exchange.reserved = None

    def open_charge(self, exchange: HttpExchange, question: GenerationRequest, kind: RequestKind) -> RequestCharge:
        """Room for the worst case of a request that was weighed. Raises Refusal 429 and 403, StoreError."""
        bill = self._create_charge(exchange, question.endpoint, exchange.asks)
        bill.look_up_cache(question, kind)
        return bill

    def open_flat_charge(self, exchange: HttpExchange, spec: Endpoint) -> RequestCharge:
        """The same for a request that has no tokens."""
        return self._create_charge(exchange, spec, WorstCase(0, compute_cost_usd(spec.prices, 0, 0), 0, 0))

    def count_request(self, exchange: HttpExchange) -> None:
        """A request that costs nothing but its place among the requests. Raises as `open` does."""
        found = self.accounts.reserve(_require_principal(exchange), (0, 0.0))
        if isinstance(found, LimitDenial):
            raise limit_exceeded(found)
        self.accounts.settle(found, 0, 0.0)

    def flush(self) -> None:
        """What was settled is in the accounts when this returns; called before the ledger is flushed."""
        count = len(self.accounts.ended)
        try:
            self.accounts.flush()
        except StoreError as error:
            # The records count: the accounts ask the ledger when they are made anew.
            self.journal.error("not settled", requests=count, **error.as_dict())

    def _create_charge(self, exchange: HttpExchange, spec: Endpoint, asks: WorstCase) -> RequestCharge:
        found, exchange.reserved = exchange.reserved, None
        if found is None:
            found = self.accounts.reserve(_require_principal(exchange), asks[:2])
        if isinstance(found, LimitDenial):
            raise limit_exceeded(found)
        found.version = exchange.keys_version  # what was taken away since it was let in is looked at
        bill = exchange.bill = RequestCharge(self, exchange, spec, found)
        bill.estimate = asks.estimate
        if found.limited:
            bill.most = asks.answer
            # An engine that counts more than it can have is not believed. Where a pool has no price none was reserved.
            bill.most_usd = math.inf if None in bill.prices else found.usd
        return bill


class RequestCharge:
    """One request's. `most` pieces may be delivered, and `most_usd` billed; `usd` is known once it is settled, None
    without a price."""

    __slots__ = (
        *(
            "asked",
            "cache",
            "estimate",
            "known",
            "look_at",
            "most",
            "most_usd",
            "prices",
            "reservation",
            "saved_usd",
            "spec",
            "usd",
        ),
        *("_cached_at", "_exchange", "_till", "_version"),
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
        """Whether the answer is known, and if not, whether it may be kept."""
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
        """Whether the answer is wanted for the cache."""
        return self._cached_at is not None and self.known is None

    def cache_response(self, body: bytes, input_tokens: int, output_tokens: int) -> None:
        """The whole reply, for the next who asks; not when another version gave it than was looked for."""
        cache = self._till.cache
        if cache is None or self._cached_at is None or self._exchange.model != self._version:
            return
        cache.put(self._cached_at, CachedResponse(body, input_tokens, output_tokens, self.usd or 0.0, self._version))

    def set_prices(self, prices: Prices) -> None:
        """What the pool takes that answers; no more than was reserved, where its price went up since."""
        (dear_in, dear_out), (most_in, most_out) = prices, self.spec.prices
        if dear_in is None or dear_out is None or most_in is None or most_out is None:
            self.prices = prices
        else:
            self.prices = min(dear_in, most_in), min(dear_out, most_out)

    def covers(self, input_tokens: int, output_tokens: int) -> bool:
        """Whether an answer that came whole takes no more than was reserved."""
        reservation = self.reservation
        if not reservation.limited:
            return True
        usd = compute_cost_usd(self.prices, input_tokens, output_tokens) or 0.0
        return input_tokens + output_tokens <= reservation.tokens and usd <= self.most_usd

    def check_spend(self, delivered: int, now: float) -> None:
        """Called while an answer comes, at `look_at` and when more than `most` pieces have. Raises Refusal: it ends."""
        if delivered > self.most:
            raise ApiError(
                HTTPStatus.TOO_MANY_REQUESTS,
                "the answer is longer than was asked for and reserved; it ends here",
                openai_code="insufficient_quota",
            )
        self.look_at = now + CHECK_INTERVAL_S
        till, principal = self._till, self.reservation.principal
        if till.accounts.may_continue(self.reservation):
            return
        if not till.keys.is_live(principal.key_id):
            message = "the API key is no longer valid; the answer ends here"
            raise ApiError(HTTPStatus.UNAUTHORIZED, message, openai_code="invalid_api_key")
        message = "the budget was lowered below what is spent; the answer ends here"
        raise ApiError(HTTPStatus.TOO_MANY_REQUESTS, message, openai_code="insufficient_quota")

    def settle(self, status: str, figures: dict[str, Any]) -> None:
        """Once: what it took, into the accounts and into `figures`, which become its record."""
        known = figures.get("input_tokens", 0)
        output = figures.get("output_tokens", 0)
        if not known and self.known is None and (output or (self.asked and status in BILLABLE_STATUSES)):
            known = figures["input_tokens"] = self.estimate
        usd = compute_cost_usd(self.prices, known, output)
        # Whole nano-dollars here and not by each who tells or adds it up: halves would go up here and down there.
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
        """What the client is told beside the answer."""
        found = [(b"x-archwright-cache", self.cache.encode())]
        if self.usd is not None:
            found.append((b"x-archwright-cost-usd", b"%.9f" % self.usd))
        return found

    def add_cost(self, used: dict[str, Any] | None) -> dict[str, Any] | None:
        """The count of tokens that ends a stream, with what they cost."""
        return used if used is None or self.usd is None else {**used, "cost_usd": round(self.usd, 9)}


def _require_principal(exchange: HttpExchange) -> Principal:
    assert exchange.principal is not None, "let in without a principal"
    return exchange.principal


def compute_cost_usd(prices: Prices, input_tokens: int, output_tokens: int) -> float | None:
    dear_in, dear_out = prices
    return None if dear_in is None or dear_out is None else input_tokens * dear_in + output_tokens * dear_out


def _bound_input_tokens(body_bytes: int, question: GenerationRequest) -> tuple[int, int]:
    """The most tokens the input may be, and what is charged of an engine that worked and counted nothing."""
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
    """What the caller is told: how long to wait, where waiting helps."""
    if by.limit == "unpriced":
        message = f"this {by.scope} has a budget, and the model has no price"
        return ApiError(HTTPStatus.FORBIDDEN, message, openai_code="model_not_priced", param="model")
    if by.limit == "budget":
        code, message = "insufficient_quota", f"the budget of this {by.scope} has no room for the request"
    else:
        code, message = "rate_limit_exceeded", f"the limit of {by.limit} a minute of this {by.scope} is reached"
    return ApiError(HTTPStatus.TOO_MANY_REQUESTS, message, openai_code=code, retry_after_s=by.retry_after_s)


class RecordedSpending:
    """What scopes have spent, asked of the ledger. An account is asked about once, when it is new, and from then on
    nothing is spent beside it: so all scopes are added up in one go, and again only when `stamp` changes (limits, or
    the accounts made anew), and once more a moment later, when every worker knows of the change. What the books have
    of days to come, written while the clock was wrong, belongs to no period before them."""

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
