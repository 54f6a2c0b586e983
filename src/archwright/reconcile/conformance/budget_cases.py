"""The cases of the budget suite: each spends a budget in another way, and compares the spend with the budget.

Design: the recorded spend is read once at the end, because some gateways record it late. Without administration one
key is used for all cases, so every route must refuse it once the first case has spent the budget.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from .file_requests import (
    RATE_PER_MINUTE,
    WRONG_RESULTS,
    find_range_problem,
    list_files_beyond_rate,
    send_batch,
)
from .gateway_client import GatewayClient, GatewayError
from .key_administration import CreatedKey, KeyAdministration
from .paid_provider import PaidProvider
from .provider_cases import (
    PAUSE_S,
    PROVIDER_CASES,
    ProviderCase,
    ProviderTrial,
    find_bill_problem,
    spend_and_leave,
    wait_until_ready,
)
from .request_templates import (
    Answer,
    RequestTemplate,
    describe_failure,
)

SpendVerdict = Literal["ok", "overspent", "underbilled", "overbilled", "refused early", "inconclusive", "skipped"]
CaseVerdict = SpendVerdict | Literal["wrong results", "not limited"]
ROUNDING = 1e-6  # relative, of sums of the recorded spend
PROMPT_TOLERANCE = 0.05  # prompts of one length may differ by a few tokens
LEAVE_AFTER, LEAVERS, RETRIES, INVALID, ROUNDS = 3, 4, 3, 4, 24
SEQUENCE, LONG_REPLY_TOKENS = 20, 256  # requests one after another
SPEND_POLL_S = 0.5
USD_DIGITS = 9
NO_BUDGETS, NEEDS_ADMIN = "not applicable: the gateway has no budgets", "needs --admin, to read the spend"
URL_HINT = "check that the gateway runs, and the host, port and /v1 of the URL"
HINTS = {401: "check the key in the variable that --key-env names", 0: URL_HINT, 404: URL_HINT}
OTHER_HINT = "check --model and --price, and that the gateway has a price for the model"


class ProviderAddress(NamedTuple):
    """The address at which the suite runs its provider."""

    host: str
    port: int


class UntestableGateway(Exception):
    """The first requests or the administration fail. `place`: the address."""

    def __init__(self, answer: Answer, place: str) -> None:
        super().__init__(answer.reason)
        self.place = place
        self.hint = HINTS.get(401 if answer.status == 403 else answer.status, OTHER_HINT)


@dataclass(frozen=True, kw_only=True)
class CaseResult:
    """`recorded_usd`: by the gateway's usage records; `counted_usd`: its replies' usage at the stated prices.

    In the cases of a provider `counted_usd` is the provider's bill."""

    case: str
    verdict: CaseVerdict
    note: str = ""
    budget_usd: float | None = None
    sent: int = 0
    answered: int = 0
    recorded_usd: float | None = None
    counted_usd: float | None = None
    overspent_usd: float = 0.0


class BudgetCase(NamedTuple):
    """`requests` at once. `edge`: again and again, until all are refused. `keys` share the budget.

    `batch`: first a batch of them, which is `cancelled` at once. `rounds`: of a case without an edge. `sequence`:
    requests one after another, which use the budget. `needs`: the option without which it is skipped."""

    name: str
    template: RequestTemplate
    requests: int
    edge: bool = True
    keys: int = 1
    batch: bool = False
    cancelled: bool = False
    rounds: int = 1
    sequence: int = 0
    needs: str = ""


class Trial(NamedTuple):
    """The requests of a case and their answers."""

    case: BudgetCase
    budget_usd: float
    accounts: tuple[CreatedKey, ...]
    answers: list[Answer]

    @property
    def counted_usd(self) -> float:
        return sum(answer.usd for answer in self.answers)

    def sum_spend(self, spent: dict[str, float]) -> float:
        return sum(spent.get(account.id, 0.0) for account in self.accounts)


CACHING = 8  # requests with long prompts: enough for the edge of a budget
CACHE_OPTION, HOUR_OPTION = "--cache-price READ:WRITE", "--cache-price READ:WRITE:WRITE_1H"


class OtherTemplates(NamedTuple):
    """Templates of cases that the options may leave out: `writes`, `hour_writes` and `reads` of a prompt's cache."""

    embeddings: RequestTemplate | None = None
    writes: RequestTemplate | None = None
    hour_writes: RequestTemplate | None = None
    reads: RequestTemplate | None = None


def choose_budget(case: BudgetCase, usual_usd: float) -> float:
    """Return a budget that half of the requests spend, or a sequence of them, and at least one worst case.

    It fits half a request more, so that no budget is spent exactly."""
    worst_usd = case.template.worst_usd()
    if not case.edge:
        return 100 * worst_usd
    fitting = case.sequence + 0.5 if case.sequence else (case.requests + 1) / 2
    return max(1.01 * worst_usd, fitting * usual_usd)


def list_cases(template: RequestTemplate, others: OtherTemplates, requests: int) -> list[BudgetCase]:
    embeddings, hour = others.embeddings, others.hour_writes
    streamed, reported = {"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}
    # Beside twenty such replies the worst case of one is small: some 10 % of the budget.
    long: MappingProxyType[str, Any] = MappingProxyType({"max_tokens": LONG_REPLY_TOKENS})
    left = template._replace(fields=MappingProxyType(streamed), leave_after=LEAVE_AFTER)
    cases = (
        BudgetCase("concurrent requests", template, requests),
        BudgetCase("requests one after another", template._replace(fields=long), 1, sequence=SEQUENCE),
        BudgetCase("streams with usage", template._replace(fields=MappingProxyType(reported)), requests),
        BudgetCase("streams without usage", template._replace(fields=MappingProxyType(streamed)), requests),
        BudgetCase("two keys of one budget", template, requests, keys=2),
        BudgetCase("embeddings", embeddings or template, requests, needs="" if embeddings else "--embeddings MODEL=IN"),
        BudgetCase("batch", template, requests, batch=True),
        BudgetCase("cancelled batch", template, requests, edge=False, batch=True, cancelled=True),
        BudgetCase("streams left by the client", left, LEAVERS, edge=False),
        BudgetCase("retries of one request", template._replace(repeated=True), RETRIES, edge=False),
        BudgetCase("cache writes", others.writes or template, CACHING, needs="" if others.writes else CACHE_OPTION),
        BudgetCase("cache writes for an hour", hour or template, CACHING, needs="" if hour else HOUR_OPTION),
        BudgetCase(
            "cache reads",
            others.reads or template,
            CACHING,
            False,
            rounds=2,
            needs="" if others.reads else CACHE_OPTION,
        ),
        BudgetCase("invalid requests", template._replace(fields=MappingProxyType({"messages": "x"})), INVALID, False),
    )
    # No prompt of one case is one of another, so that no cache answers it.
    return [one._replace(template=one.template._replace(run=f"{template.run}-{n}")) for n, one in enumerate(cases)]


class BudgetSuite:
    """One run against one gateway. The key of `client` is the administrator's; without `admin` it has `budget_usd`.

    Without both the gateway has no budgets. `report_step`: called with the name of each case before it runs."""

    def __init__(
        self,
        client: GatewayClient,
        admin: KeyAdministration | None,
        budget_usd: float | None,
        report_step: Callable[[str], None],
    ) -> None:
        self._client, self._admin, self._report_step = client, admin, report_step
        self._has_budgets = admin is not None or budget_usd is not None
        self._left_usd = budget_usd or 0.0

    async def run(
        self,
        template: RequestTemplate,
        others: OtherTemplates,
        requests: int,
        provider: ProviderAddress | None = None,
    ) -> list[CaseResult]:
        """`provider`: where the suite runs a provider that the gateway has as upstream; None: without its cases.

        Raises UntestableGateway if the first requests or the administration fail, or the address is in use."""
        sample = await self._send_sample(template)
        usual = {template.path: sample.usd}
        for other in (others.embeddings, others.hour_writes or others.writes):
            if other is not None and self._has_budgets:
                usual[other.path] = (await self._send_sample(other)).usd
        trials: list[Trial | CaseResult] = []
        for case in list_cases(template._replace(prompt_tokens=sample.tokens), others, requests):
            self._report_step(case.name)
            trials.append(await self._try_case(case, usual.get(case.template.path, 0.0)))
        recorded = await self._read_spend([one for one in trials if isinstance(one, Trial)])
        results = [compare_spend(one, recorded) if isinstance(one, Trial) else one for one in trials]
        results.append(await self._try_file_rates())
        results.append(await self._try_file_ranges())
        return results if provider is None else results + await self._run_provider(provider, template, requests)

    async def find_model(self) -> str:
        """Return the first model that the gateway lists."""
        try:
            return str((await self._client.get("/v1/models"))["data"][0]["id"])
        except (GatewayError, LookupError, TypeError) as error:
            answer = describe_failure(error) if isinstance(error, GatewayError) else Answer(404, reason="no model")
            raise UntestableGateway(answer, f"{self._client.address}/models") from error

    async def _send_sample(self, template: RequestTemplate) -> Answer:
        """Measure one request: whether the gateway answers, and its usage."""
        (account,) = await self._open_accounts("sample", 100 * template.worst_usd(), 1)
        answer = await template.send(self._client.with_key(account.key), 0)
        if not answer.usd:
            reason = answer.reason or "the reply states no usage"
            raise UntestableGateway(
                answer._replace(reason=reason), f"{self._client.address.removesuffix('/v1')}{template.path}"
            )
        self._left_usd -= answer.usd
        return answer

    async def _try_case(self, case: BudgetCase, usual_usd: float) -> Trial | CaseResult:
        """Choose a budget, and spend it."""
        if not self._has_budgets:
            return CaseResult(case=case.name, verdict="skipped", note=NO_BUDGETS)
        if case.needs:
            return CaseResult(case=case.name, verdict="skipped", note=f"needs {case.needs}")
        if self._admin is None and (case.keys > 1 or case.sequence or not case.edge):
            return CaseResult(case=case.name, verdict="skipped", note=NEEDS_ADMIN)
        if case.sequence:
            usual_usd = (await self._send_sample(case.template)).usd
        budget = choose_budget(case, usual_usd)
        accounts = await self._open_accounts(case.name, budget, case.keys)
        budget = budget if self._admin else max(0.0, self._left_usd)
        clients = [self._client.with_key(account.key) for account in accounts]
        trial = Trial(case, budget, accounts, [])
        answers = trial.answers
        if case.batch:
            answers += await send_batch(case.template, clients[0], case.requests, cancelled=case.cancelled)
            if answers[0].status != 200 and not answers[0].over_budget and len(answers) == 1:
                return CaseResult(case=case.name, verdict="skipped", note=f"no batches here: {answers[0].reason}")
        most = ROUNDS * max(case.requests, case.sequence)
        while not case.cancelled and trial.counted_usd <= 2 * budget and len(answers) < most:
            numbers = range(len(answers), len(answers) + case.requests)
            sent = (case.template.send(clients[n % case.keys], n) for n in numbers)
            answers += await asyncio.gather(*sent)
            complete = not case.edge and len(answers) >= case.rounds * case.requests
            if complete or all(answer.status != 200 for answer in answers[-case.requests :]):
                break
        self._left_usd -= trial.counted_usd
        return trial

    async def _try_file_rates(self) -> CaseResult:
        """Send more requests about files than a key's rate allows."""
        name = "rates of file requests"
        if self._admin is None:
            note = "needs --admin, to create a key with a rate" if self._has_budgets else NO_BUDGETS
            return CaseResult(case=name, verdict="skipped", note=note)
        (account,) = await self._open_accounts(name, 1.0, 1, rpm=RATE_PER_MINUTE)
        answers = await list_files_beyond_rate(self._client.with_key(account.key))
        return decide_rate_verdict(name, answers)

    async def _try_file_ranges(self) -> CaseResult:
        """Read parts of a file."""
        name = "ranges of a file"
        (account,) = await self._open_accounts(name, 1.0, 1)
        try:
            problem = await find_range_problem(self._client.with_key(account.key))
        except GatewayError as error:
            return CaseResult(case=name, verdict="skipped", note=f"no files here: {error}")
        return CaseResult(case=name, verdict="wrong results" if problem else "ok", note=problem)

    async def _run_provider(self, at: ProviderAddress, template: RequestTemplate, requests: int) -> list[CaseResult]:
        """Run the cases of a provider, whose prices are those of the template."""
        if self._admin is None:
            note = NEEDS_ADMIN if self._has_budgets else NO_BUDGETS
            return [CaseResult(case=case.name, verdict="skipped", note=note) for case in PROVIDER_CASES]
        provider = PaidProvider(PAUSE_S)
        try:
            async with provider.serve(*at):
                trials = [await self._try_provider(case, provider, template, requests) for case in PROVIDER_CASES]
        except OSError as error:
            raise UntestableGateway(Answer(0, reason=str(error)), f"{at.host}:{at.port} (--provider)") from error
        spent = await self._read_bills(trials)
        return [compare_bill(trial, spent.get(trial.account.id, 0.0)) for trial in trials]

    async def _try_provider(
        self, case: ProviderCase, provider: PaidProvider, template: RequestTemplate, requests: int
    ) -> ProviderTrial:
        """Spend a budget that pays half of the requests, and leave each of them."""
        self._report_step(case.name)
        prices = template.input_usd, template.output_usd
        budget = case.usual.to_usd(*prices) * (requests + 1) / 2
        (sample,) = await self._open_accounts(f"{case.model}-sample", 1e3 * budget, 1)
        await wait_until_ready(case, self._client.with_key(sample.key), provider)
        provider.take_bill()
        (account,) = await self._open_accounts(case.name.replace(":", ""), budget, 1)
        answers = await spend_and_leave(case, self._client.with_key(account.key), provider, requests)
        return ProviderTrial(case, budget, account, answers, provider.take_bill().to_usd(*prices))

    async def _read_bills(self, trials: list[ProviderTrial]) -> dict[str, float]:
        """Read the spend of each key, when all that was billed is recorded or `settle_s` has passed."""
        assert self._admin is not None, "the spend is read by administration"
        until = time.monotonic() + self._admin.settle_s
        while True:
            spent = await self._admin.read_spend()
            complete = all(spent.get(one.account.id, 0.0) >= one.billed_usd * (1 - ROUNDING) for one in trials)
            if complete or time.monotonic() > until:
                return spent
            await asyncio.sleep(SPEND_POLL_S)

    async def _open_accounts(
        self, name: str, budget_usd: float, count: int, rpm: int | None = None
    ) -> tuple[CreatedKey, ...]:
        if self._admin is None:
            return (CreatedKey("", self._client.key),)
        try:
            return await self._admin.create_keys(name.replace(" ", "-"), budget_usd, count, rpm)
        except GatewayError as error:
            raise UntestableGateway(describe_failure(error), f"{self._admin.client.address} (--admin)") from error

    async def _read_spend(self, trials: list[Trial]) -> dict[str, float] | None:
        """Read the spend of each key, when all that was counted is recorded or `settle_s` has passed."""
        if self._admin is None:
            return None
        until = time.monotonic() + self._admin.settle_s
        while True:
            spent = await self._admin.read_spend()
            complete = all(one.sum_spend(spent) >= one.counted_usd * (1 - PROMPT_TOLERANCE) for one in trials)
            if complete or time.monotonic() > until:
                return spent
            await asyncio.sleep(SPEND_POLL_S)


def compare_bill(trial: ProviderTrial, recorded_usd: float) -> CaseResult:
    """Compare the recorded spend with the provider's bill, and both with the budget."""
    verdict, note = find_bill_problem(trial, recorded_usd)
    overspent = max(trial.billed_usd, recorded_usd) - trial.budget_usd
    return CaseResult(
        case=trial.case.name,
        verdict=verdict,
        note=note,
        budget_usd=round(trial.budget_usd, USD_DIGITS),
        sent=len(trial.answers),
        answered=sum(answer.status == 200 for answer in trial.answers),
        recorded_usd=round(recorded_usd, USD_DIGITS),
        counted_usd=round(trial.billed_usd, USD_DIGITS),
        overspent_usd=round(overspent, USD_DIGITS) if verdict == "overspent" else 0.0,
    )


def compare_spend(trial: Trial, spent: dict[str, float] | None) -> CaseResult:
    """Compare the recorded spend with the count, and both with the budget."""
    recorded = None if spent is None else trial.sum_spend(spent)
    overspent = max(trial.counted_usd, recorded or 0.0) - trial.budget_usd
    verdict, note = find_problem(trial, recorded, overspent)
    return CaseResult(
        case=trial.case.name,
        verdict=verdict,
        note=note,
        budget_usd=round(trial.budget_usd, USD_DIGITS),
        sent=len(trial.answers),
        answered=sum(answer.status == 200 for answer in trial.answers),
        recorded_usd=None if recorded is None else round(recorded, USD_DIGITS),
        counted_usd=round(trial.counted_usd, USD_DIGITS),
        overspent_usd=round(overspent, USD_DIGITS) if verdict == "overspent" else 0.0,
    )


def find_problem(trial: Trial, recorded: float | None, overspent: float) -> tuple[CaseVerdict, str]:
    """Return the verdict and its reason."""
    case, answers = trial.case, trial.answers
    wrong = [answer.reason for answer in answers if answer.reason.startswith(WRONG_RESULTS)]
    if wrong:
        return "wrong results", wrong[0].removeprefix(WRONG_RESULTS)
    worst = case.template.worst_usd()
    if overspent > trial.budget_usd * ROUNDING:
        return "overspent", ""
    if case.edge:
        others = [answer.reason for answer in answers if answer.status != 200 and not answer.over_budget]
        if others or all(answer.status == 200 for answer in answers):
            return "inconclusive", others[0] if others else "all requests fit into the budget: use more requests"
        if -overspent > worst:
            return "refused early", f"{-overspent:.6f} USD are left, and a request needs at most {worst:.6f}"
    note = describe_use(trial)
    return ("ok", note) if recorded is None else find_billing_problem(trial, recorded, note)


def find_billing_problem(trial: Trial, recorded: float, note: str) -> tuple[CaseVerdict, str]:
    """Compare the recorded spend with the count; `note`: the reason if they agree."""
    case, answers, counted = trial.case, trial.answers, trial.counted_usd
    worst, exact = case.template.worst_usd(), all(answer.exact for answer in answers)
    if case.template.repeated and answers[0].usd <= recorded < counted:
        return "ok", "the gateway replayed an answer, and did not bill it again"
    if recorded < counted * (1 - (ROUNDING if exact else PROMPT_TOLERANCE)):
        return "underbilled", f"{counted - recorded:.6f} USD less than delivered"
    if recorded > (counted if exact else len(answers) * worst) * (1 + ROUNDING):
        return "overbilled", f"{recorded - counted:.6f} USD more than delivered"
    return "ok", note


def describe_use(trial: Trial) -> str:
    """Say how many requests fit into the budget at once, or how much of it a sequence used."""
    case, answers = trial.case, trial.answers
    if case.sequence:
        answered = sum(answer.status == HTTPStatus.OK for answer in answers)
        return f"{answered} one after another use {trial.counted_usd / trial.budget_usd:.0%} of the budget"
    at_once = sum(answer.status == HTTPStatus.OK for answer in answers[: case.requests])
    return f"{at_once} of {case.requests} at once" if case.edge and not case.batch else ""


def decide_rate_verdict(name: str, answers: list[Answer]) -> CaseResult:
    """Return the verdict over requests that exceed the rate of their key."""
    answered = sum(answer.status == HTTPStatus.OK for answer in answers)
    refused = sum(answer.status == HTTPStatus.TOO_MANY_REQUESTS for answer in answers)
    verdict: CaseVerdict = "ok"
    note = ""
    if answered == len(answers):
        verdict, note = "not limited", f"{answered} requests with a rate of {RATE_PER_MINUTE} a minute"
    elif not answered and not refused:
        verdict, note = "skipped", f"no files here: {answers[0].reason}"
    elif answered + refused < len(answers):
        verdict, note = "inconclusive", next(one.reason for one in answers if one.status not in (200, 429))
    return CaseResult(case=name, verdict=verdict, note=note, sent=len(answers), answered=answered)
