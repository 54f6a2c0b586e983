"""Providers of upstreams: the rows of upstream_kinds.csv, which make an address, a query and a key header of fields.

A row holds if the field in `when` is set, or has the value after `=`; the first row of a provider that holds is used.
`endpoint` is the default of scheme and host. `{name}` is replaced by the field of the upstream.
"""

import csv
import ipaddress
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from string import Formatter
from typing import Any, NamedTuple
from urllib.parse import urlsplit

# Suffixes of names that no public server has (RFC 6762, RFC 6761, and the domain reserved for private use).
PRIVATE_SUFFIXES = (".local", ".localhost", ".internal")
ADDRESS_FIELDS = ("endpoint", "deployment", "api_version", "region", "project", "location")
_VALUE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class UpstreamAddress(NamedTuple):
    """How an upstream is called. `model`: its name of the model; empty: the name that the user states."""

    urls: tuple[str, ...]
    model: str
    row: Mapping[str, str]

    @property
    def pool_fields(self) -> dict[str, Any]:
        """The fields of the pool."""
        fields: dict[str, Any] = {name: self.row[name] for name in ("key_header", "protocol", "query")}
        return {**fields, "addresses": self.urls, "exact_url": not self.urls[0].endswith("/v1")}


@cache
def _read_rows() -> dict[str, list[dict[str, str]]]:
    rows: dict[str, list[dict[str, str]]] = {}
    with Path(__file__).with_suffix(".csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            rows.setdefault(row["provider"], []).append(row)
    return rows


def list_providers() -> tuple[str, ...]:
    return tuple(_read_rows())


def build_address(provider: str, fields: Mapping[str, str], urls: tuple[str, ...] = ()) -> UpstreamAddress:
    """Return the address of an upstream. `fields`: all ADDRESS_FIELDS, those without a value empty.

    Raises ValueError with the field and the problem as its two arguments."""

    def holds(when: str) -> bool:
        name, _, value = when.partition("=")
        return not when or (fields[name] == value if value else bool(fields[name]))

    row = next(row for row in _read_rows()[provider] if holds(row["when"]))
    known = _list_names(row) | {"endpoint", row["when"].partition("=")[0]}
    row = {**row, "endpoint": fields["endpoint"].rstrip("/") or row["endpoint"] or "{endpoint}"}
    needed = _list_names(row)
    if missing := next((name for name in sorted(needed) if not fields[name]), ""):
        raise ValueError(missing, f"the provider {provider} needs {missing}")
    for name, value in fields.items():
        if value and name not in known:
            raise ValueError(name, f"the provider {provider} has no {name}")
        if value and name != "endpoint" and not _VALUE.fullmatch(value):
            raise ValueError(name, f"{name} must have letters, digits, dots and dashes only")
    row = {name: text.format(**fields) for name, text in row.items()}
    if problem := find_url_problem(row["endpoint"], ""):
        raise ValueError("endpoint", problem)
    if urls and row["path"] != "/v1":
        raise ValueError("url", f"the provider {provider} has no url; write its endpoint")
    for url in urls:
        if problem := find_url_problem(url):
            raise ValueError("url", f"{problem}; write a URL such as http://host:8000/v1")
    made = tuple(url.rstrip("/") for url in urls) or (row["endpoint"] + row["path"],)
    return UpstreamAddress(made, row["model"], row)


def _list_names(row: Mapping[str, str]) -> set[str]:
    return {name for text in row.values() for _, name, _, _ in Formatter().parse(text) if name}


def find_url_problem(url: str, suffix: str = "/v1") -> str:
    """Return why an address is not the URL of an OpenAI interface; empty if it is."""
    try:
        parts = urlsplit(url)
        well = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        well = False
    if not well or not url.rstrip("/").endswith(suffix) or parts.query or parts.fragment:
        return f"{url!r} is not the URL of an OpenAI interface"
    return "the URL holds a password" if "@" in parts.netloc else ""


def is_private_address(url: str) -> bool:
    """True if the upstream is in a private network; every other upstream counts as external."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return "." not in host or host.endswith(PRIVATE_SUFFIXES)
