"""`conformance`: do the budgets of a gateway hold?"""

import asyncio
from secrets import token_hex

from archwright import settings
from archwright.api.argument_errors import argument_error
from archwright.contract.record import Record
from archwright.errors import ReconcileError
from archwright.reconcile.bench_client import normalise_base_url
from archwright.reconcile.conformance.budget_cases import BudgetSuite, CaseResult, OtherTemplates, ProviderAddress
from archwright.reconcile.conformance.key_administration import ArchwrightAdministration, LitellmAdministration
from archwright.reconcile.conformance.request_templates import EMBEDDINGS, MESSAGES, CachePrices, RequestTemplate

MILLION, REQUESTS_LIMIT, PORTS = 1e6, 1_000, 65_536


class ConformanceOptions(Record):
    """`admin`: the URL of archwright's administration API, or "litellm". Prices are USD per million tokens.

    `cache_price`: READ:WRITE or READ:WRITE:WRITE_1H, of a model at /v1/messages. `provider`: HOST:PORT at which the
    suite runs a provider, which the gateway has as the upstream of its models."""

    key_env: str | None = None
    price: str | None = None
    admin: str | None = None
    budget_usd: float | None = None
    model: str | None = None
    embeddings: str | None = None
    cache_price: str | None = None
    requests: int = 32
    provider: str | None = None


class ConformanceReport(Record):
    url: str
    model: str
    cases: tuple[CaseResult, ...]
    overspent_usd: float


def conformance(url: str, *, options: ConformanceOptions = ConformanceOptions()) -> ConformanceReport:  # noqa: B008
    """Spend small budgets at a gateway in every way, and compare the spend with the budgets.

    Raises UsageError AW-USE-87 to AW-USE-89, ReconcileError AW-REC-19 and AW-REC-40 if the gateway cannot be tested,
    and AW-REC-41, which carries the report, if a case fails.
    """
    key = settings.read_variable(options.key_env) if options.key_env else None
    if not key:
        name = options.key_env or "NAME"
        raise argument_error("AW-USE-87", "no key is given", "key_env", f"export {name}=... and give --key-env {name}")
    if (options.admin is None) == (options.budget_usd is None):
        hint = "--admin creates keys with budgets; --budget-usd states the budget of your key"
        raise argument_error("AW-USE-88", "give one of --admin and --budget-usd", "admin", hint)
    if not 2 <= options.requests <= REQUESTS_LIMIT:
        hint = f"use 2 to {REQUESTS_LIMIT:,}"
        raise argument_error("AW-USE-89", f"requests is {options.requests}", "requests", hint)
    report = asyncio.run(_run_suite(normalise_base_url(url), key, options))
    failed = [f"{one.case} ({one.verdict})" for one in report.cases if one.verdict not in ("ok", "skipped")]
    if failed:
        message = f"{report.overspent_usd:.6f} USD overspent; {len(failed)} cases failed: {', '.join(failed)}"
        error = ReconcileError("AW-REC-41", message, hint="read the verdicts in docs/gateway.md, Budget conformance")
        error.result = report
        raise error
    return report


async def _run_suite(url: str, key: str, options: ConformanceOptions) -> ConformanceReport:
    run = token_hex(4)
    input_usd, output_usd = _parse_prices(options.price, "price", "IN:OUT", 2)
    template = RequestTemplate("", input_usd, output_usd, run)
    embeddings = None
    if options.embeddings is not None:
        name, _, text = options.embeddings.rpartition("=")
        (usd,) = _parse_prices(text if name else None, "embeddings", "MODEL=IN", 1)
        embeddings = RequestTemplate(name, usd, 0.0, run, EMBEDDINGS)
    others = _build_cached_templates(options.cache_price, template)._replace(embeddings=embeddings)
    litellm = options.admin == "litellm"
    admin = (
        LitellmAdministration(url, key, run)
        if litellm
        else options.admin and ArchwrightAdministration(options.admin, key, run)
    )
    suite = BudgetSuite(url, key, admin or None, options.budget_usd)
    model = options.model or await suite.find_model()
    template = template._replace(model=model)
    named = (one and one._replace(model=one.model or model) for one in others)
    provider = None if options.provider is None else _parse_address(options.provider)
    cases = tuple(await suite.run(template, OtherTemplates(*named), options.requests, provider))
    return ConformanceReport(url=url, model=model, cases=cases, overspent_usd=sum(one.overspent_usd for one in cases))


def _build_cached_templates(text: str | None, template: RequestTemplate) -> OtherTemplates:
    """Return the templates of the cases of a prompt's cache. Raises UsageError AW-USE-89."""
    if text is None:
        return OtherTemplates()
    count = 3 if text.count(":") > 1 else 2
    read, *writes = _parse_prices(text, "cache-price", "READ:WRITE or READ:WRITE:WRITE_1H", count)
    cached = template._replace(path=MESSAGES, caches=CachePrices(read, writes[0]))
    hour = cached._replace(caches=CachePrices(read, writes[1], "1h")) if len(writes) > 1 else None
    return OtherTemplates(
        writes=cached, hour_writes=hour, reads=cached._replace(caches=CachePrices(read, writes[0], shared=True))
    )


def _parse_address(text: str) -> ProviderAddress:
    """Raises UsageError AW-USE-89."""
    host, _, port = text.rpartition(":")
    if not host or not (port.isascii() and port.isdigit() and 0 < int(port) < PORTS):
        hint = "give --provider HOST:PORT, such as 127.0.0.1:22002"
        raise argument_error("AW-USE-89", f"provider is {text!r}", "provider", hint)
    return ProviderAddress(host, int(port))


def _parse_prices(text: str | None, field: str, form: str, count: int) -> list[float]:
    """Return USD per token. Raises UsageError AW-USE-89."""
    try:
        prices = [float(part) / MILLION for part in (text or "").split(":")]
    except ValueError:
        prices = []
    if len(prices) != count or not all(0 < price <= 1 for price in prices):
        hint = f"give --{field} {form}, in USD per million tokens"
        raise argument_error("AW-USE-89", f"{field} is {text or 'missing'}", field.replace("-", "_"), hint)
    return prices
