"""Names that public benchmark tables use: each resolves to the row of its device, model or engine family."""

import pytest

from archwright.catalog.benchmark_names import BenchmarkNameResolver
from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.csv_table import DATA
from archwright.catalog.tables.records import Accelerator
from archwright.errors import CatalogError

SUBJECTS = BenchmarkNameResolver(Catalog(DATA))
# Spellings by id, one a line.
ACCELERATORS = """
A10 = A10 24GB
A100-40GB-SXM = A100 SXM 40GB
A100-80GB-PCIe = A100 PCIe 80GB
A100-80GB-SXM = A100 SXM 80GB
A10G = A10G 24GB
A40 = A40 48GB
Apple-M1-8GB = Apple M1
Apple-M1-8GB = Apple M1 (7-core GPU) 8GB
Apple-M1-Max-64GB = Apple M1 Max (32-core GPU) 64GB
Apple-M1-Max-64GB = Apple M1 Max 64GB
Apple-M1-Ultra-64GB = Apple M1 Ultra (48-core GPU) 64GB
Apple-M2-Ultra-192GB = Apple M2 Ultra (76-core GPU) 192GB
Apple-M3-Max-64GB = Apple M3 Max (40-core GPU) 64GB
Apple-M3-Ultra-512GB = Apple M3 Ultra (80-core GPU) 512GB
Apple-M4-32GB = Apple M4 (10-core GPU) 32GB
Arc-Pro-B50 = Arc Pro B50 16GB
Arc-Pro-B60 = Arc Pro B60 24GB
Arc-Pro-B60 = Arc Pro B60 24GB (dual-GPU card)
Arc-Pro-B70 = Arc Pro B70 32GB
B200-SXM = B200 180GB
CPU-EPYC-7763 = CPU: AMD EPYC 7763 64-Core Processor
CPU-EPYC-9575F = CPU: AMD EPYC 9575F 64-Core Processor
CPU-EPYC-9R14 = CPU: AMD EPYC 9R14
CPU-EPYC-9R14 = CPU: AMD EPYC 9R14 96-Core Processor
CPU-EPYC-9R45 = CPU: AMD EPYC 9R45
CPU-EPYC-9R45 = CPU: AMD EPYC 9R45 96-Core Processor
CPU-EPYC-9V45 = CPU: AMD EPYC 9V45 96-Core Processor
CPU-XEON-6787P = CPU: Intel(R) Xeon(R) 6787P
CPU-XEON-6975P-C = CPU: Intel(R) Xeon(R) 6975P-C
CPU-XEON-6980P = CPU: Intel(R) Xeon(R) 6980P
CPU-XEON-8259CL = CPU: Intel(R) Xeon(R) Platinum 8259CL CPU @ 2.50GHz
CPU-XEON-8370C = CPU: Intel(R) Xeon(R) Platinum 8370C CPU @ 2.80GHz
CPU-XEON-8375C = CPU: Intel(R) Xeon(R) Platinum 8375C CPU @ 2.90GHz
CPU-XEON-8488C = CPU: Intel(R) Xeon(R) Platinum 8488C
CPU-XEON-8573C = CPU: Intel(R) Xeon(R) PLATINUM 8573C
GB10 = DGX Spark GB10 128GB
GH200-96GB = GH200 96GB
Gaudi2 = Gaudi 2 96GB
Gaudi3 = Gaudi 3 128GB
H100-NVL-94GB = H100 NVL 94GB
H100-PCIe-80GB = H100 PCIe 80GB
H100-SXM-80GB = H100 SXM 80GB
H200-NVL-141GB = H200 NVL 141GB
H200-SXM-141GB = H200 SXM 141GB
H200-SXM-141GB = H200 SXM 141GB (virtualized)
Inferentia2 = Inferentia2 32GB
Jetson-AGX-Thor = Jetson AGX Thor 128GB
L4 = L4 24GB
MI210 = MI210 64GB
MI300X = AMD Instinct MI300X 192GB HBM3 (x32), AMD Instinct MI325X 256GB HBM3e (x16)
MI300X = MI300X 192GB
MI325X = AMD Instinct MI300X 192GB HBM3 (x8) and AMD Instinct MI325X 256GB HBM3e (x8) \
and AMD Instinct MI355X 288GB HBM3e (x8)
MI325X = AMD Instinct MI325X 256GB HBM3E (x16), AMD Instinct MI300X 192GB HBM3 (x8)
MI325X = MI325X 256GB
MI350X = MI350X 288GB
MI355X = MI355X 288GB
MI355X = MI355X 288GB (1000 W cap)
RTX-3060 = RTX 3060 12GB
RTX-3090 = RTX 3090 24GB
RTX-4000-Ada = RTX 4000 Ada 20GB
RTX-4070 = RTX 4070 12GB
RTX-4070-Ti = RTX 4070 Ti 12GB
RTX-4070-Ti-Super = RTX 4070 Ti Super 16GB
RTX-4080 = RTX 4080 16GB
RTX-4090 = RTX 4090 24GB
RTX-5000-Ada = RTX 5000 Ada 32GB
RTX-5090 = RTX 5090 32GB
RTX-6000-Ada = RTX 6000 Ada 48GB
RTX-A4000 = RTX A4000 16GB
RTX-A6000 = RTX A6000 48GB
RTX-PRO-4500-Blackwell = RTX PRO 4500 Blackwell 32GB
RTX-PRO-6000-Max-Q = RTX PRO 6000 Blackwell Max-Q 300W
RTX-PRO-6000-Server = RTX PRO 6000 Blackwell (WS or SE)
RTX-PRO-6000-Server = RTX PRO 6000 Blackwell SE
RTX-PRO-6000-Workstation = RTX PRO 6000 Blackwell WS
RX-7900-XT = RX 7900 XT 20GB
Radeon-8060S = Ryzen AI Max+ 395 128GB
Radeon-8060S = Ryzen AI Max+ 395 128GB (Strix Halo iGPU)
Radeon-AI-PRO-R9700 = Radeon AI Pro R9700 32GB
T4 = T4 16GB
TPU7x = TPU7x Ironwood 192GB
TPUv5e = TPU v5e 16GB
TPUv5p = TPU v5p 95GB
TPUv6e = TPU v6e 32GB
Trainium1 = Trainium1 32GB
Trainium2 = Trainium2 96GB
"""
MODELS = """
ALBERT-base-v2 = albert-base-v2
BERT-base = bert-base-uncased
BERT-base = google/electra-base-discriminator
BERT-large = bert-large-uncased
BERT-large = bge-large-en-v1.5
DeepSeek-R1-0528 = deepseek-ai/DeepSeek-R1
DistilBERT-base = distilbert-base-uncased
Falcon-180B = Falcon 180B
GPT-3-175B = GPT-3 175B
GPT-J-6B = GPT-J 6B
Gemma-2-2B-it = Gemma 2 2B
Gemma-2B = Gemma 2B
Gemma-3-12B-it = Gemma 3 12B
Gemma-4-26B-A4B = gemma-4-26b-a4b
Gemma-4-26B-A4B = gemma-4-26b-a4b-it
Gemma-4-31B-it = gemma-4-31b
Gemma-4-31B-it = gemma-4-31b-it
Gemma-4-E2B = gemma-4-e2b
Gemma-4-E2B = gemma-4-e2b-it
Gemma-4-E4B = gemma-4-e4b
Gemma-4-E4B = gemma-4-e4b-it
Gemma-7B = Gemma 7B
Granite-4.1-8B = granite-4.1-8b
InternLM-20B = InternLM 20B
Kimi-K2-Instruct = Kimi K2
Kimi-K2.5 = moonshotai/Kimi-K2.5
LFM2.5-2.6B = lfm2.5-2.6b
LLaMA-7B = LLaMA 7B
Llama-2-13B = CodeLlama 13B
Llama-2-70B = LLaMA 70B
Llama-2-70B = Llama 2 70B
Llama-3.1-405B-Instruct = Llama 3.1 405B
Llama-3.1-70B-Instruct = Llama 3 70B
Llama-3.1-70B-Instruct = Llama 3.1 70B
Llama-3.1-8B-Instruct = Llama 3 8B
Llama-3.1-8B-Instruct = Llama 3.1 8B
Llama-3.2-3B-Instruct = Llama 3.2 3B
Llama-3.3-70B-Instruct = Llama 3.3 70B
Llama-4-Maverick-17B-128E-Instruct = Llama 4 Maverick
Llama-4-Scout-17B-16E-Instruct = Llama 4 Scout
Ministral-3-14B-2512 = ministral-3-14b
Ministral-3-3B-2512 = ministral-3-3b-instruct
Ministral-3-8B-2512 = ministral-3-8b-instruct
Mistral-7B-Instruct-v0.3 = Mistral 7B
Mistral-Small-4-119B-2603 = mistral-small-4-119b
Mixtral-8x22B-Instruct-v0.1 = Mixtral-8x22B
Mixtral-8x7B-Instruct-v0.1 = Mixtral-8x7B
Nemotron-3-Nano-30B-A3B = Nemotron 3 Nano 30B
Nemotron-3-Nano-30B-A3B = nemotron-3-nano-30b-a3b
Nemotron-3-Nano-4B = nemotron-3-nano-4b
Nemotron-3-Super-120B-A12B = Nemotron 3 Super 120B
Nemotron-3-Super-120B-A12B = nemotron-3-super-120b-a12b
Nemotron-3-Ultra-550B-A55B = Nemotron 3 Ultra 550B
Phi-4 = Phi-4 14B
Qwen2.5-0.5B-Instruct = Qwen2.5 0.5B
Qwen2.5-14B-Instruct = DeepSeek-R1-Distill-Qwen-14B
Qwen2.5-32B-Instruct = Qwen2.5 32B
Qwen2.5-7B-Instruct = Qwen2.5 7B
Qwen3-235B-A22B-Instruct-2507 = Qwen3-235B-A22B
Qwen3-32B = Qwen/Qwen3-32B
Qwen3-Coder-480B-A35B-Instruct = Qwen3-Coder-480B-A35B
Qwen3.5-0.8B = qwen-3.5-0.8b
Qwen3.5-122B-A10B = qwen-3.5-122b-a10b
Qwen3.5-27B = qwen-3.6-27b
Qwen3.5-27B = qwen-3.8-27b
Qwen3.5-2B = qwen-3.5-2b
Qwen3.5-35B-A3B = qwen-3.5-35b-a3b
Qwen3.5-35B-A3B = qwen-3.6-35b-a3b
Qwen3.5-397B-A17B = Qwen/Qwen3.5-397B-A17B
Qwen3.5-4B = qwen-3.5-4b
Qwen3.5-9B = qwen-3.5-9b
RoBERTa-base = roberta-base
RoBERTa-large = roberta-large
gpt-oss-120b = GPT OSS 120B
gpt-oss-120b = openai/gpt-oss-120b
gpt-oss-20b = GPT OSS 20B
gpt-oss-20b = openai/gpt-oss-20b
"""
ENGINES = {
    "TensorRT 10.11, CUDA 12.9": "trtllm",
    "NIM 1.8.0": "trtllm",
    "vLLM 0.9.0, PyTorch 2.7.0": "vllm",
    "Mango LLMBoost AI Enterprise Platform, ROCm 6.12.12": "vllm",
    "PyTorch 2.9.1+git8907517, ROCm 7.0.0": "vllm",
    "PyTorch": "vllm",
    "vLLM-TPU": "tpu",
    "jetstream-pytorch": "tpu",
    "vLLM + optimum-neuron": "neuron",
    "Ollama / llama.cpp": "llamacpp",
    "llama.cpp b9187 (rocm-7_2_3)": "llamacpp",
    "LMDeploy TurboMind v0.2.0": "lmdeploy",
    "DeepSpeed-MII": "deepspeed",
    "DeepSpeed (Gaudi2)": "gaudi",
    "SynapseAI 1.18.0 / PyTorch 2.4 (optimum-habana)": "gaudi",
    "tensorrt via infinity": "embedding",
    "TODO": "other",
}


def read_spellings(text: str) -> list[tuple[str, str]]:
    lines = (line.partition(" = ") for line in text.strip().splitlines())
    return [(spelling, row) for row, _, spelling in lines]


@pytest.mark.parametrize(("spelling", "row"), read_spellings(ACCELERATORS))
def test_an_accelerator_of_a_benchmark_table_is_its_row(spelling: str, row: str) -> None:
    assert SUBJECTS.accelerator(spelling).id == row


@pytest.mark.parametrize(("spelling", "row"), read_spellings(MODELS))
def test_a_model_of_a_benchmark_table_is_its_row(spelling: str, row: str) -> None:
    assert SUBJECTS.model(spelling).id == row


@pytest.mark.parametrize(("text", "family"), ENGINES.items())
def test_an_engine_and_its_version_are_of_a_family(text: str, family: str) -> None:
    assert SUBJECTS.engine_family(text).id == family


def rates(row: Accelerator) -> tuple[float, float, float]:
    return row.memory_bandwidth_bytes_per_s, row.flops["bf16"], row.flops["fp32"]


def test_the_threads_of_a_processor_scale_its_rates() -> None:
    whole = SUBJECTS.accelerator("CPU: AMD EPYC 9V45 96-Core Processor")
    half = SUBJECTS.accelerator("CPU: AMD EPYC 9V45 96-Core Processor (48 threads)")
    two = SUBJECTS.accelerator("CPU: AMD EPYC 9V45 96-Core Processor (192 threads)")
    assert half.id == whole.id == two.id
    assert "48 cores" in half.notes
    assert "192 cores" in two.notes
    assert rates(half) == pytest.approx(tuple(rate / 2 for rate in rates(whole)))
    assert rates(two) == pytest.approx(tuple(rate * 2 for rate in rates(whole)))


def test_a_count_of_threads_means_nothing_to_a_device_without_cores() -> None:
    assert SUBJECTS.accelerator("H100 SXM 80GB (8 threads)") == SUBJECTS.accelerator("H100 SXM 80GB")


def test_a_plain_name_still_means_a_device_of_a_plan() -> None:
    plans = SUBJECTS.catalog.accelerators
    for plain in ("A100", "H200 141GB", "RTX 4090", "Apple M3 Ultra", "RTX PRO 6000", "GH200 96GB", "Xeon 6980P"):
        assert SUBJECTS.accelerator(plain).id in plans


@pytest.mark.parametrize("name", ["llama 70b", "qwen3", "qwen 32b", "gpt-oss", "mixtral"])
def test_a_name_of_several_models_is_refused_with_all_of_them(name: str) -> None:
    with pytest.raises(CatalogError) as refused:
        SUBJECTS.meant_model(name)
    assert refused.value.code == "AW-CAT-10"
    assert len(refused.value.nearest) > 1
    assert all(row in refused.value.hint for row in refused.value.nearest)


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("Qwen3-32B", "Qwen3-32B"),
        ("qwen3 30b", "Qwen3-30B-A3B"),
        ("meta-llama/Llama-3.1-70B", "Llama-3.1-70B-Instruct"),
        ("Llama 3 70B", "Llama-3.1-70B-Instruct"),
        ("Qwen3-32B-FP8", "Qwen3-32B"),
        ("CodeLlama 13B", "Llama-2-13B"),
    ],
)
def test_a_name_of_one_model_is_that_model(name: str, row: str) -> None:
    assert SUBJECTS.meant_model(name).id == row


def test_a_size_alone_is_no_model() -> None:
    with pytest.raises(CatalogError, match="unknown model"):
        SUBJECTS.meant_model("13B")
