"""The options of a run, and the run itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from secrets import token_hex
from typing import Any

from .budget_cases import BudgetSuite, OtherTemplates, ProviderAddress
from .gateway_client import GatewayClient
from .key_administration import ArchwrightAdministration, KeyAdministration, LitellmAdministration
from .request_templates import EMBEDDINGS, MESSAGES, CachePrices, RequestTemplate
from .suite_report import ConformanceReport, GatewayUnderTest, identify_suite

MILLION, REQUESTS_LIMIT, PORTS = 1e6, 1_000, 65_536
NO_ADMIN, LITELLM_ADMIN = "none", "litellm"


class OptionError(Exception):
    """An option cannot be used. `option`: its field in SuiteOptions; `hint`: what to give instead."""

    def __init__(self, option: str, message: str, hint: str) -> None:
        super().__init__(message)
        self.option, self.hint = option, hint


@dataclass(frozen=True, kw_only=True)
class SuiteOptions:
    """`admin`: the URL of archwright's administration API, "litellm", or "none" for a gateway without budgets.

    Prices are USD per million tokens. `cache_price`: READ:WRITE or READ:WRITE:WRITE_1H, of a model at /v1/messages.
    `provider`: HOST:PORT at which the suite runs a provider, which the gateway has as the upstream of its models.
    `headers`: NAME=VALUE, of each request. `gateway`: what the report states of the gateway under test."""

    price: str | None = None
    admin: str | None = None
    budget_usd: float | None = None
    model: str | None = None
    embeddings: str | None = None
    cache_price: str | None = None
    requests: int = 32
    provider: str | None = None
    headers: tuple[str, ...] = ()
    gateway: GatewayUnderTest = field(default_factory=GatewayUnderTest)


def read_options(stated: Any) -> SuiteOptions:
    """Return the options of a command line, or of the verb of archwright. Both have the same names."""
    gateway = GatewayUnderTest(
        name=stated.gateway or "",
        version=stated.gateway_version or "",
        command=stated.gateway_command or "",
        changes=tuple(stated.gateway_change or ()),
    )
    return SuiteOptions(
        price=stated.price,
        admin=stated.admin,
        budget_usd=stated.budget_usd,
        model=stated.model,
        embeddings=stated.embeddings,
        cache_price=stated.cache_price,
        requests=stated.requests,
        provider=stated.provider,
        headers=tuple(stated.header or ()),
        gateway=gateway,
    )


async def run_suite(url: str, key: str, options: SuiteOptions, report_step: Callable[[str], None]) -> ConformanceReport:
    """Spend small budgets in every way. `report_step` is called with the name of each case before it runs.

    Raises OptionError, and UntestableGateway if the first requests or the administration fail."""
    check_options(options)
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    run = token_hex(4)
    input_usd, output_usd = _parse_prices(options.price, "price", "IN:OUT", 2)
    template = RequestTemplate("", input_usd, output_usd, run)
    others = _build_other_templates(options, template)
    provider = None if options.provider is None else _parse_address(options.provider)
    client = _connect(url, key, _parse_headers(options.headers), "url")
    suite = BudgetSuite(client, _open_administration(client, options.admin, run), options.budget_usd, report_step)

    model = options.model or await suite.find_model()
    template = template._replace(model=model)
    named = OtherTemplates(*(one and one._replace(model=one.model or model) for one in others))
    cases = tuple(await suite.run(template, named, options.requests, provider))
    return ConformanceReport(
        url=url,
        model=model,
        price=options.price or "",
        requests=options.requests,
        started_at=started_at,
        gateway=options.gateway,
        suite=identify_suite(),
        cases=cases,
        overspent_usd=sum(case.overspent_usd for case in cases),
    )


def check_options(options: SuiteOptions) -> None:
    """Raises OptionError if options contradict each other or are out of range."""
    if (options.admin is None) == (options.budget_usd is None):
        hint = "--admin creates keys with budgets; --budget-usd states the budget of your key"
        raise OptionError("admin", "give one of --admin and --budget-usd", hint)
    if not 2 <= options.requests <= REQUESTS_LIMIT:
        raise OptionError("requests", f"requests is {options.requests}", f"use 2 to {REQUESTS_LIMIT:,}")


def _open_administration(client: GatewayClient, admin: str | None, run: str) -> KeyAdministration | None:
    if admin is None or admin == NO_ADMIN:
        return None
    if admin == LITELLM_ADMIN:
        return LitellmAdministration(client, run)
    return ArchwrightAdministration(
        _connect(f"{admin.rstrip('/').removesuffix('/admin')}/admin", client.key, {}, "admin_url"), run
    )


def _connect(url: str, key: str, headers: Mapping[str, str], option: str) -> GatewayClient:
    try:
        return GatewayClient(url, key, headers)
    except ValueError as error:
        raise OptionError(option, str(error), "use a URL such as http://127.0.0.1:8000/v1") from error


def _build_other_templates(options: SuiteOptions, template: RequestTemplate) -> OtherTemplates:
    others = _build_cached_templates(options.cache_price, template)
    if options.embeddings is None:
        return others
    name, _, text = options.embeddings.rpartition("=")
    (usd,) = _parse_prices(text if name else None, "embeddings", "MODEL=IN", 1)
    return others._replace(embeddings=RequestTemplate(name, usd, 0.0, template.run, EMBEDDINGS))


def _build_cached_templates(text: str | None, template: RequestTemplate) -> OtherTemplates:
    """Return the templates of the cases of a prompt's cache. Raises OptionError."""
    if text is None:
        return OtherTemplates()
    count = 3 if text.count(":") > 1 else 2
    read, *writes = _parse_prices(text, "cache-price", "READ:WRITE or READ:WRITE:WRITE_1H", count)
    cached = template._replace(path=MESSAGES, caches=CachePrices(read, writes[0]))
    hour = cached._replace(caches=CachePrices(read, writes[1], "1h")) if len(writes) > 1 else None
    reads = cached._replace(caches=CachePrices(read, writes[0], shared=True))
    return OtherTemplates(writes=cached, hour_writes=hour, reads=reads)


def _parse_headers(texts: tuple[str, ...]) -> dict[str, str]:
    """Raises OptionError."""
    headers: dict[str, str] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if not (name and value) or not text.isascii() or not text.isprintable():
            raise OptionError("headers", f"a header is {text!r}", "give --header NAME=VALUE")
        headers[name] = value
    return headers


def _parse_address(text: str) -> ProviderAddress:
    """Raises OptionError."""
    host, _, port = text.rpartition(":")
    if not host or not (port.isascii() and port.isdigit() and 0 < int(port) < PORTS):
        raise OptionError("provider", f"provider is {text!r}", "give --provider HOST:PORT, such as 127.0.0.1:22002")
    return ProviderAddress(host, int(port))


def _parse_prices(text: str | None, option: str, form: str, count: int) -> list[float]:
    """Return USD per token. Raises OptionError."""
    try:
        prices = [float(part) / MILLION for part in (text or "").split(":")]
    except ValueError:
        prices = []
    if len(prices) != count or not all(0 < price <= 1 for price in prices):
        hint = f"give --{option} {form}, in USD per million tokens"
        raise OptionError(option.replace("-", "_"), f"{option} is {text or 'missing'}", hint)
    return prices
