"""`conformance`: do the budgets of a gateway hold?"""

import asyncio

from archwright import settings
from archwright.contract.record import Record
from archwright.errors import ErrorLocation, ReconcileError, argument_error
from archwright.journal import report_step
from archwright.reconcile.bench_client import normalise_base_url
from archwright.reconcile.conformance.budget_cases import UntestableGateway
from archwright.reconcile.conformance.suite_options import OptionError, read_options, run_suite
from archwright.reconcile.conformance.suite_report import ConformanceReport, describe_setting

__all__ = ["ConformanceOptions", "ConformanceReport", "conformance", "describe_setting"]


class ConformanceOptions(Record):
    """The options of the suite (`SuiteOptions`). `gateway`, its version, command and changes: for the report."""

    key_env: str | None = None
    price: str | None = None
    admin: str | None = None
    budget_usd: float | None = None
    model: str | None = None
    embeddings: str | None = None
    cache_price: str | None = None
    requests: int = 32
    provider: str | None = None
    header: tuple[str, ...] | None = None
    gateway: str | None = None
    gateway_version: str | None = None
    gateway_command: str | None = None
    gateway_change: tuple[str, ...] | None = None


def conformance(url: str, *, options: ConformanceOptions = ConformanceOptions()) -> ConformanceReport:  # noqa: B008
    """Spend small budgets at a gateway in every way, and compare the spend with the budgets.

    Raises UsageError AW-USE-87 to AW-USE-89, ReconcileError AW-REC-19 and AW-REC-40 if the gateway cannot be tested,
    and AW-REC-41, which carries the report, if a case fails.
    """
    key = settings.read_variable(options.key_env) if options.key_env else None
    if not key:
        name = options.key_env or "NAME"
        raise argument_error("AW-USE-87", "no key is given", "key_env", f"export {name}=... and give --key-env {name}")
    try:
        report = asyncio.run(run_suite(normalise_base_url(url), key, read_options(options), report_step))
    except OptionError as error:
        reason, hint = str(error), error.hint
        if error.option == "admin":
            message = "give one of --admin and --budget-usd"
            raise argument_error("AW-USE-88", message, "admin", hint) from error
        raise argument_error("AW-USE-89", f"an option cannot be used: {reason}", error.option, hint) from error
    except UntestableGateway as error:
        reason, hint = str(error), error.hint
        raise ReconcileError(
            "AW-REC-40", f"the gateway cannot be tested: {reason}", where=ErrorLocation(error.place), hint=hint
        ) from error
    failed = [f"{case.case} ({case.verdict})" for case in report.failures]
    if failed:
        message = f"{report.overspent_usd:.6f} USD overspent; {len(failed)} cases failed: {', '.join(failed)}"
        failure = ReconcileError("AW-REC-41", message, hint="read the verdicts in docs/gateway.md, Budget conformance")
        failure.result = report
        raise failure
    return report
