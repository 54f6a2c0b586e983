"""Small files in the forms of the public sources, written by the project: every trap that was met, once."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

AWS_GO = """package pricing
// generated at 2026-11-20T13:44:30Z for us-east-1
var InitialOnDemandPrices = map[string]map[types.InstanceType]float64{
\t// us-east-1
\t"us-east-1": {
\t\t"p5.48xlarge": 50.000000, "m8g.large": 0.089760,
\t\t"m9x.large": 0.100000, "m9x.metal-24xl": 5.100000, "q9.4xlarge": 9.000000,
\t\t"g6f.xlarge": 0.237500, "m9g.large": 0.050000,
\t},
\t"moon-1": {"m8g.large": 0.1},
}
"""
AZURE_GO = """package pricing
// generated at 2026-11-19T03:43:41Z
func init() {
\t// westeurope
\tinitialOnDemandPrices["westeurope"] = map[string]float64{
\t\t"Standard_ND96isr_H100_v5":   120.000000,
\t\t"Dadsv5_Type1":               8.008000,
\t}
}
"""
GCP: dict[str, Any] = {
    "prices": {
        "europe-west4": {
            "on_demand": {"a3-highgpu-1g": 11.0, "a3-highgpu-8g": 88.0, "n2-standard-8": 0.4, "a2-highgpu-1g": 3.7},
            "spot": {"a3-highgpu-1g": 4.0, "a3-highgpu-8g": 90.0, "n2-standard-8": 0.4},
        }
    }
}
MACHINES: dict[str, Any] = {
    "m9x.large": {
        "VCpuInfo": {"DefaultVCpus": 2},
        "MemoryInfo": {"SizeInMiB": 8192},
        "ProcessorInfo": {"SupportedArchitectures": ["arm64"]},
        "NetworkInfo": {
            "NetworkPerformance": "Up to 12.5 Gigabit",
            "NetworkCards": [{"PeakBandwidthInGbps": 12.5}],
        },
    },
    "m9g.large": {"VCpuInfo": {"DefaultVCpus": 2}, "MemoryInfo": {"SizeInMiB": 8192}},
    "m9x.metal-24xl": {"VCpuInfo": {"DefaultVCpus": 96}, "MemoryInfo": {"SizeInMiB": 393216}},
    "trn2.48xlarge": {
        "VCpuInfo": {"DefaultVCpus": 192},
        "MemoryInfo": {"SizeInMiB": 2097152},
        "NeuronInfo": {"NeuronDevices": [{"Name": "Trainium2", "Count": 16, "MemoryInfo": {"SizeInMiB": 524288}}]},
    },
    "q9.4xlarge": {
        "VCpuInfo": {"DefaultVCpus": 16},
        "MemoryInfo": {"SizeInMiB": 65536},
        "GpuInfo": {"Gpus": [{"Name": "Q9000", "Count": 1, "MemoryInfo": {"SizeInMiB": 16384}}]},
    },
    "g6f.xlarge": {
        "VCpuInfo": {"DefaultVCpus": 4},
        "MemoryInfo": {"SizeInMiB": 16384},
        "InstanceStorageInfo": {"TotalSizeInGB": 100},
        "GpuInfo": {
            "Gpus": [
                {
                    "Name": "L4",
                    "Count": 0,
                    "LogicalGpuCount": 1,
                    "GpuPartitionSize": 0.125,
                    "MemoryInfo": {"SizeInMiB": 2861},
                }
            ]
        },
    },
    "p4x.24xlarge": {
        "VCpuInfo": {"DefaultVCpus": 96},
        "MemoryInfo": {"SizeInMiB": 1179648},
        "GpuInfo": {"Gpus": [{"Name": "A100", "Count": 8, "MemoryInfo": {"SizeInMiB": 40960}}]},
    },
    "nothing.large": {"VCpuInfo": {"DefaultVCpus": 0}, "MemoryInfo": {"SizeInMiB": 0}},
}
LIST_HEAD = "InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,Price,Region,GpuInfo,SpotPrice\n"
LIST_AWS = LIST_HEAD + (
    "m8g.large,,0,2,8,0.08976,us-east-1,,0.03\n"
    "m8g.large,,0,2,8,0.08976,us-east-1,,0.05\n"
    "m8g.large,,0,2,8,0.08976,us-east-1,,0.04\n"
    "m8g.large,,0,2,8,0.08976,us-east-1,,0.08976\n"
    "trn2.48xlarge,Trainium2,16,192,2048,40.0,us-east-1,,\n"
    "p4x.24xlarge,A100,8,96,1152,22.0,us-east-1,,\n"
    "nothing.large,,,,,0.1,us-east-1,,\n"
    "nan.large,,0,2,8,nan,us-east-1,,\n"
    "g6x.2xlarge,L4,1,8,32,0.9776,us-east-1,,\n"
    ",tpu-v5e-8,1,,,9.6,us-east-1,,\n"
    "no-price,,0,2,8,,us-east-1,,\n"
)
# A host priced without its accelerators; a small provider that gives memory in the wrong unit.
LIST_GCP = (
    LIST_HEAD + "a2-highgpu-1g,,,12,85,0.73948,us-central1,,0.3\n" + "n2-standard-48,,,48,192,2.5,us-central1,,\n"
)
LIST_RUNPOD = LIST_HEAD + (
    "1x_NEW_SECURE,A100-80GB,1,8,117,1.39,US,"
    "\"{'Gpus': [{'Name': 'A100 PCIe', 'MemoryInfo': {'SizeInMiB': 80}}], 'TotalGpuMemoryInMiB': 80}\",1.39\n"
    "1x_OTHER_SECURE,A100-80GB,1,8,117,1.39,US,"
    "\"{'Gpus': [{'Name': 'A100 PCIe', 'MemoryInfo': {'SizeInMiB': 81920}}], 'TotalGpuMemoryInMiB': 81920}\",\n"
)
TOKENS: dict[str, Any] = {
    "sample_spec": {"mode": "one of: chat, embedding"},
    "claude-haiku-4-5": {
        "litellm_provider": "anthropic",
        "mode": "chat",
        "input_cost_per_token": 1e-6,
        "output_cost_per_token": 5e-6,
        "input_cost_per_token_batches": 5e-7,
        "output_cost_per_token_batches": 2.5e-6,
        "max_input_tokens": 200000,
        "max_output_tokens": 64000,
        "deprecation_date": "2027-10-15",
    },
    "gemini/gemini-3.6-flash": {
        "litellm_provider": "gemini",
        "mode": "chat",
        "input_cost_per_token": 7.5e-7,
        "output_cost_per_token": 3.75e-6,
        "deprecation_date": "soon",
    },
    "us/claude-haiku-4-5": {
        "litellm_provider": "anthropic",
        "mode": "chat",
        "input_cost_per_token": 2e-6,
        "output_cost_per_token": 9e-6,
    },
    "nowhere-1": {
        "litellm_provider": "nowhere",
        "mode": "chat",
        "input_cost_per_token": 1e-6,
        "output_cost_per_token": 1e-6,
    },
    "mistral/free-1": {
        "litellm_provider": "mistral",
        "mode": "chat",
        "input_cost_per_token": 0.0,
        "output_cost_per_token": 0.0,
    },
    "embedder": {"litellm_provider": "openai", "mode": "embedding", "input_cost_per_token": 1e-8},
    "image": {"litellm_provider": "openai", "mode": "chat", "output_cost_per_image": 0.1},
}
PROVIDERS: list[dict[str, Any]] = [
    {
        "id": "anthropic",
        "models": [
            {"id": "claude-haiku-4-5", "prices": {"input_mtok": 1, "output_mtok": 5}, "context_window": 200000},
            {
                "id": "claude-new",
                "prices": [
                    {"prices": {"input_mtok": {"base": 5, "tiers": []}, "output_mtok": "25"}},
                    {"constraint": {"start_date": "2026-03-13"}, "prices": {"input_mtok": 4, "output_mtok": 20}},
                    {"constraint": {"start_date": "2030-01-01"}, "prices": {"input_mtok": 1, "output_mtok": 2}},
                    {"constraint": {"start_time": "16:30"}, "prices": {"input_mtok": 0.1, "output_mtok": 0.1}},
                ],
            },
            {"id": "audio-only", "prices": {"input_audio_mtok": 3}},
        ],
    },
    {
        "id": "google",
        "models": [{"id": "gemini-3.6-flash", "prices": {"input_mtok": 1.5, "output_mtok": 7.5}}],
    },
]
GRID: dict[str, Any] = {
    "DEU": {"country_name": "Germany", "carbon_intensity": 350.5, "year": 2025},
    "ZAF": {"country_name": "South Africa", "carbon_intensity": 700.0, "year": 2025},
    "XXX": {"country_name": "Nowhere", "carbon_intensity": 1.0, "year": 2025},
    "FRA": {"country_name": "France", "carbon_intensity": 99999.0, "year": 2025},
    "USA": {"country_name": "United States", "carbon_intensity": None, "year": 2025},
}
EGRESS: dict[str, Any] = {
    "as_of": "2026-11-01",
    "currency": "USD",
    "notes": "words",
    "aws": {
        "region": "us-east-1",
        "free_tier_gb": 100,
        "tiers": [{"up_to_gb": 10000, "price_per_gb_usd": 0.08}, {"up_to_gb": None, "price_per_gb_usd": 0.05}],
        "inter_region_per_gb_usd": 0.02,
    },
    "gcp": {"region": "us-east1", "tiers": [{"up_to_gb": None, "price_per_gb_usd": 0.1}]},
    "elsewhere": {"tiers": [{"up_to_gb": None, "price_per_gb_usd": 0.01}]},
    "azure": {"region": "eastus", "tiers": [{"up_to_gb": None, "price_per_gb_usd": -1.0}]},
}
OBJECTS: dict[str, Any] = {
    "as_of": "2026-11-01",
    "azure": {
        "region": "eastus",
        "tiers": [
            {"sku": "Blob Hot (LRS)", "price_per_gb_month_usd": 0.017},
            {"sku": "Always Free", "price_per_gb_month_usd": 0.0, "capacity_gb_limit": 20},
        ],
    },
}


def write_all(folder: Path) -> Path:
    """Every sample under the name its source is known by."""
    plain: dict[str, object] = {
        "initial-prices-2026-11-18.json": GCP,
        "model_prices_and_context_window-2026-11-20.json": TOKENS,
        "genai-prices-2026-11-21.json": PROVIDERS,
        "global_energy_mix.json": GRID,
        "egress_prices.json": EGRESS,
        "object_storage_prices.json": OBJECTS,
    }
    folder.mkdir(exist_ok=True)
    for name, content in plain.items():
        (folder / name).write_text(json.dumps(content))
    (folder / "zz_generated.pricing_aws.go").write_text(AWS_GO)
    (folder / "zz_generated.pricing.go").write_text(AZURE_GO)
    (folder / "instance_types-2026-11-17.json.gz").write_bytes(gzip.compress(json.dumps(MACHINES).encode()))
    (folder / "skypilot-aws-2026-11-22.csv").write_text(LIST_AWS)
    (folder / "skypilot-gcp-2026-11-22.csv").write_text(LIST_GCP)
    (folder / "skypilot-runpod.csv").write_text(LIST_RUNPOD)
    return folder
