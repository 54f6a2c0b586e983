"""Prices of hosted models by cloud and place: `python -m bench.catalog.hosted_regions --litellm FILE [-o FILE]`.

FILE is model_prices_and_context_window_backup.json of PyPI litellm. The second prices come from PyPI genai-prices and
azure-genai-prices if PYTHONPATH has their unpacked wheels. The latter is three months older: it only confirms a price.
A row is written if its model, under the same weights, is in llms_hosted.csv or llms_open.csv (column `scores_of`), and
its withdrawal lies ahead. An id without a region, a data zone or a geography has no place: its requests may be
processed anywhere.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.load import load_catalog
from archwright.catalog.tables.csv_table import DATA
from archwright.catalog.tables.name_resolution import normalise_name

SOURCE = "PyPI litellm 1.110.2:model_prices_and_context_window_backup.json (MIT)"
SECOND = {"azure-openai": "PyPI azure-genai-prices 0.2.0"}
USUAL_SECOND = "PyPI genai-prices 0.2.3"
AS_OF = "2026-11"
PLATFORMS = {"bedrock": "bedrock", "bedrock_converse": "bedrock", "azure": "azure-openai"}
GEOGRAPHIES = {"eu": "EU", "us": "US", "jp": "JP", "au": "AU", "apac": "APAC", "in": "IN", "global": ""}
# Models with processing in the EU and the US: the platform's page on data residency, for Claude its announcement.
MULTI_REGION = re.compile(r"claude-|gemini-2\.5-(pro|flash|flash-lite)$|gemini-3\.5-flash$|gemini-3\.1-flash-lite$")
# Spellings that the rules of `strip_version` do not map.
SPELLINGS = {
    "llama4maverick17binstruct": "Llama-4-Maverick-17B-128E-Instruct",
    "llama4scout17binstruct": "Llama-4-Scout-17B-16E-Instruct",
    "qwen3235ba22b2507": "Qwen3-235B-A22B-Instruct-2507",
    "qwen3coder480ba35b": "Qwen3-Coder-480B-A35B-Instruct",
    "mistrallarge3675binstruct": "mistral-large-3",
    "ministral38binstruct": "Ministral-3-8B-2512",
    "ministral314binstruct": "ministral-3-14b-2512",
    "ministral33binstruct": "ministral-3-3b-2512",
    "nemotronnano330b": "Nemotron-3-Nano-30B-A3B",
    "glm5": "zai-glm-5",
    "glm53": "zai-glm-5-3",
    "v32": "deepseek-v3.2",
    "r1": "deepseek-r1",
}
PRICES = {
    "input_usd_mtok": "input_cost_per_token",
    "output_usd_mtok": "output_cost_per_token",
    "cache_read_usd_mtok": "cache_read_input_token_cost",
    "cache_write_usd_mtok": "cache_creation_input_token_cost",
    "batch_input_usd_mtok": "input_cost_per_token_batches",
    "batch_output_usd_mtok": "output_cost_per_token_batches",
}


class Endpoint(NamedTuple):
    """An id of a platform, where it processes (empty: anywhere), and the model's own name."""

    platform: str
    id: str
    place: str
    model: str
    uplift: float = 1.0


def list_endpoints(key: str, row: dict[str, Any], catalog: Catalog) -> Iterator[Endpoint]:
    platform = PLATFORMS.get(row["litellm_provider"])
    if platform == "bedrock":
        yield from _list_bedrock(key.removeprefix("bedrock/"), row, catalog)
    elif platform == "azure-openai":
        *zone, model = key.removeprefix("azure/").split("/")
        if zone in ([], ["eu"], ["us"], ["apac"]):
            yield Endpoint(platform, "/".join([*zone, model]), GEOGRAPHIES[zone[0]] if zone else "", model)
    elif key.startswith("vertex_ai/") and "@" not in key and "-maas" not in key:
        model = key.removeprefix("vertex_ai/")
        yield from _list_vertex(model, float(row.get("regional_endpoint_uplift_multiplier", 1.0)))
    elif row["litellm_provider"] == "vertex_ai-language-models" and key.startswith("gemini-2.5-"):
        yield from _list_vertex(key, 1.0)


def _list_bedrock(key: str, row: dict[str, Any], catalog: Catalog) -> Iterator[Endpoint]:
    first, _, rest = key.partition(".")
    region, slash, model = key.partition("/")
    if first in GEOGRAPHIES:
        yield Endpoint("bedrock", key, GEOGRAPHIES[first], rest)
    elif slash and (known := catalog.region("aws", region)) and "/" not in model and "gov" not in region:
        yield Endpoint("bedrock", key, known.country, model)
    elif not slash and first != "anthropic" and "us-east-1" in row.get("source", ""):
        yield Endpoint("bedrock", key, "US", key)


def _list_vertex(model: str, uplift: float) -> Iterator[Endpoint]:
    yield Endpoint("vertex", model, "", model)
    if MULTI_REGION.match(model) and "preview" not in model:
        for zone in ("eu", "us"):
            yield Endpoint("vertex", f"{zone}/{model}", zone.upper(), model, uplift)


def find_namesake(model: str, catalog: Catalog) -> str:
    """Return the id whose scores count, empty if the catalog has no model with these weights."""
    hosted = {normalise_name(row.id): row.scores_of or row.id for row in catalog.hosted if row.provider in FIRST_HAND}
    known = {normalise_name(name): name for name in catalog.models} | hosted | SPELLINGS
    bare = strip_version(model)
    return known.get(normalise_name(bare), "")


def strip_version(model: str) -> str:
    bare = re.sub(r"^[a-z]+\.(?=[a-z])", "", model)
    return re.sub(r"(-\d{8})?(-v\d+)?(-\d:\d|:\d)?$", "", bare)


FIRST_HAND = frozenset({"openai", "anthropic", "gemini", "xai", "mistral", "deepseek"})


class SecondPrices:
    """Prices of the other two packages, USD per million input and output tokens; none without the packages."""

    def __init__(self) -> None:
        self._bedrock = {model.id: model.prices for model in _list_models("aws")}
        self._vertex = {model.id: model.prices for model in _list_models("google")}
        try:
            store = importlib.import_module("azure_genai_prices.store")
            store.load_bundled_snapshot()
            self._azure = dict(store.get_table())
        except ImportError:
            self._azure = {}

    def find(self, end: Endpoint) -> tuple[float, float] | None:
        if end.platform == "azure-openai":
            return self._find_azure(end)
        if end.platform == "vertex":
            return _read_prices(self._vertex.get(end.model), end.uplift)
        bare = re.sub(r"(-\d{8})?(-v\d+)?(:\d)?$", "", end.model)
        scope = "regional" if end.place else "global"
        for name in (f"{scope}.{end.model}", f"{scope}.{bare}", f"{scope}.{bare}-v1:0", end.model if end.place else ""):
            if name in self._bedrock:
                return _read_prices(self._bedrock[name], 1.0)
        return None

    def _find_azure(self, end: Endpoint) -> tuple[float, float] | None:
        zone = {"EU": "swedencentral", "US": "eastus2", "APAC": "japaneast"}.get(end.place)
        found = []
        for kind in ("input", "output"):
            meter = self._azure.get((end.model, kind, "data_zone" if zone else "global", "standard", "short"))
            price = None if meter is None else meter.region_prices.get(zone or "eastus2")
            if price is None:
                return None
            found.append(float(price) * 1e6)
        return found[0], found[1]


def _list_models(provider: str) -> list[Any]:
    try:
        providers = importlib.import_module("genai_prices.data").providers
    except ImportError:
        return []
    return next(one.models for one in providers if one.id == provider)


def _read_prices(prices: Any, uplift: float) -> tuple[float, float] | None:
    amounts = [getattr(prices, name, None) for name in ("input_mtok", "output_mtok")]
    plain = [float(getattr(amount, "base", amount)) * uplift for amount in amounts if amount is not None]
    return (plain[0], plain[1]) if len(plain) == len(amounts) else None


def build_line(end: Endpoint, row: dict[str, Any], namesake: str, second: tuple[float, float] | None) -> dict[str, str]:
    prices = {name: row.get(key) for name, key in PRICES.items()}
    cells = {name: "" if price is None else f"{price * 1e6 * end.uplift:.6g}" for name, price in prices.items()}
    agrees = second and all(
        abs(float(cells[name]) - other) <= 0.01 * other for name, other in zip(list(PRICES)[:2], second, strict=True)
    )
    return {
        "provider": end.platform,
        "model_id": end.id,
        **cells,
        "places": end.place,
        "scores_of": namesake,
        "context_max": str(row.get("max_input_tokens") or ""),
        "output_max": str(row.get("max_output_tokens") or ""),
        "deprecation_date": row.get("deprecation_date", ""),
        "successor": row.get("successor_model", "").rpartition("/")[2],
        "source": SOURCE,
        "as_of": AS_OF,
        "second_source_input": f"{second[0]:.6g}" if second else "",
        "second_source_output": f"{second[1]:.6g}" if second else "",
        "agrees": ("yes" if agrees else "no") if second else "",
    }


def list_lines(prices: dict[str, dict[str, Any]], catalog: Catalog) -> list[dict[str, str]]:
    second, seen, lines = SecondPrices(), set(), []
    today = catalog.snapshot_date.isoformat()
    for key, row in sorted(prices.items(), key=lambda item: "preview" in item[0]):
        if row.get("mode") not in ("chat", "responses") or not row.get("output_cost_per_token"):
            continue
        if row.get("deprecation_date", "9999") <= today or re.search(
            r"-20\d\d-\d\d-\d\d$|audio|image|mythos-preview", key
        ):
            continue
        for end in list_endpoints(key, row, catalog):
            namesake = find_namesake(end.model, catalog)
            line = build_line(end, row, namesake, second.find(end))
            if end.platform == "azure-openai" and line["agrees"] == "no":
                line |= {"second_source_input": "", "second_source_output": "", "agrees": ""}
            if line["agrees"]:
                line["source"] += f" ; {SECOND.get(end.platform, USUAL_SECOND)}:second price"
            # One row for a model in a country at one price.
            same = (end.platform, namesake, end.place, line["input_usd_mtok"], line["output_usd_mtok"])
            if namesake and same not in seen:
                seen.add(same)
                lines.append(line)
    return sorted(lines, key=lambda line: (line["provider"], line["scores_of"].lower(), line["places"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--litellm", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, default=DATA / "hosted_regions.csv")
    options = parser.parse_args()
    lines = list_lines(json.loads(options.litellm.read_text(encoding="utf-8")), load_catalog())
    with (DATA / "llms_hosted.csv").open(encoding="utf-8", newline="") as file:
        columns = csv.DictReader(file).fieldnames or ()
    with options.output.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    print(f"{len(lines)} rows")


if __name__ == "__main__":
    main()
