"""Small files in the forms of the public sources, written by the project: every trap that was met, once.

They lie in source_files/. Among the traps: zones of one region, a host priced without its accelerators, memory in the
wrong unit, a spot price above the list price, offers of other terms, and cells without a figure.
"""

from __future__ import annotations

import gzip
import json
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from archwright.catalog.catalog import Catalog
from archwright.catalog.load import load_catalog
from archwright.catalog.refresh.catalog_refresh import RefreshReport, refresh_catalog
from archwright.catalog.tables import parsers
from archwright.catalog.tables.csv_table import DATA
from archwright.catalog.tables.metadata_records import FactClass
from archwright.catalog.tables.records import Fact
from archwright.home import Home

TODAY = date(2026, 11, 24)
# Two more fields of a user's own fact.
OWN = {"reason": "contract 2026-17", "until": "2027-12-31"}
SOURCE_FILES = Path(__file__).parent / "source_files"


def read_text(name: str) -> str:
    return (SOURCE_FILES / name).read_text()


def read_json(name: str) -> Any:
    return json.loads(read_text(name))


AWS_GO, AZURE_GO = read_text("aws.go"), read_text("azure.go")
GCP, MACHINES = read_json("region_prices.json"), read_json("machine_dump.json")
LIST_AWS, LIST_GCP, LIST_RUNPOD = (read_text(f"machine_list_{name}.csv") for name in ("aws", "gcp", "runpod"))
LIST_HEAD = LIST_AWS.partition("\n")[0] + "\n"
TOKENS, PROVIDERS = read_json("token_prices.json"), read_json("provider_prices.json")
GRID, EGRESS, OBJECTS = (read_json(f"{name}.json") for name in ("grid_carbon", "egress_prices", "object_prices"))
OFFER_FILE = read_text("offer_file.csv")
D8 = "Standard_D8s_v5"
RETAIL, SPOTS = read_json("retail_prices.json"), read_json("spot_history.json")
# The rates of the shipped us-central1 prices: 4 cores and 16 GiB and one accelerator make 0.70683 USD an hour.
SKUS = read_json("part_prices.json")
CATALOGUE, LAMBDA = read_text("machine_catalogue.csv"), read_text("machine_catalogue_lambda.csv")
PRICES = {"prices": {"europe-west4": {"on_demand": {"n9-standard-4": 0.21}}}}
MODEL_DUMP, SCORES = read_json("model_dump.json"), read_json("benchmark_scores.json")
CONFIG, SHEET = read_json("checkpoint_config.json"), read_text("device_sheet.yaml")
# Two bands, two taxes, three places, two half-years.
CUBE, SALES = read_json("statistics_cube.json"), read_json("state_tariffs.json")


def server(name: str, **changes: Any) -> dict[str, Any]:
    return {**read_json("machine_record.json"), "name": name, "api_reference": name, **changes}


def write_files(folder: Path, files: dict[str, object]) -> Path:
    """Write texts as they are and other values as JSON; a name that ends in .gz is packed."""
    for name, content in files.items():
        data = (content if isinstance(content, str) else json.dumps(content)).encode()
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return folder


def write_all(folder: Path) -> Path:
    """Write every public table under the name its source is known by."""
    files: dict[str, object] = {
        "initial-prices-2026-11-18.json": GCP,
        "model_prices_and_context_window-2026-11-20.json": TOKENS,
        "genai-prices-2026-11-21.json": PROVIDERS,
        "global_energy_mix.json": GRID,
        "egress_prices.json": EGRESS,
        "object_storage_prices.json": OBJECTS,
        "zz_generated.pricing_aws.go": AWS_GO,
        "zz_generated.pricing.go": AZURE_GO,
        "instance_types-2026-11-17.json.gz": MACHINES,
        "skypilot-aws-2026-11-22.csv": LIST_AWS,
        "skypilot-gcp-2026-11-22.csv": LIST_GCP,
        "skypilot-runpod.csv": LIST_RUNPOD,
    }
    return write_files(folder, files)


def write_api_files(folder: Path) -> Path:
    """Write the answers of providers' interfaces and the collections under the names their sources are known by."""
    files: dict[str, object] = {
        "aws-ec2-eu-central-1-2026-11-22.csv.gz": OFFER_FILE,
        "spot-price-history-us-east-1.json": SPOTS,
        "azure-retail-2026-11-22.json": RETAIL,
        "gcp-billing-2026-11-22.json": "\n".join(json.dumps(page) for page in SKUS),
        "gpuhunt-gcp-2026-11-20.csv": CATALOGUE,
        "gpuhunt-lambdalabs.csv": LAMBDA,
        "dumps/server/gcp/n9-standard-4.json": server("n9-standard-4"),
        "dumps/server/gcp/old-1.json": server("old-1", status="INACTIVE"),
        "initial-prices-2026-11-18.json": PRICES,
        "models.dev-2026-11-20.json": MODEL_DUMP,
        "data/organizations/meta/models/llama/benchmarks.json": SCORES,
        "Qwen3-32B/config.json": CONFIG,
        "model_configs/Qwen--Qwen3-8B_config.json": {**CONFIG, "num_hidden_layers": 99},
        "model_configs/Qwen--Qwen3-8B_hf_quant_config.json": {"producer": {"name": "a"}},
        "aiconfigurator-2026-08-21/systems/h100_sxm.yaml": SHEET,
        "aiconfigurator-2026-08-21/systems/h200_sxm.yaml": SHEET.replace("1978", "3958"),
        "nrg_pc_205.json": CUBE,
        "eia-retail-sales.json": SALES,
    }
    return write_files(folder, files)


def load_own(root: Path, facts: object, today: date = TODAY) -> Catalog:
    """Write a user's own facts into the home at `root`, a text as it is; return its catalog."""
    home = Home(root)
    home.folder("catalog")
    home.catalog_overlay.write_text(facts if isinstance(facts, str) else yaml.safe_dump(facts))
    return load_catalog(home, today=today)


def list_facts(catalog: Catalog) -> list[Fact]:
    every: list[object] = [
        *catalog.accelerators.values(), *catalog.offers, *catalog.models.values(), *catalog.hosted,
        *catalog.scores, *catalog.exchange_rates, *catalog.regions.values(), *catalog.countries.values(),
        *catalog.tariffs, *catalog.regulations.values(), *catalog.residency_rules, *catalog.engines.values(),
        *catalog.efficiencies, *catalog.training_efficiencies, *catalog.quantisations.values(), *catalog.aliases,
        *parsers.read_device_tools(DATA), *catalog.parts.values(), *catalog.nodes.values(), *catalog.storage_prices,
        *catalog.commitments, *catalog.surcharges, *catalog.availability, *catalog.region_ratios,
        *catalog.hosted_facts, *catalog.times_to_live, *catalog.source_words, *catalog.refresh_sources,
        *catalog.gate_exceptions, *catalog.embedders.values(), *catalog.rerankers.values(),
        *catalog.speech_models.values(), *catalog.document_parsers.values(), *catalog.image_models.values(),
        *catalog.specialist_scores, *catalog.work_rates.values(), *catalog.components.values(),
        *catalog.engine_metrics,
    ]  # fmt: skip
    return [fact for fact in every if isinstance(fact, Fact)]


class Done(NamedTuple):
    """A refresh: its report, and the catalog after it."""

    report: RefreshReport
    catalog: Catalog


def refresh(home: Home, folder: Path, only: FactClass | None = None) -> Done:
    report = refresh_catalog(load_catalog(home, today=TODAY), home.catalog_refreshed, folder, only, TODAY)
    return Done(report, load_catalog(home, today=TODAY))
