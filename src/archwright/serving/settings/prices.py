"""Prices of an upstream: the cost of the tokens of each kind, and the worst case of a request.

A provider charges some tokens at another price than plain input and output: prompt read from its cache or written to
it, sound, reasoning, and all tokens of a long prompt. A kind whose price is not stated costs as much as input
(reasoning: as output), which is never less than the provider charges, except for writes to a cache: a request marks
them, and `MARKED_WRITE` and `MARKED_HOUR_WRITE` bound them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from archwright.contract.record import Record, as_dict

MILLION = 1e6
DEAREST_UNIT_USD = 1_000.0  # of an image or a request; more is a typing error
# Anthropic's price of a write to the cache, as a multiple of the input price: kept for 5 minutes, for an hour.
MARKED_WRITE, MARKED_HOUR_WRITE = 1.25, 2.0
InputKind = Literal["cache_write", "cache_write_1h", "audio"]
"""A kind of input that only some requests have: they mark what the provider caches, or hold sound."""
PerMillion = Annotated[float, msgspec.Meta(ge=0, le=MILLION)]
UsdEach = Annotated[float, msgspec.Meta(ge=0, le=DEAREST_UNIT_USD)]


class KindPrices(Record):
    """Prices of kinds of tokens; None: not stated.

    `cache_read`, `cache_write` (kept for minutes), `cache_write_1h`, `audio`: of the input; `reasoning`: of the output.
    """

    cache_read: PerMillion | None = None
    cache_write: PerMillion | None = None
    cache_write_1h: PerMillion | None = None
    audio: PerMillion | None = None
    reasoning: PerMillion | None = None


class LongContextPrice(KindPrices):
    """Prices of all tokens of a request whose input has more than `above` tokens."""

    above: Annotated[int, msgspec.Meta(ge=1)]
    input: PerMillion
    output: PerMillion


class OtherPrices(KindPrices):
    """Prices beside those of input and output. `image`, `request`: USD for each, in addition to the tokens."""

    image: UsdEach = 0.0
    request: UsdEach = 0.0
    long_context: tuple[LongContextPrice, ...] = ()


class UpstreamPrice(OtherPrices):
    """The price of an upstream in USD per million tokens."""

    input: PerMillion
    output: PerMillion = 0.0

    def other_prices(self) -> OtherPrices:
        """Return the other prices in USD per token."""
        tiers = tuple(LongContextPrice(**_to_token_prices(tier)) for tier in self.long_context)
        scaled = {**_to_token_prices(self), "long_context": tiers}
        return OtherPrices(**{name: scaled[name] for name in OtherPrices.__struct_fields__})


_TOKEN_PRICES = frozenset({*KindPrices.__struct_fields__, "input", "output"})


def _to_token_prices(price: KindPrices) -> dict[str, Any]:
    fields = as_dict(price)
    tokens = {name: fields.get(name) for name in _TOKEN_PRICES}
    return {**fields, **{name: usd / MILLION for name, usd in tokens.items() if usd is not None}}


def find_price_problem(of_text: Sequence[float | None], other: OtherPrices) -> str:
    """Describe a price out of range; empty if there is none. `of_text`: of input and output, in USD per token."""
    kinds = [as_dict(prices) for prices in (other, *other.long_context)]
    stated = (*of_text, *(prices.get(name) for prices in kinds for name in _TOKEN_PRICES))
    # A price above 1 USD per token is a typing error and exceeds the range of the accounts.
    if not all(0 <= (usd or 0.0) <= 1 for usd in stated):
        return "must have prices from 0 to 1 USD per token"
    if not all(0 <= usd <= DEAREST_UNIT_USD for usd in (other.image, other.request)):
        return f"must have prices from 0 to {DEAREST_UNIT_USD:,.0f} USD for an image or a request"
    return ""


class TokenKinds(NamedTuple):
    """Tokens of each kind. They are a part of the input; `reasoning` is a part of the output."""

    cache_read: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    audio: int = 0
    reasoning: int = 0


PLAIN = TokenKinds()


class TokenRates(NamedTuple):
    """USD per token of each kind."""

    input: float
    output: float
    cache_read: float
    cache_write: float
    cache_write_1h: float
    audio: float
    reasoning: float

    def dearest_input(self, kinds: frozenset[InputKind]) -> float:
        """Return the highest price of an input token. `kinds`: those that the request may have beside text."""
        dearest = max(self.input, self.cache_read)
        for kind in kinds:
            dearest = max(dearest, getattr(self, kind))
        return dearest

    def cost_usd(self, input_tokens: int, output_tokens: int, kinds: TokenKinds) -> float:
        """Return the cost of the tokens. Counts of kinds beyond the whole are not believed, the dearest first."""
        kinds_of_input = (
            (self.cache_write_1h, kinds.cache_write_1h),
            (self.audio, kinds.audio),
            (self.cache_write, kinds.cache_write),
            (self.cache_read, kinds.cache_read),
        )
        usd, plain = 0.0, input_tokens
        for rate, count in kinds_of_input:
            tokens = min(count, plain)
            plain -= tokens
            usd += tokens * rate
        reasoning = min(kinds.reasoning, output_tokens)
        return usd + plain * self.input + reasoning * self.reasoning + (output_tokens - reasoning) * self.output


class Prices(NamedTuple):
    """The prices of an upstream. `long_context`: rates by the input tokens that a request must exceed, ascending.

    `image`, `request`: USD for each. `always`: kinds of input that any request may have, since the provider writes its
    cache without a mark."""

    base: TokenRates
    long_context: tuple[tuple[int, TokenRates], ...] = ()
    image: float = 0.0
    request: float = 0.0
    always: frozenset[InputKind] = frozenset()
    plain_worst: tuple[float, float] | None = None
    """Worst rates of input and output if neither kinds nor long prompts matter: nearly every request."""

    @property
    def discounts_cache(self) -> bool:
        """True if the cost of a request tells how much of its prompt the provider had cached."""
        return self.base.cache_read < self.base.input

    def rates_at(self, input_tokens: int) -> TokenRates:
        rates = self.base
        for above, dearer in self.long_context:
            if input_tokens > above:
                rates = dearer
        return rates

    def cost_usd(self, input_tokens: int, output_tokens: int, kinds: TokenKinds = PLAIN, images: int = 0) -> float:
        """Return the cost of a request that an engine worked on."""
        units_usd = self.request + images * self.image
        if kinds is PLAIN and not self.long_context:  # nearly every request
            base = self.base
            return units_usd + input_tokens * base.input + output_tokens * base.output
        return units_usd + self.rates_at(input_tokens).cost_usd(input_tokens, output_tokens, kinds)

    def worst_usd(
        self, input_tokens: int, output_tokens: int, kinds: frozenset[InputKind] = frozenset(), images: int = 0
    ) -> float:
        """Bound the cost of a request with at most so many tokens, of any kind that it may have.

        A lower price of long prompts bounds nothing, because the prompt may be shorter."""
        usd_in, usd_out = self.worst_rates(input_tokens, kinds)
        return self.request + images * self.image + input_tokens * usd_in + output_tokens * usd_out

    def worst_rates(self, input_tokens: int, kinds: frozenset[InputKind]) -> tuple[float, float]:
        """Return the highest price of a token of input and of output."""
        if self.plain_worst is not None and not kinds:
            return self.plain_worst
        rates, kinds = self.base, kinds | self.always
        usd_in, usd_out = rates.dearest_input(kinds), max(rates.output, rates.reasoning)
        for above, dearer in self.long_context:
            if input_tokens > above:
                usd_in = max(usd_in, dearer.dearest_input(kinds))
                usd_out = max(usd_out, dearer.output, dearer.reasoning)
        return usd_in, usd_out


def build_prices(input_usd: float, output_usd: float, other: OtherPrices, *, marks_caches: bool) -> Prices:
    """Build the prices of an upstream from USD per token.

    `marks_caches`: the provider caches only what a request marks (Anthropic). Another provider writes its cache by
    itself, so each price of a write that is stated counts for any request."""
    tiers = sorted(other.long_context, key=lambda tier: tier.above)
    stated = {kind for one in (other, *tiers) for kind in _WRITES if getattr(one, kind) is not None}
    return _complete_prices(
        _build_rates(input_usd, output_usd, other, marks_caches=marks_caches),
        tuple((one.above, _build_rates(one.input, one.output, one, marks_caches=marks_caches)) for one in tiers),
        other.image,
        other.request,
        frozenset() if marks_caches else frozenset(stated),
    )


def _complete_prices(
    base: TokenRates,
    long_context: tuple[tuple[int, TokenRates], ...],
    image: float,
    request: float,
    always: frozenset[InputKind],
) -> Prices:
    worst = None
    if not long_context:
        worst = base.dearest_input(always), max(base.output, base.reasoning)
    return Prices(base, long_context, image, request, always, worst)


_WRITES: tuple[InputKind, ...] = ("cache_write", "cache_write_1h")


def _build_rates(input_usd: float, output_usd: float, stated: KindPrices, *, marks_caches: bool) -> TokenRates:
    def choose(usd: float | None, default: float) -> float:
        return default if usd is None else usd

    marked, marked_hour = (MARKED_WRITE, MARKED_HOUR_WRITE) if marks_caches else (1.0, 1.0)
    cache_write = choose(stated.cache_write, marked * input_usd)
    return TokenRates(
        input_usd,
        output_usd,
        choose(stated.cache_read, input_usd),
        cache_write,
        choose(stated.cache_write_1h, max(cache_write, marked_hour * input_usd)),
        choose(stated.audio, input_usd),
        choose(stated.reasoning, output_usd),
    )


def combine_prices(several: Sequence[Prices | None], choose: Callable[[Iterable[float]], float] = max) -> Prices | None:
    """Return the highest price of each kind (`choose` min: the lowest); None if one of them is unknown."""
    known = [prices for prices in several if prices is not None]
    if len(known) < len(several):
        return None

    def combine_at(input_tokens: int) -> TokenRates:
        rates = (prices.rates_at(input_tokens) for prices in known)
        return TokenRates(*(choose(usd) for usd in zip(*rates, strict=True)))

    limits = sorted({above for prices in known for above, _ in prices.long_context})
    return _complete_prices(
        combine_at(0),
        tuple((above, combine_at(above + 1)) for above in limits),
        choose(prices.image for prices in known),
        choose(prices.request for prices in known),
        frozenset().union(*(prices.always for prices in known)),
    )


def count_kinds(usage: dict[str, Any] | None, kinds: frozenset[InputKind] = frozenset()) -> TokenKinds:
    """Read the kinds from the usage of an engine in OpenAI's fields. `kinds`: those that the request asked for.

    A write without a stated duration counts as the longest that the request marked."""
    if not usage or ("prompt_tokens_details" not in usage and "completion_tokens_details" not in usage):
        return PLAIN
    details = usage.get("prompt_tokens_details") or {}
    reasoning = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens", 0)
    if not details:
        return TokenKinds(reasoning=reasoning) if reasoning else PLAIN
    written = max(details.get("cache_creation_tokens", 0), details.get("cache_write_tokens", 0))
    unstated = written if "cache_write_1h" in kinds else 0
    hour = min(written, details.get("cache_creation_1h_tokens", unstated))
    return TokenKinds(details.get("cached_tokens", 0), written - hour, hour, details.get("audio_tokens", 0), reasoning)
