"""The load from what people know: users, documents, turns and agent steps become requests per second and tokens.

The rules are rows of the catalog (`load_rules.csv`). A field of the file replaces a rule. Requests of a working day are
users x conversations x turns x agent steps; documents are requests that each `refresh` finishes by its deadline. The
prompt grows by the turns and steps before it, half of them on average; its 95th percentile by all of them.
"""

from collections.abc import Collection, Iterator, Mapping

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.metadata_records import LoadRule
from archwright.contract.estimate import Estimate, exact_estimate, multiply_estimates
from archwright.contract.needs import DerivedLoad, DerivedValue, Period, RequestRate, TokenLength, Traffic, Workload
from archwright.contract.record import as_dict, replace
from archwright.needs.kind_fields import fields_by_kind
from archwright.needs.needs_problem import NeedsCode, NeedsProblem
from archwright.needs.number_checks import number_ranges
from archwright.specfile import join_path

HOURS_PER_DAY = 24
DAYS_PER_WEEK = 7
SECONDS_PER_HOUR = 3600
HOURS_PER_PERIOD: Mapping[Period, float] = {"day": 24.0, "week": 168.0, "month": 730.0, "quarter": 2190.0}
# A refresh without a deadline is done in this share of its period, as other jobs (plan.demand.forecast).
DEADLINE_SHARE = 0.25
# Price of an output token in input tokens: the usual ratio of hosted models, for the band of a load's cost.
OUTPUT_WEIGHT = 4.0
# Kinds whose documents are a job of the planner, not requests.
_JOB_KINDS = ("embedding", "document-parsing")


def convert_load(
    workload: Workload, traffic: Traffic, stated: Collection[str], catalog: Catalog
) -> tuple[Traffic, DerivedLoad]:
    """Return the traffic with every rate and length that the kind needs, and what was derived for it.

    `stated`: the fields of the traffic that the file sets.
    """
    return _LoadConverter(workload, traffic, stated, catalog).convert()


def check_load(traffic: Traffic, path: str) -> Iterator[NeedsProblem]:
    """Check that a converted load is in the ranges of a stated one."""
    given = ("users", "documents", "agent_steps", "turns", "requests_per_second")
    field = next((name for name in given if getattr(traffic, name) is not None), "input_tokens")
    for name, part in (("requests_per_second", "peak"), ("input_tokens", "p95"), ("output_tokens", "p95")):
        made: RequestRate | TokenLength | None = getattr(traffic, name)
        if made is not None:
            allowed = number_ranges()[type(made).__name__][part]
            outside = next((value for value in as_dict(made).values() if not allowed.contains(value)), None)
            if outside is not None:
                message, hint = f"this load makes {outside:.3g} {name}", f"state a load that makes {allowed}"
                yield NeedsProblem(NeedsCode.OUT_OF_RANGE, join_path(path, field), message, hint)


class _LoadConverter:
    def __init__(self, workload: Workload, traffic: Traffic, stated: Collection[str], catalog: Catalog) -> None:
        self._workload, self._traffic, self._stated = workload, traffic, stated
        self._rules = {(rule.kind, rule.quantity): rule for rule in catalog.load_rules}
        self._found: list[DerivedValue] = []
        # Factors that the volume of the load is proportional to.
        self._factors: list[Estimate] = []

    def convert(self) -> tuple[Traffic, DerivedLoad]:
        kind = self._workload.kind
        for name in ("pages_per_document", "audio_s", "image_pixels"):
            if name in fields_by_kind()[kind].of_traffic and self._is_used(name):
                self._set(**{name: self._measure(name).value})
        if self._traffic.users is not None:
            self._convert_users(self._traffic.users)
        elif self._traffic.documents is not None and self._traffic.refresh is not None and kind not in _JOB_KINDS:
            self._convert_documents(self._traffic.documents, HOURS_PER_PERIOD[self._traffic.refresh])
        elif self._traffic.requests_per_second is not None and self._traffic.agent_steps is not None:
            self._multiply_steps(self._traffic.requests_per_second, self._traffic.agent_steps)
        if kind == "embedding" and self._traffic.documents is not None and self._traffic.tokens_per_document is None:
            self._set(tokens_per_document=self._count_page_tokens("tokens_per_document").value)
        self._convert_lengths()
        band = multiply_estimates(self._factors, "") if self._factors else exact_estimate(1.0, "")
        return self._traffic, DerivedLoad(workload=self._workload.name, values=tuple(self._found), band=band)

    def _is_used(self, name: str) -> bool:
        """Every request has audio, or pixels; pages count for documents whose tokens are not stated."""
        traffic, kind = self._traffic, self._workload.kind
        if name != "pages_per_document":
            return True
        if kind == "batch-text":
            return traffic.input_tokens is None
        return traffic.documents is not None and traffic.tokens_per_document is None

    def _set(self, **changes: object) -> None:
        self._traffic = replace(self._traffic, **changes)

    def _rule(self, quantity: str) -> LoadRule | None:
        return self._rules.get((self._workload.kind, quantity)) or self._rules.get(("*", quantity))

    def _measure(self, quantity: str, override: str = "") -> Estimate:
        """Return the stated value of a field, else the rule's estimate, which is noted; 1 without a rule."""
        value = getattr(self._traffic, quantity, None)
        if value is not None and (quantity != "hours_per_day" or quantity in self._stated):
            return exact_estimate(value, "")
        rule = self._rule(quantity)
        if rule is None:
            return exact_estimate(1.0, "")
        # A user's own value may lie outside the shipped interval.
        low, high = min(rule.low, rule.typical), max(rule.high, rule.typical)
        estimate = Estimate(value=rule.typical, low=low, high=high, unit=rule.unit)
        self._note(quantity, estimate, f"{rule.source}, {rule.as_of}, confidence {rule.confidence}", override)
        return estimate

    def _note(self, name: str, estimate: Estimate, reason: str, override: str = "") -> None:
        field = f"traffic.{override or name}"
        self._found.append(DerivedValue(name=name, estimate=estimate, reason=reason, override=field))

    def _convert_users(self, users: float) -> None:
        asked, turns, hours = (self._measure(name) for name in ("requests_per_user_day", "turns", "hours_per_day"))
        days, ratio = (self._measure(name, "requests_per_second") for name in ("days_per_week", "peak_over_mean"))
        steps = self._traffic.agent_steps or 1.0
        week = days.scaled(1 / DAYS_PER_WEEK, unit="")
        per_day = multiply_estimates([exact_estimate(users * steps, ""), asked, turns], "")
        open_s = hours.value * SECONDS_PER_HOUR
        mean = multiply_estimates([per_day, week], "").scaled(1 / open_s, unit="requests/s")
        peak = per_day.value * ratio.value / open_s
        factors = f"{users:,g} users x {asked.value:g} x {turns.value:g} turns x {steps:g} model calls"
        text = f"{factors} on {days.value:g} of 7 days in {hours.value:g} h. The peak is {peak:.3g} requests/s"
        self._note("requests_per_second", mean, text)
        self._factors += [_relative(one) for one in (asked, turns, week)]
        self._set(requests_per_second=RequestRate(mean=mean.value, peak=peak), hours_per_day=hours.value)

    def _convert_documents(self, documents: float, period_h: float) -> None:
        traffic, pages = self._traffic, 1.0
        if self._workload.kind == "vision-language":
            pages = traffic.pages_per_document or 1.0
            self._factors += [_relative(one.estimate) for one in self._found if one.name == "pages_per_document"]
        requests = documents * pages * (traffic.agent_steps or 1.0)
        deadline = traffic.deadline_h or DEADLINE_SHARE * period_h
        mean = requests / (period_h * traffic.hours_per_day / HOURS_PER_DAY * SECONDS_PER_HOUR)
        peak = max(mean, requests / (deadline * SECONDS_PER_HOUR))
        text = f"{requests:,g} requests each {traffic.refresh}; the peak of {peak:.3g} finishes them in {deadline:g} h"
        self._note("requests_per_second", exact_estimate(mean, "requests/s"), text, "deadline_h")
        self._set(requests_per_second=RequestRate(mean=mean, peak=peak), deadline_h=deadline)

    def _multiply_steps(self, rate: RequestRate, steps: float) -> None:
        made = RequestRate(mean=rate.mean * steps, peak=rate.peak * steps)
        text = f"{rate.mean:g} requests/s x {steps:g} model calls"
        self._note("requests_per_second", exact_estimate(made.mean, "requests/s"), text, "agent_steps")
        self._set(requests_per_second=made)

    def _count_page_tokens(self, name: str) -> Estimate:
        """Note and return the tokens of a document: its pages x the tokens of a page."""
        pages = self._traffic.pages_per_document
        known = next((one.estimate for one in self._found if one.name == "pages_per_document"), None)
        page = self._measure("tokens_per_page", name)
        tokens = multiply_estimates([known or exact_estimate(pages or 1.0, ""), page], "tokens")
        self._note(name, tokens, f"{pages:g} pages x {page.value:g} tokens")
        return tokens

    def _convert_lengths(self) -> None:
        """Set the token lengths of a request; an output stays stated or unknown before its input grows."""
        if self._traffic.requests_per_second is None:
            return
        answer, prompt = self._measure_length("output_tokens"), self._measure_length("input_tokens")
        if prompt is None:
            self._factors += [_relative(one.estimate) for one in self._found if one.name == "audio_s"]
            return
        written = answer[0] if answer is not None else exact_estimate(0.0, "tokens")
        read, p95 = prompt
        grown, end = read, p95
        for quantity, before in self._count_earlier_calls():
            added = _add(self._measure(quantity, "input_tokens"), written, 1.0)
            grown, end = _add(grown, added, before / 2), end + added.value * before
        if grown is not read:
            text = "the prompt of the first model call, and on average half of the turns and steps before it"
            self._note("input_tokens", grown, text)
        self._set(input_tokens=TokenLength(mean=grown.value, p95=max(end, grown.value)))
        if answer is not None:
            self._set(output_tokens=TokenLength(mean=written.value, p95=max(answer[1], written.value)))
        self._factors.append(_relative(_add(grown, written, OUTPUT_WEIGHT)))

    def _measure_length(self, name: str) -> tuple[Estimate, float] | None:
        """Return mean and 95th percentile of a length: stated, by the rule, or by pages; None if the kind has none."""
        stated: TokenLength | None = getattr(self._traffic, name)
        if stated is not None:
            return exact_estimate(stated.mean, "tokens"), stated.p95
        if self._rule(f"{name}.mean") is not None:
            return self._measure(f"{name}.mean", name), self._measure(f"{name}.p95", name).value
        if name == "input_tokens" and self._workload.kind == "batch-text":
            tokens = self._count_page_tokens(name)
            return tokens, tokens.value * self._measure("p95_over_mean", name).value
        return None

    def _count_earlier_calls(self) -> Iterator[tuple[str, float]]:
        """Yield what each earlier turn, and each earlier step, adds to a prompt beside its answer; and their number.

        A usual prompt holds the usual conversation already, so only turns beyond it count.
        """
        turns, steps = self._traffic.turns or 1.0, self._traffic.agent_steps or 1.0
        usual = self._rule("turns") if self._traffic.input_tokens is None else None
        counts = {
            "message_tokens": turns - (usual.typical if usual is not None else 1.0),
            "tool_result_tokens": steps - 1,
        }
        yield from ((quantity, before) for quantity, before in counts.items() if before > 0)


def _relative(estimate: Estimate) -> Estimate:
    if estimate.value <= 0:
        return exact_estimate(1.0, "")
    return Estimate(value=1.0, low=estimate.low / estimate.value, high=estimate.high / estimate.value, unit="")


def _add(one: Estimate, other: Estimate, times: float) -> Estimate:
    """Return `one` + `times` x `other`, both at their low or at their high end together."""
    value = one.value + times * other.value
    low, high = sorted((one.low + times * other.low, one.high + times * other.high))
    return Estimate(value=value, low=min(low, value), high=max(high, value), unit=one.unit)
