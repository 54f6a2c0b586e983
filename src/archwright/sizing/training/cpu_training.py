"""LoRA fine-tuning of a small model on CPU cores: the project's own measurements, scaled to other machines.

  seconds = tokens x (dense FLOPs / share + attention FLOPs / attention share + fixed FLOPs) / matmul rate of the cores
FLOPs per token: training_flops.LoraStep. Shares and fixed costs: the catalog's training efficiencies.
"""

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import ModelSpec
from archwright.contract.estimate import Estimate, multiply_estimates
from archwright.contract.evidence import Basis
from archwright.sizing.hardware.device_rates import busy_power_w, host_flops, quote_work_rates, read_work_rate
from archwright.sizing.hardware.machine import BatchWork, Machine
from archwright.sizing.training.training_flops import LoraStep
from archwright.sizing.training.training_memory import ADAPTER_RANK, feed_forward_width

# Instruction set of a CPU without a stated one: the middle row. The band reaches to the row with native bf16 matmul.
ISA, NATIVE_ISA = "avx512", "avx512-bf16"
STEP_TOKENS = 512.0
LARGEST_SHARE_OF_RAM = 0.8


def size_adapter_finetuning(
    machine: Machine, model: ModelSpec, tokens: float, workload: str, catalog: Catalog
) -> BatchWork | None:
    """Size a run on one machine (the trainer uses one machine); None if the base model does not fit its memory."""
    work = LoraStep(model=model, ffn=feed_forward_width(model), rank=ADAPTER_RANK)
    row, native = (catalog.training_efficiency("text-lora", isa) for isa in (ISA, NATIVE_ISA))
    needed = work.memory(STEP_TOKENS, 1.0, row.dtype)
    if row.process_bytes + max(needed.loading, needed.lasting + needed.step) > LARGEST_SHARE_OF_RAM * machine.ram_bytes:
        return None
    flops = work.flops(STEP_TOKENS, 1.0)
    fixed = (row.fixed_flops + row.fixed_flops_per_layer * work.layers) / STEP_TOKENS
    dense, attention = flops.dense / STEP_TOKENS, flops.attention / STEP_TOKENS
    token_flops = dense / row.share_of_matmul + attention / row.attention_share_of_matmul + fixed
    fastest = dense / native.share_of_matmul + attention / native.attention_share_of_matmul + fixed
    band = Estimate(value=1.0, low=fastest / token_flops / native.low_factor, high=row.high_factor, unit="")
    basis = Basis(
        id=f"{workload}.{machine.id}.training",
        kind="calibrated",
        stratum="measured row of one processor, carried to others",
        definition="hours of one machine for the whole run",
        formula=f"tokens x (dense / share + attention / share + fixed) / matmul rate / stages; {work.formula}",
        facts=(
            f"{tokens:,.0f} tokens of {model.id}, steps of {STEP_TOKENS:.0f}; {token_flops / 1e9:,.2f} GFLOP per token",
            f"{row.source} ({row.as_of or 'undated'}, {row.confidence})",
            *quote_work_rates(catalog, "host.core", "host.scaling", "training.stages-finetune"),
        ),
    )
    speed = host_flops(machine, catalog).divide_amount(1.0, "s/FLOP")
    stages = read_work_rate(catalog, "training.stages-finetune").divide_amount(1.0, "")
    running = multiply_estimates([speed, band, stages], "h")
    return BatchWork(
        model=model.id,
        machine_hours=running.scaled(token_flops * tokens / 3600, unit="h", basis=basis.id),
        least=1,
        most=1,
        scaling=1.0,
        busy_w=busy_power_w(machine, catalog, accelerated=False),
        bases=(basis,),
        assumptions=(f"LoRA adapters of rank {ADAPTER_RANK} on CPU cores, one machine",),
    )
