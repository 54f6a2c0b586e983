"""The load from what people know: users, documents, turns and agent steps.

They become requests per second and tokens. The rules are rows of the catalog (`load_rules.csv`). A
field of the file replaces a rule. Requests of a working day are users x conversations x turns x
agent steps; documents are requests that each `refresh` finishes by its deadline. The prompt grows
by the turns and steps before it, half of them on average; its 95th percentile by all of them.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.metadata_records import LoadRule
from archwright.contract.estimate import Estimate, exact_estimate, multiply_estimates
from archwright.contract.needs import (
    DerivedLoad,
    DerivedValue,
    Period,
    RequestRate,
    TokenLength,
    Traffic,
    Workload,
)
from archwright.contract.record import as_dict, replace
from archwright.needs.kind_fields import fields_by_kind
from archwright.needs.needs_problem import NeedsCode, NeedsProblem
from archwright.needs.number_checks import number_ranges
from archwright.specfile import join_path

HOURS_PER_DAY = 24
DAYS_PER_WEEK = 7
SECONDS_PER_HOUR = 3600
HOURS_PER_PERIOD: Mapping[Period, float] = {
    "day": 24.0,
    "week": 168.0,
    "month": 730.0,
    "quarter": 2190.0,
}
# A refresh without a deadline is done in this share of its period, as other jobs
# (plan.demand.forecast).
DEADLINE_SHARE = 0.25
# Price of an output token in input tokens: the usual ratio of hosted models, for the band of a
# load's cost.
OUTPUT_WEIGHT = 4.0
# Kinds whose documents are a job of the planner, not requests.
_JOB_KINDS = ("embedding", "document-parsing")


class _LengthEstimate(NamedTuple):
    """The tokens of a prompt or an answer: the mean, and the 95th percentile."""

    mean: Estimate
    p95: float


def convert_load(
    workload: Workload,
    traffic: Traffic,
    *,
    stated_fields: Collection[str],
    catalog: Catalog,
) -> tuple[Traffic, DerivedLoad]:
    """Return the traffic with every rate and length that the kind needs, and what was derived.

    `stated_fields`: the fields of the traffic that the file sets.
    """
    converter = _LoadConverter(workload, traffic, stated_fields=stated_fields, catalog=catalog)
    return converter.convert()


def check_load(traffic: Traffic, path: str) -> Iterator[NeedsProblem]:
    """Check that a converted load is in the ranges of a stated one."""
    field_path = join_path(path, _choose_load_field(traffic))
    yield from _check_extremes(traffic.requests_per_second, "requests_per_second", field_path)
    yield from _check_extremes(traffic.input_tokens, "input_tokens", field_path)
    yield from _check_extremes(traffic.output_tokens, "output_tokens", field_path)


def _choose_load_field(traffic: Traffic) -> str:
    """Return the field of the file that the load follows from."""
    if traffic.users is not None:
        return "users"
    if traffic.documents is not None:
        return "documents"
    if traffic.agent_steps is not None:
        return "agent_steps"
    if traffic.turns is not None:
        return "turns"
    if traffic.requests_per_second is not None:
        return "requests_per_second"
    return "input_tokens"


def _check_extremes(
    load: RequestRate | TokenLength | None,
    name: str,
    field_path: str,
) -> Iterator[NeedsProblem]:
    """Yield a problem about the first value of a rate or length that is out of range."""
    if load is None:
        return
    upper_field = "peak" if isinstance(load, RequestRate) else "p95"
    allowed = number_ranges()[type(load).__name__][upper_field]
    for value in as_dict(load).values():
        if not allowed.contains(value):
            yield NeedsProblem(
                NeedsCode.OUT_OF_RANGE,
                field_path,
                f"this load makes {value:.3g} {name}",
                hint=f"state a load that makes {allowed}",
            )
            return


class _LoadConverter:
    def __init__(
        self,
        workload: Workload,
        traffic: Traffic,
        *,
        stated_fields: Collection[str],
        catalog: Catalog,
    ) -> None:
        self._workload = workload
        self._traffic = traffic
        self._stated_fields = stated_fields
        self._rules = {(rule.kind, rule.quantity): rule for rule in catalog.load_rules}
        self._derived_values: list[DerivedValue] = []
        # Factors that the volume of the load is proportional to.
        self._factors: list[Estimate] = []

    def convert(self) -> tuple[Traffic, DerivedLoad]:
        self._set_media()
        self._set_request_rate()
        self._set_corpus_tokens()
        self._convert_lengths()

        band = exact_estimate(1.0, "")
        if self._factors:
            band = multiply_estimates(self._factors, "")
        load = DerivedLoad(
            workload=self._workload.name,
            values=tuple(self._derived_values),
            band=band,
        )
        return self._traffic, load

    def _set_media(self) -> None:
        """Set the pages, the audio and the pixels that the requests of the kind hold."""
        fields = fields_by_kind()[self._workload.kind].of_traffic
        if "pages_per_document" in fields and self._counts_pages():
            self._set(pages_per_document=self._measure("pages_per_document").value)
        if "audio_s" in fields:
            self._set(audio_s=self._measure("audio_s").value)
        if "image_pixels" in fields:
            self._set(image_pixels=self._measure("image_pixels").value)

    def _counts_pages(self) -> bool:
        """True for documents whose tokens are not stated."""
        traffic = self._traffic
        if self._workload.kind == "batch-text":
            return traffic.input_tokens is None
        return traffic.documents is not None and traffic.tokens_per_document is None

    def _set_request_rate(self) -> None:
        traffic = self._traffic
        is_job = self._workload.kind in _JOB_KINDS
        if traffic.users is not None:
            self._convert_users(traffic.users)
        elif traffic.documents is not None and traffic.refresh is not None and not is_job:
            self._convert_documents(traffic.documents, HOURS_PER_PERIOD[traffic.refresh])
        elif traffic.requests_per_second is not None and traffic.agent_steps is not None:
            self._multiply_steps(traffic.requests_per_second, traffic.agent_steps)

    def _set_corpus_tokens(self) -> None:
        traffic = self._traffic
        if self._workload.kind != "embedding" or traffic.documents is None:
            return
        if traffic.tokens_per_document is None:
            tokens = self._count_page_tokens("tokens_per_document")
            self._set(tokens_per_document=tokens.value)

    def _set(self, **changes: object) -> None:
        self._traffic = replace(self._traffic, **changes)

    def _rule(self, quantity: str) -> LoadRule | None:
        rule_of_kind = self._rules.get((self._workload.kind, quantity))
        return rule_of_kind or self._rules.get(("*", quantity))

    def _measure(self, quantity: str, override: str = "") -> Estimate:
        """Return the stated value of a field, else the rule's estimate, which is noted.

        Without a rule it is 1.
        """
        value = getattr(self._traffic, quantity, None)
        # The hours per day have a default in the record.
        is_default = quantity == "hours_per_day" and quantity not in self._stated_fields
        if value is not None and not is_default:
            return exact_estimate(value, "")

        rule = self._rule(quantity)
        if rule is None:
            return exact_estimate(1.0, "")

        # A user's own value may lie outside the shipped interval.
        estimate = Estimate(
            value=rule.typical,
            low=min(rule.low, rule.typical),
            high=max(rule.high, rule.typical),
            unit=rule.unit,
        )
        reason = f"{rule.source}, {rule.as_of}, confidence {rule.confidence}"
        self._note(quantity, estimate, reason, override=override)
        return estimate

    def _note(self, name: str, estimate: Estimate, reason: str, *, override: str = "") -> None:
        derived_value = DerivedValue(
            name=name,
            estimate=estimate,
            reason=reason,
            override=f"traffic.{override or name}",
        )
        self._derived_values.append(derived_value)

    def _find_estimate(self, name: str) -> Estimate | None:
        """Return the estimate of a derived value; None if the file states the value."""
        for derived_value in self._derived_values:
            if derived_value.name == name:
                return derived_value.estimate
        return None

    def _add_factor(self, name: str) -> None:
        """Make the volume proportional to a derived value, if there is one of this name."""
        estimate = self._find_estimate(name)
        if estimate is not None:
            self._factors.append(_relative(estimate))

    def _convert_users(self, users: float) -> None:
        conversations = self._measure("requests_per_user_day")
        turns = self._measure("turns")
        hours_per_day = self._measure("hours_per_day")
        days_per_week = self._measure("days_per_week", "requests_per_second")
        peak_ratio = self._measure("peak_over_mean", "requests_per_second")
        steps = self._traffic.agent_steps or 1.0

        open_share = days_per_week.scaled(1 / DAYS_PER_WEEK, unit="")
        open_s = hours_per_day.value * SECONDS_PER_HOUR
        users_and_steps = exact_estimate(users * steps, "")
        per_open_day = multiply_estimates([users_and_steps, conversations, turns], "")
        per_day = multiply_estimates([per_open_day, open_share], "")
        mean = per_day.scaled(1 / open_s, unit="requests/s")
        peak = per_open_day.value * peak_ratio.value / open_s

        product = f"{users:,g} users x {conversations.value:g} x {turns.value:g} turns"
        opening = f"{days_per_week.value:g} of 7 days in {hours_per_day.value:g} h"
        volume = f"{product} x {steps:g} model calls on {opening}"
        reason = f"{volume}. The peak is {peak:.3g} requests/s"
        self._note("requests_per_second", mean, reason)

        for factor in (conversations, turns, open_share):
            self._factors.append(_relative(factor))
        rate = RequestRate(mean=mean.value, peak=peak)
        self._set(requests_per_second=rate, hours_per_day=hours_per_day.value)

    def _convert_documents(self, documents: float, period_h: float) -> None:
        traffic = self._traffic
        pages = 1.0
        if self._workload.kind == "vision-language":
            pages = traffic.pages_per_document or 1.0
            self._add_factor("pages_per_document")

        requests = documents * pages * (traffic.agent_steps or 1.0)
        deadline_h = traffic.deadline_h or DEADLINE_SHARE * period_h
        open_h = period_h * traffic.hours_per_day / HOURS_PER_DAY
        mean = requests / (open_h * SECONDS_PER_HOUR)
        peak = max(mean, requests / (deadline_h * SECONDS_PER_HOUR))

        volume = f"{requests:,g} requests each {traffic.refresh}"
        reason = f"{volume}; the peak of {peak:.3g} finishes them in {deadline_h:g} h"
        estimate = exact_estimate(mean, "requests/s")
        self._note("requests_per_second", estimate, reason, override="deadline_h")
        self._set(requests_per_second=RequestRate(mean=mean, peak=peak), deadline_h=deadline_h)

    def _multiply_steps(self, rate: RequestRate, steps: float) -> None:
        multiplied_rate = RequestRate(mean=rate.mean * steps, peak=rate.peak * steps)
        estimate = exact_estimate(multiplied_rate.mean, "requests/s")
        reason = f"{rate.mean:g} requests/s x {steps:g} model calls"
        self._note("requests_per_second", estimate, reason, override="agent_steps")
        self._set(requests_per_second=multiplied_rate)

    def _count_page_tokens(self, name: str) -> Estimate:
        """Note and return the tokens of a document: its pages x the tokens of a page."""
        pages = self._find_estimate("pages_per_document")
        page_count = self._traffic.pages_per_document
        if pages is None:
            pages = exact_estimate(page_count or 1.0, "")
        tokens_per_page = self._measure("tokens_per_page", name)

        tokens = multiply_estimates([pages, tokens_per_page], "tokens")
        self._note(name, tokens, f"{page_count:g} pages x {tokens_per_page.value:g} tokens")
        return tokens

    def _convert_lengths(self) -> None:
        """Set the token lengths of a request; an output stays stated or unknown."""
        if self._traffic.requests_per_second is None:
            return
        answer = self._measure_output()
        prompt = self._measure_input()
        if prompt is None:
            self._add_factor("audio_s")
            return

        answer_mean = exact_estimate(0.0, "tokens")
        if answer is not None:
            answer_mean = answer.mean
        grown_prompt = self._grow_prompt(prompt, answer_mean)
        self._set(input_tokens=_to_length(grown_prompt))
        if answer is not None:
            self._set(output_tokens=_to_length(answer))
        volume = _add_multiple(grown_prompt.mean, answer_mean, OUTPUT_WEIGHT)
        self._factors.append(_relative(volume))

    def _grow_prompt(self, prompt: _LengthEstimate, answer_mean: Estimate) -> _LengthEstimate:
        """Return the prompt with what the turns and steps before it add."""
        mean = prompt.mean
        p95 = prompt.p95
        for quantity, earlier_calls in self._count_earlier_calls():
            message = self._measure(quantity, "input_tokens")
            tokens_per_call = _add_multiple(message, answer_mean, 1.0)
            mean = _add_multiple(mean, tokens_per_call, earlier_calls / 2)
            p95 += tokens_per_call.value * earlier_calls

        if mean is not prompt.mean:
            history = "on average half of the turns and steps before it"
            reason = f"the prompt of the first model call, and {history}"
            self._note("input_tokens", mean, reason)
        return _LengthEstimate(mean, p95)

    def _measure_input(self) -> _LengthEstimate | None:
        """Return the tokens of a prompt: stated, by the rule, or by pages; None if unknown."""
        length = self._measure_length("input_tokens", self._traffic.input_tokens)
        if length is None and self._workload.kind == "batch-text":
            tokens = self._count_page_tokens("input_tokens")
            p95_ratio = self._measure("p95_over_mean", "input_tokens")
            return _LengthEstimate(tokens, tokens.value * p95_ratio.value)
        return length

    def _measure_output(self) -> _LengthEstimate | None:
        return self._measure_length("output_tokens", self._traffic.output_tokens)

    def _measure_length(
        self,
        name: str,
        stated_length: TokenLength | None,
    ) -> _LengthEstimate | None:
        """Return the stated length, else that of the rule; None if the kind has none."""
        if stated_length is not None:
            mean = exact_estimate(stated_length.mean, "tokens")
            return _LengthEstimate(mean, stated_length.p95)
        if self._rule(f"{name}.mean") is None:
            return None
        mean = self._measure(f"{name}.mean", name)
        p95 = self._measure(f"{name}.p95", name)
        return _LengthEstimate(mean, p95.value)

    def _count_earlier_calls(self) -> Iterator[tuple[str, float]]:
        """Yield what each earlier call adds to a prompt beside its answer, and the number of calls.

        A call is a turn or a step. A usual prompt holds the usual conversation already, so only
        turns beyond it count.
        """
        usual_turns = 1.0
        rule = self._rule("turns")
        if rule is not None and self._traffic.input_tokens is None:
            usual_turns = rule.typical

        earlier_turns = (self._traffic.turns or 1.0) - usual_turns
        if earlier_turns > 0:
            yield "message_tokens", earlier_turns
        earlier_steps = (self._traffic.agent_steps or 1.0) - 1
        if earlier_steps > 0:
            yield "tool_result_tokens", earlier_steps


def _to_length(estimate: _LengthEstimate) -> TokenLength:
    mean = estimate.mean.value
    return TokenLength(mean=mean, p95=max(estimate.p95, mean))


def _relative(estimate: Estimate) -> Estimate:
    """Return the band of an estimate as factors of its value."""
    if estimate.value <= 0:
        return exact_estimate(1.0, "")
    low = estimate.low / estimate.value
    high = estimate.high / estimate.value
    return Estimate(value=1.0, low=low, high=high, unit="")


def _add_multiple(base: Estimate, addend: Estimate, times: float) -> Estimate:
    """Return `base` + `times` x `addend`, both at their low or at their high end together."""
    value = base.value + times * addend.value
    at_low = base.low + times * addend.low
    at_high = base.high + times * addend.high
    return Estimate(
        value=value,
        low=min(at_low, at_high, value),
        high=max(at_low, at_high, value),
        unit=base.unit,
    )
