"""Small files in the documented forms of providers' own interfaces and of public collections, written by the project:
the trap of each form once.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

OFFER_HEAD = [
    "SKU", "TermType", "Unit", "PricePerUnit", "Currency", "LeaseContractLength", "PurchaseOption", "OfferingClass",
    "Instance Type", "vCPU", "Tenancy", "Operating System", "CapacityStatus", "Pre Installed S/W", "MarketOption",
    "Region Code",
]  # fmt: skip
PLAIN = {
    "TermType": "OnDemand", "Unit": "Hrs", "Currency": "USD", "Tenancy": "Shared", "Operating System": "Linux",
    "CapacityStatus": "Used", "Pre Installed S/W": "NA", "MarketOption": "OnDemand", "Region Code": "eu-central-1",
}  # fmt: skip
YEAR = {"TermType": "Reserved", "PurchaseOption": "No Upfront", "OfferingClass": "standard", "MarketOption": ""}
OFFERS: tuple[dict[str, str], ...] = (
    {"Instance Type": "m8g.large", "PricePerUnit": "0.1077000000"},
    {**YEAR, "Instance Type": "m8g.large", "PricePerUnit": "0.0700", "LeaseContractLength": "1yr"},
    {**YEAR, "Instance Type": "m8g.large", "PricePerUnit": "0.0500", "LeaseContractLength": "3yr"},
    {**YEAR, "Instance Type": "m8g.large", "PricePerUnit": "0", "LeaseContractLength": "1yr", "PurchaseOption": "All"},
    {"Instance Type": "m8g.large", "PricePerUnit": "0.2", "Operating System": "Windows"},
    {"Instance Type": "m8g.large", "PricePerUnit": "0.3", "Tenancy": "Dedicated"},
    {"Instance Type": "m8g.large", "PricePerUnit": "0.4", "Pre Installed S/W": "SQL Web"},
    {"Instance Type": "m8g.large", "PricePerUnit": "0.5", "CapacityStatus": "UnusedCapacityReservation"},
    {"Instance Type": "g5.xlarge", "PricePerUnit": "90.0"},
    {"Instance Type": "m8g.16xlarge", "PricePerUnit": "0.05"},
    {"Instance Type": "unheard.large", "PricePerUnit": "1.0"},
)


def offer_file() -> str:
    """Five lines of words above the columns' names."""
    text = io.StringIO()
    words = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
    for line in (("FormatVersion", "v1.0"), ("Disclaimer", "words"), ("Publication Date", "2026-11-21T18:33:06Z")):
        words.writerow(line)
    words.writerows([("Version", "20261121183306"), ("OfferCode", "AmazonEC2")])
    rows = csv.DictWriter(text, OFFER_HEAD, restval="", quoting=csv.QUOTE_ALL, lineterminator="\n")
    rows.writeheader()
    rows.writerows({**PLAIN, **offer} for offer in OFFERS)
    return text.getvalue()


def _meter(name: str, price: float, **changes: Any) -> dict[str, Any]:
    return {
        "currencyCode": "USD", "tierMinimumUnits": 0.0, "retailPrice": price, "unitPrice": price,
        "armRegionName": "westeurope", "location": "EU West", "armSkuName": name, "serviceName": "Virtual Machines",
        "productName": "Virtual Machines Series", "skuName": name, "meterName": name, "unitOfMeasure": "1 Hour",
        "type": "Consumption", "isPrimaryMeterRegion": True, **changes,
    }  # fmt: skip


D8 = "Standard_D8s_v5"
RETAIL: list[dict[str, Any]] = [
    {
        "BillingCurrency": "USD",
        "Items": [
            _meter(D8, 0.46),
            _meter(D8, 0.828, productName="Virtual Machines Series Windows"),
            _meter(D8, 0.09, skuName="D8s v5 Low Priority"),
            _meter(D8, 0.0, type="DevTestConsumption"),
        ],
        "NextPageLink": "https://prices.azure.com:443/api/retail/prices?$skip=1000",
        "Count": 4,
    },
    {
        "Items": [
            _meter(D8, 0.11, meterName="D8s v5 Spot"),
            _meter(D8, 2628.0, type="Reservation", reservationTerm="1 Year"),
            _meter(D8, 5256.0, type="Reservation", reservationTerm="3 Years"),
            _meter(D8, 9.9, type="Reservation", reservationTerm="5 Years"),
            # Dearer when it may be interrupted.
            _meter("Standard_D32s_v5", 1.84),
            _meter("Standard_D32s_v5", 9.0, meterName="D32s v5 Spot"),
            _meter("Dsv5_Type1", 4.0, serviceName="Dedicated Host"),
        ],
        "NextPageLink": None,
    },
]


def _sku(description: str, nanos: int, use: str = "OnDemand", **changes: Any) -> dict[str, Any]:
    price = {"currencyCode": "USD", "units": str(changes.pop("units", 0)), "nanos": nanos}
    unit = changes.pop("unit", "h")
    expression = {"usageUnit": unit, "tieredRates": [{"startUsageAmount": 0, "unitPrice": price}]}
    category = {"resourceFamily": changes.pop("family", "Compute"), "resourceGroup": "CPU", "usageType": use}
    return {
        "name": "services/1/skus/2", "description": description, "category": category,
        "serviceRegions": ["us-central1"], "pricingInfo": [{"summary": "", "pricingExpression": expression}], **changes,
    }  # fmt: skip


# The rates of the shipped us-central1 prices: 4 cores and 16 GiB and one accelerator make 0.70683 USD an hour.
SKUS: list[dict[str, Any]] = [
    {
        "skus": [
            _sku("G2 Instance Core running in Americas", 24_988_000),
            _sku("G2 Instance Ram running in Americas", 2_927_000, unit="GiBy.h"),
            _sku("Nvidia L4 GPU running in Americas", 560_040_000),
            _sku("Spot Preemptible G2 Instance Core running in Americas", 10_000_000, "Preemptible"),
            _sku("Spot Preemptible G2 Instance Ram running in Americas", 1_000_000, "Preemptible", unit="GiBy.h"),
            _sku("Nvidia L4 GPU attached to Spot Preemptible VMs running in Americas", 224_000_000, "Preemptible"),
            _sku("Commitment v1: G2 Cpu in Americas for 1 Year", 1, "Commit1Yr"),
            _sku("G2 Sole Tenancy Instance Core running in Americas", 1),
            _sku("N2 Custom Instance Core running in Americas", 1),
        ],
        "nextPageToken": "more",
    },
    {
        "skus": [
            _sku("A2 Instance Core running in Americas", 31_611_000),
            _sku("A2 Instance Ram running in Americas", 4_237_000, unit="GiBy.h"),
            _sku("Nvidia Tesla A100 GPU running in Americas", 933_908_000, units=2),
            _sku("Nvidia Tesla T4 GPU running in Americas", 1, pricingInfo=[]),
            _sku("Nvidia Tesla A100 80GB GPU running in Americas", 928_080_000, units=3),
            _sku("SSD backed Local Storage", 80_000_000, family="Storage", unit="GiBy.mo"),
            _sku("N2 Instance Core running in Americas", 31_611_000),
            _sku("Network Internet Egress", 12, family="Network", unit="GiBy"),
        ],
        "nextPageToken": "",
    },
]


def _spot(zone: str, price: str, hour: int, system: str = "Linux/UNIX") -> dict[str, str]:
    return {
        "AvailabilityZone": zone, "InstanceType": "p5.48xlarge", "ProductDescription": system, "SpotPrice": price,
        "Timestamp": f"2026-11-23T{hour:02d}:00:00+00:00",
    }  # fmt: skip


SPOTS: dict[str, Any] = {
    "SpotPriceHistory": [
        _spot("us-east-1a", "11.000000", 9),
        _spot("us-east-1a", "10.000000", 10),
        _spot("us-east-1b", "30.000000", 8),
        _spot("us-east-1c", "20.000000", 8),
        _spot("us-east-1d", "1.000000", 8, "Windows"),
        _spot("us-east-1-bos-1a", "2.000000", 8),
        {**_spot("eu-west-9a", "5.0", 8), "InstanceType": "unheard.large"},
    ]
}
CATALOGUE = (
    "instance_name,location,price,cpu,memory,gpu_count,gpu_name,gpu_memory,spot,disk_size,gpu_vendor,flags,cpu_arch,"
    "provider_data\n"
    'g2-standard-4,europe-west4-a,0.75,4,16.0,1,L4,24.0,False,,nvidia,,x86,"{}"\n'
    'g2-standard-4,europe-west4-a,0.30,4,16.0,1,L4,24.0,True,,nvidia,,x86,"{}"\n'
    'g2-standard-4,europe-west4-b,0.40,4,16.0,1,L4,24.0,True,,nvidia,,x86,"{}"\n'
    'b9-highgpu-1g,europe-west4-a,0.75,4,16.0,1,L4,0.024,False,,nvidia,,x86,"{}"\n'
    'g2-standard-12,europe-west4-a,0.10,12,48.0,0,,,False,,,,x86,"{}"\n'
    'a9-highgpu-1g,europe-west4-a,9.00,4,16.0,1,Q9000,24.0,False,,nvidia,,x86,"{}"\n'
)


LAMBDA = CATALOGUE.partition("\n")[0] + (
    '\ngpu_1x_h100_pcie,us-east-1,3.10,26,200.0,1,H100,80.0,False,,nvidia,,x86,"{}"\n'
    'gpu_1x_h100_sxm5,us-west-1,2.80,26,225.0,1,H100,80.0,False,,nvidia,,x86,"{}"\n'
)


def server(name: str, vendor: str = "gcp", **changes: Any) -> dict[str, Any]:
    return {
        "vendor_id": vendor, "server_id": "1", "name": name, "api_reference": name, "vcpus": 4, "memory_amount": 16384,
        "cpu_architecture": "X86_64", "gpu_count": 0, "gpu_model": None, "gpu_memory_min": None, "storage_size": 0,
        "status": "ACTIVE", **changes,
    }  # fmt: skip


PRICES = {"prices": {"europe-west4": {"on_demand": {"n9-standard-4": 0.21}}}}
MODEL = {"name": "a model", "attachment": True, "open_weights": False, "modalities": {"input": [], "output": ["text"]}}
MODEL_DUMP: dict[str, Any] = {
    "anthropic": {
        "id": "anthropic", "npm": "a", "models": {
            "claude-haiku-4-5": {
                **MODEL, "id": "claude-haiku-4-5", "cost": {"input": 1, "output": 5, "cache_read": 0.1},
                "limit": {"context": 200000, "output": 64000},
            },
            "old": {**MODEL, "id": "old", "cost": {"input": 1, "output": 5}, "status": "deprecated"},
            "unpriced": {**MODEL, "id": "unpriced", "limit": {"context": 1, "output": 1}},
            "loud": {**MODEL, "id": "loud", "cost": {"input": 1, "output": 5}, "modalities": {"output": ["audio"]}},
        },
    },
}  # fmt: skip
SCORES: list[dict[str, Any]] = [
    {
        "model_benchmark_id": 1, "benchmark_id": "mmlu-pro", "model_id": "llama-3.1-8b-instruct", "score": 0.41,
        "is_self_reported": True, "self_reported_source_link": "https://example.org", "analysis_method": "5-shot",
        "updated_at": "2026-10-19T19:56:14.380088+00:00", "benchmark_name": "MMLU-Pro",
    },
    {"benchmark_id": "elo", "model_id": "llama-3.1-8b-instruct", "score": 1200, "updated_at": "2026-10-01"},
    {"benchmark_id": "mmlu-pro", "model_id": "nobodys-1b", "score": 0.4},
]  # fmt: skip
CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"], "head_dim": 128, "hidden_size": 5120, "intermediate_size": 25600,
    "max_position_embeddings": 40960, "model_type": "qwen3", "num_attention_heads": 64, "num_hidden_layers": 64,
    "num_key_value_heads": 8, "sliding_window": 4096, "tie_word_embeddings": False, "use_sliding_window": False,
    "vocab_size": 151936,
}  # fmt: skip
SHEET = """
data_dir: data/h100_sxm
gpu:
  mem_bw: 3400000000000 # bytes/s
  mem_capacity: 85899345920
  bfloat16_tc_flops: 989000000000000
  fp8_tc_flops: 1978000000000000
  power: 700
node: {num_gpus_per_node: 8, intra_node_bw: 450000000000}
misc: {nccl_version: '2.27.3'}
"""
SPARSE = SHEET.replace("1978", "3958")


def cube() -> dict[str, Any]:
    """Two bands, two taxes, three places, two half-years; cells without a figure are left out."""
    names = ["freq", "nrg_cons", "unit", "tax", "currency", "geo", "time"]
    codes = [
        ["S"], ["MWH500-1999", "MWH20000-69999"], ["KWH"], ["I_TAX", "X_VAT"], ["EUR"], ["DE", "EL", "XK"],
        ["2025-S1", "2025-S2"],
    ]  # fmt: skip
    value = {str(at): 0.1 + at / 1000 for at in range(24) if at != 7}
    dimension = {
        name: {"label": name, "category": {"index": {code: at for at, code in enumerate(of)}}}
        for name, of in zip(names, codes, strict=True)
    }
    size = [len(of) for of in codes]
    return {"version": "2.0", "class": "dataset", "id": names, "size": size, "dimension": dimension, "value": value}


def _sale(period: str, state: str, sector: str, price: str | None) -> dict[str, Any]:
    return {
        "period": period, "stateid": state, "stateDescription": state, "sectorid": sector, "price": price,
        "price-units": "cents per kilowatt-hour",
    }  # fmt: skip


SALES: dict[str, Any] = {
    "response": {
        "total": "6", "dateFormat": "YYYY-MM", "frequency": "monthly", "data": [
            _sale("2026-07", "VA", "COM", "13.00"), _sale("2026-08", "VA", "COM", "14.00"),
            _sale("2026-08", "VA", "RES", "20.00"), _sale("2026-08", "US", "IND", "9.00"),
            _sale("2026-08", "US", "COM", "15.00"), _sale("2026-08", "OH", "IND", "8.00"),
            _sale("2026-08", "PACC", "COM", "19.00"), _sale("2026-08", "TX", "COM", None),
            _sale("2026-08", "NV", "COM", "900.00"),
        ],
    },
    "request": {"command": "/v2/electricity/retail-sales/data/"},
}  # fmt: skip


def write_all(folder: Path) -> Path:
    """Every sample under the name and in the folder its source is known by."""
    pages = "\n".join(json.dumps(page) for page in SKUS)
    files: dict[str, bytes] = {
        "aws-ec2-eu-central-1-2026-11-22.csv.gz": gzip.compress(offer_file().encode()),
        "spot-price-history-us-east-1.json": json.dumps(SPOTS).encode(),
        "azure-retail-2026-11-22.json": json.dumps(RETAIL).encode(),
        "gcp-billing-2026-11-22.json": pages.encode(),
        "gpuhunt-gcp-2026-11-20.csv": CATALOGUE.encode(),
        "gpuhunt-lambdalabs.csv": LAMBDA.encode(),
        "dumps/server/gcp/n9-standard-4.json": json.dumps(server("n9-standard-4")).encode(),
        "dumps/server/gcp/old-1.json": json.dumps(server("old-1", status="INACTIVE")).encode(),
        "initial-prices-2026-11-18.json": json.dumps(PRICES).encode(),
        "models.dev-2026-11-20.json": json.dumps(MODEL_DUMP).encode(),
        "data/organizations/meta/models/llama/benchmarks.json": json.dumps(SCORES).encode(),
        "Qwen3-32B/config.json": json.dumps(CONFIG).encode(),
        "model_configs/Qwen--Qwen3-8B_config.json": json.dumps({**CONFIG, "num_hidden_layers": 99}).encode(),
        "model_configs/Qwen--Qwen3-8B_hf_quant_config.json": b'{"producer": {"name": "a"}}',
        "aiconfigurator-2026-08-21/systems/h100_sxm.yaml": SHEET.encode(),
        "aiconfigurator-2026-08-21/systems/h200_sxm.yaml": SPARSE.encode(),
        "nrg_pc_205.json": json.dumps(cube()).encode(),
        "eia-retail-sales.json": json.dumps(SALES).encode(),
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder
