"""Names and records of a plan as text for readers, and a plan without characters that no page can show."""

import re

import msgspec

from archwright.contract.number_format import format_compared, format_list
from archwright.contract.plan import ConstraintViolation, Option, Plan

# Control characters, and marks that reverse the reading direction.
UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffe\uffff]")
UNREPORTED = "unknown"
PURCHASE_LABELS = {
    "on-demand": "on demand",
    "spot": "spot",
    "commit-1y": "committed for a year",
    "commit-3y": "committed for three years",
    "bought": "bought",
    "owned": "already owned",
    "per-second": "by the second",
}
PLACEMENTS = {
    "on-premises": "own machines",
    "cloud": "rented machines",
    "hybrid": "own and rented machines",
    "hosted-api": "hosted models",
    "serverless": "machines paid by the second",
    "this-machine": "this machine",
}


def clean_plan(plan: Plan) -> Plan:
    """The plan without characters that a page cannot show; cleaned names still match each other."""
    return msgspec.convert(_clean_value(msgspec.to_builtins(plan)), type=Plan)


def _clean_value(value: object) -> object:
    if isinstance(value, str):
        return UNPRINTABLE.sub("\ufffd", value).encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_clean_value(key): _clean_value(inner) for key, inner in value.items()}
    return [_clean_value(inner) for inner in value] if isinstance(value, list | tuple) else value


def describe_miss(miss: ConstraintViolation) -> str:
    """`per month 4,752, limit 3,500`."""
    workload, quality, benchmark = miss.constraint.partition(".quality.")
    if quality and miss.value == UNREPORTED:
        floor = format_compared(miss.limit, None)
        return f"{workload}: no {benchmark} score is known; the needs require at least {floor}"
    # The value of an export violation is a whole sentence.
    name = "" if miss.constraint == "export" else miss.constraint.replace("_", " ")
    value = format_compared(miss.value, miss.limit)
    best = "at best " if miss.at_best else ""
    text = f"{name} {best}{value}".strip()
    if miss.limit is None:
        return text
    return f"{text}, limit {format_compared(miss.limit, miss.value)}"


def describe_placement(option: Option) -> str:
    """`own machines, in DE`; with the provider if it is not the placement itself."""
    kind = PLACEMENTS[option.placement]
    by = f" at {option.provider}" if option.provider not in PLACEMENTS else ""
    return f"{kind}{by}" + (f", in {format_list(option.regions)}" if option.regions else "")
