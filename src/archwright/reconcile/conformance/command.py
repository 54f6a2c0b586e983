"""The command `gateway-conformance` of the distribution. In archwright the verb `conformance` runs the same suite."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from dataclasses import asdict

from . import __version__
from .budget_cases import UntestableGateway
from .suite_options import OptionError, read_options, run_suite
from .suite_report import ConformanceReport, write_text

PASSED, FAILED, UNUSABLE = 0, 9, 2
DESCRIPTION = "Test from outside whether the budgets of an OpenAI-compatible gateway hold. It spends real money."


def main() -> int:
    """Return 0 if each case is ok or skipped, 9 if one fails, 2 if the gateway cannot be tested."""
    given = build_parser().parse_args()
    key = os.environ.get(given.key_env, "")
    try:
        if not key:
            raise OptionError("key_env", f"{given.key_env} is not set", f"export {given.key_env}=...")
        report = asyncio.run(run_suite(given.url, key, read_options(given), report_step))
    except OptionError as error:
        print(f"{error}\n{error.hint}", file=sys.stderr)
        return UNUSABLE
    except UntestableGateway as error:
        print(f"the gateway cannot be tested: {error}\n{error.place}\n{error.hint}", file=sys.stderr)
        return UNUSABLE
    print(write_json(report) if given.json else write_text(report))
    return FAILED if report.failures else PASSED


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gateway-conformance", description=DESCRIPTION)
    add = parser.add_argument
    add("url", help="URL of the gateway that ends in /v1")
    add(
        "--key-env", required=True, metavar="NAME", help="environment variable with the administrator's key, or the key"
    )
    add("--price", metavar="IN:OUT", help="price of the model in USD per million input and output tokens")
    add(
        "--admin", metavar="URL", help="archwright's administration API, litellm, or none for a gateway without budgets"
    )
    add("--budget-usd", type=float, metavar="USD", help="unspent budget of the key, if there is no --admin")
    add("--model", help="model to send requests to, default: the first of the gateway")
    add("--embeddings", metavar="MODEL=IN", help="embedding model and its price")
    add("--cache-price", metavar="READ:WRITE[:WRITE_1H]", help="prices of a provider's cache")
    add("--requests", type=int, default=32, metavar="N", help="number of concurrent requests of each case, default: 32")
    add("--provider", metavar="HOST:PORT", help="where the suite runs a provider, an upstream of the gateway")
    add("--header", action="append", default=[], metavar="NAME=VALUE", help="header of each request (repeatable)")
    add("--gateway", default="", metavar="NAME", help="name of the gateway, for the report")
    add("--gateway-version", default="", metavar="VERSION", help="its version, for the report")
    add("--gateway-command", default="", metavar="COMMAND", help="its command line, for the report")
    add("--gateway-change", action="append", default=[], metavar="TEXT", help="change of the gateway (repeatable)")
    add("--json", action="store_true", help="JSON instead of text")
    add("--version", action="version", version=__version__)
    return parser


def report_step(name: str) -> None:
    print(f"{name} ...", file=sys.stderr, flush=True)


def write_json(report: ConformanceReport) -> str:
    return json.dumps(asdict(report), indent=2)
