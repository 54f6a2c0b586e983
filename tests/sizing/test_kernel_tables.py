"""AISimulate's kernel tables as a predictor beside ours: they answer in an environment of their own."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tests.deploy import tools
from tests.sizing.conftest import SUBJECTS

from archwright.settings import child_environment
from archwright.sizing import accuracy

pytestmark = pytest.mark.nightly

SCRIPT = Path(__file__).parents[2] / "bench" / "sizing" / "kernel_table_predictions.py"
HEAD = (
    "row_id,model,precision,accelerator,n_accelerators,parallelism,engine,scenario,concurrency_or_batch,input_len,"
    "output_len,throughput_tok_s,ttft_ms,tpot_ms"
)
LOADS = "fixed_concurrency_agg,16,1024,512,1,1,1"
ROWS = (
    f"dense,meta-llama/Llama-3.1-70B,fp8,h100_sxm,4,TP4 PP1 DP1 MoE-TP1 EP1,vllm 0.24.0,{LOADS}",
    f"sparse,openai/gpt-oss-120b,fp4,b200_sxm,1,TP1 PP1 DP1 MoE-TP1 EP1,trtllm 1.3.0,{LOADS}",
    f"other,Llama-3.1-8B-Instruct,fp8,MI300X,1,TP1,vllm 0.24.0,{LOADS}",
)


def test_kernel_tables_are_scored_beside_our_predictions(tmp_path: Path) -> None:
    python = tools.require_environment("aisimulate")
    rows = tmp_path / "rows.csv"
    rows.write_text("\n".join((HEAD, *ROWS)) + "\n", encoding="utf-8")
    out = tmp_path / "out.csv"
    command = [str(python), str(SCRIPT), str(rows), str(out)]
    subprocess.run(command, env=child_environment({}), check=True, timeout=600)
    report = accuracy.score_benchmark(
        rows, SUBJECTS, None, write=lambda path, text: None, against=f"roofline,aisimulate={out}"
    )
    of_tpot = {score.predictor: score for score in report.scoreboard if score.metric == "tpot_ms"}
    # The package has no kernels of AMD devices.
    assert of_tpot["aisimulate"].answered_rows == 2
    assert of_tpot["archwright"].answered_rows == 3
    assert of_tpot["aisimulate"].common_rows == 2
    # Against one "measured" millisecond an error is the predicted time: kernels take longer than the roofline.
    kernels = of_tpot["aisimulate"].median_error_percent
    roofline = of_tpot["roofline"].median_error_percent
    assert kernels is not None
    assert roofline is not None
    assert kernels > roofline
