"""Benchmark tables: malformed rows, scores, and independence of predictions from measured columns."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from tests.sizing.conftest import SUBJECTS

from archwright.catalog.benchmark_names import BenchmarkNameResolver
from archwright.errors import ArchwrightError, PlanFileError, UsageError
from archwright.sizing import accuracy, benchmark_reader, scoreboard
from archwright.sizing.inference.serving_prediction import DeploymentPrediction, ServingQuery, predict_deployment

HEAD = (
    "row_id,model,params_b,active_params_b,precision,accelerator,n_accelerators,parallelism,engine,scenario,"
    "concurrency_or_batch,input_len,output_len,throughput_tok_s,ttft_ms,ttft_stat,tpot_ms,tpot_stat"
)
GOOD = "a,Llama-3.1-70B,,,fp8,h100_sxm,4,TP4,vllm 0.18.0,fixed_concurrency_agg,32,1024,1024,,300,mean,20,mean"
TRAINING = (
    "row_id,model,params_b,active_params_b,seq_len,global_batch_tokens,tokens_b,precision,accelerator,n_accelerators,"
    "parallelism,activation_recompute,framework,tok_s_per_gpu\n"
    "t,MPT-7b,6.65,6.65,2048,1048576,1000,amp_bf16,A100 SXM 80GB,8,"
    "FSDP FULL_SHARD; micro 8; accum 4,True,llm-foundry,3000\n"
)


def write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def run(tmp_path: Path, text: str) -> tuple[accuracy.AccuracyReport, list[dict[str, str]]]:
    file, out = tmp_path / "in.csv", tmp_path / "out.csv"
    file.write_text(text, encoding="utf-8")
    made = accuracy.score_benchmark(file, SUBJECTS, out, write=write)
    return made, list(csv.DictReader(io.StringIO(out.read_text())))


def test_a_row_is_answered_and_scored(tmp_path: Path) -> None:
    made, rows = run(tmp_path, f"{HEAD}\n{GOOD}\n")
    assert (made.rows, made.answered, made.weak) == (1, 1, 0)
    assert {score.metric for score in made.scores} == {"tpot_ms", "ttft_ms"}
    assert [score.stratum for score in made.scores] == ["all", "seen configuration"] * 2
    (row,) = rows
    assert list(row) == [
        "row_id",
        *(f"pred_{name}{end}" for name in accuracy.COLUMNS["serving"] for end in ("", "_lo", "_hi")),
        "stratum",
    ]
    for name in accuracy.COLUMNS["serving"]:
        assert float(row[f"pred_{name}_lo"]) < float(row[f"pred_{name}"]) < float(row[f"pred_{name}_hi"])


def test_a_row_is_answered_with_the_statistic_it_asks_for(tmp_path: Path) -> None:
    asked = ("mean", "median", "p50", "p95", "p99")
    text = "\n".join([HEAD, *(GOOD.replace("mean", name) for name in asked)])
    _, rows = run(tmp_path, text)
    for column in ("pred_ttft_ms", "pred_tpot_ms"):
        mean, median, p50, p95, p99 = (float(row[column]) for row in rows)
        assert median == p50 <= mean < p95 < p99
        widths = [float(row[f"{column}_hi"]) / float(row[f"{column}_lo"]) for row in rows]
        assert widths[0] == pytest.approx(widths[2], rel=1e-3)
        assert widths[0] < widths[3] == pytest.approx(widths[4], rel=1e-3)


def test_measured_columns_change_no_prediction(tmp_path: Path) -> None:
    _, told = run(tmp_path, f"{HEAD}\n{GOOD}\n")
    made, blind = run(tmp_path, f"{HEAD}\n{GOOD.replace(',300,', ',,').replace(',20,', ',0,')}\n")
    assert made.scores == (), "nothing was measured"
    _, lied = run(tmp_path, f"{HEAD}\n{GOOD.replace(',300,', ',1e300,').replace(',20,', ',-7,')}\n")
    assert told == blind == lied


@pytest.mark.parametrize(
    "row",
    [
        "b,Llama-3.1-70B,,,,h100_sxm",
        "b,Llama-3.1-70B,x,y,z,h100_sxm,-4,???,,,nan,inf,1e999,,,,,",
        "b,Llama-3.1-70B,70,70,fp8,h100_sxm,1e15,TP99999999999,vllm,fixed_concurrency_agg,1e15,1e15,1e15,,,,,",
        "b,Llama-3.1-70B,70,70,fp8,h100_sxm,0,TP0 EP0,vllm,fixed_concurrency_agg,0,0,0,,,,,",
        "b,Some-New-Model,12,12,weird format,b300_sxm,3,disagg P:0x(TP0 DP) D:9x(TP72 DP1),new 1.0,later,3,5,7,,,,,",
        "b,GPT-J 6B,6,6,FP16,A100 SXM 80GB,1,TP1,TensorRT-LLM v0.5,batch1_prefill,1,128,1,,,,,,extra,cells",
    ],
)
def test_ragged_and_hostile_rows_are_answered(tmp_path: Path, row: str) -> None:
    made, rows = run(tmp_path, f"{HEAD}\n{row}\n")
    assert made.answered == 1
    assert float(rows[0]["pred_ttft_ms_lo"]) > 0


def test_a_number_that_is_none_makes_the_row_weak(tmp_path: Path) -> None:
    made, rows = run(tmp_path, f"{HEAD}\n{GOOD.replace(',32,', ',many,')}\n")
    assert made.weak == 1
    assert "concurrency_or_batch is not a usable number" in rows[0]["stratum"]
    assert "as many as fit" in rows[0]["stratum"]


def test_an_unknown_name_is_not_answered_and_the_nearest_is_reported(tmp_path: Path) -> None:
    made, rows = run(
        tmp_path, f"{HEAD}\n{GOOD}\n{GOOD.replace('h100_sxm', 'h10_sxmm')}\n{GOOD.replace('h100_sxm', '')}\n"
    )
    assert (made.rows, made.answered) == (3, 1)
    assert "nearest" in made.not_answered[0]
    assert rows[1]["pred_tpot_ms"] == ""
    assert rows[1]["stratum"].startswith("not answered")


def test_a_device_without_a_rate_is_not_answered_and_ends_nothing(tmp_path: Path) -> None:
    unrated = GOOD.replace("h100_sxm", "Apple-M5-Ultra").replace("a,", "b,", 1)
    made, rows = run(tmp_path, f"{HEAD}\n{unrated}\n{GOOD}\n")
    assert made.answered == 1
    assert made.not_answered == ("b: the catalog states no FLOP rate of Apple-M5-Ultra",)
    assert [bool(row["pred_tpot_ms"]) for row in rows] == [False, True]


def test_a_fault_in_one_row_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_for_one_model(query: ServingQuery, subjects: BenchmarkNameResolver) -> DeploymentPrediction:
        if query.model == "Llama-3.1-8B":
            raise ZeroDivisionError("division by zero")
        return predict_deployment(query, subjects)

    monkeypatch.setattr(accuracy, "predict_deployment", fail_for_one_model)
    made, _ = run(tmp_path, f"{HEAD}\n{GOOD.replace('a,Llama-3.1-70B', 'b,Llama-3.1-8B')}\n{GOOD}\n")
    assert made.answered == 1
    assert made.not_answered == ("b: a bug in archwright: ZeroDivisionError: division by zero",)


def test_training_tables(tmp_path: Path) -> None:
    made, rows = run(tmp_path, TRAINING)
    assert made.kind == "training"
    assert float(rows[0]["pred_gpu_hours"]) == pytest.approx(
        1e12 / float(rows[0]["pred_tok_s_per_gpu"]) / 3600, rel=1e-4
    )
    assert made.scores[0].metric == "tok_s_per_gpu"
    lost, rows = run(tmp_path, TRAINING.replace("A100 SXM 80GB", "Z9"))
    assert lost.answered == 0
    assert rows[0]["pred_step_time_s"] == ""


@pytest.mark.parametrize(
    "text", [f"{HEAD}\n\n{GOOD}\n", f"\ufeff{HEAD}\n{GOOD}\n"], ids=["empty line", "byte order mark"]
)
def test_an_empty_line_and_a_mark_before_the_header_are_ignored(tmp_path: Path, text: str) -> None:
    made, _ = run(tmp_path, text)
    assert (made.rows, made.answered) == (1, 1)


@pytest.mark.parametrize(
    ("code", "match", "text"),
    [
        ("AW-FILE-22", "has no row", ""),
        ("AW-FILE-22", "has no row", f"{HEAD}\n"),
        ("AW-FILE-20", "neither a serving nor a training table", "row_id,price\n1,2\n"),
        ("AW-FILE-21", "not a CSV table", f"{HEAD}\n{'x' * (benchmark_reader.LONGEST_CELL + 10)}\n"),
    ],
)
def test_what_is_no_benchmark_table_is_refused(tmp_path: Path, code: str, match: str, text: str) -> None:
    with pytest.raises(PlanFileError, match=match, check=lambda error: error.code == code):
        run(tmp_path, text)


def test_bytes_that_are_no_text_are_read_around(tmp_path: Path) -> None:
    file = tmp_path / "in.csv"
    file.write_bytes(f"{HEAD}\n{GOOD}\n".encode() + b"\xff\x00,\xfe\n")
    made = accuracy.score_benchmark(file, SUBJECTS, None, write=lambda path, body: None)
    assert (made.rows, made.answered, made.rows_out) == (2, 1, None)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ArchwrightError):
        list(benchmark_reader.read_rows(tmp_path / "nothing.csv"))


OTHERS = "row_id,pred_tpot_ms,pred_ttft_ms\na,22,150\nz,1,1\n"


def compare(tmp_path: Path, text: str, against: str) -> list[scoreboard.PredictorScore]:
    file = tmp_path / "in.csv"
    file.write_text(text, encoding="utf-8")
    report = accuracy.score_benchmark(file, SUBJECTS, None, write=write, against=against)
    return list(report.scoreboard)


def test_predictors_are_scored_on_the_rows_that_all_answered(tmp_path: Path) -> None:
    others = tmp_path / "others.csv"
    others.write_text(OTHERS, encoding="utf-8")
    second = GOOD.replace("a,", "b,", 1)
    unknown = GOOD.replace("a,", "c,", 1).replace("h100_sxm", "no device")
    text = f"{HEAD}\n{GOOD}\n{second}\n{unknown}\n"
    scores = compare(tmp_path, text, f"roofline,constant-share,tool={others}")
    names = ("archwright", "roofline", "constant-share", "tool")
    assert [(score.metric, score.predictor) for score in scores] == [
        (metric, name) for metric in ("tpot_ms", "ttft_ms") for name in names
    ]
    of_tpot = {score.predictor: score for score in scores[:4]}
    assert {score.measured_rows for score in scores} == {3}
    assert [of_tpot[name].answered_rows for name in names] == [2, 2, 2, 1]
    assert {(score.common_rows, score.seen_rows) for score in scores} == {(1, 1)}
    assert of_tpot["tool"].median_error_percent == pytest.approx(10)
    assert of_tpot["archwright"].covered_percent == 100
    assert of_tpot["tool"].covered_percent is None
    # The roofline is a bound: a share of it is nearer to what engines reach.
    roofline, share = (of_tpot[name].median_error_percent for name in ("roofline", "constant-share"))
    assert roofline is not None and share is not None
    assert roofline > share


def test_a_processor_has_a_roofline_of_its_memory_and_a_prompt_none_of_its_answers(tmp_path: Path) -> None:
    processor = GOOD.replace("h100_sxm,4,TP4", "AMD EPYC 9654,1,")
    prompt = GOOD.replace("a,", "b,", 1).replace("1024,1024,,", "1024,1,4000,")
    scores = compare(tmp_path, f"{HEAD}\n{processor}\n{prompt}\n", "roofline")
    answered = {(score.metric, score.predictor): score.answered_rows for score in scores}
    assert answered["tpot_ms", "roofline"] == 1
    assert answered["ttft_ms", "roofline"] == 1
    assert answered["throughput_tok_s", "roofline"] == 1


def test_no_scoreboard_without_predictors_or_measurements(tmp_path: Path) -> None:
    assert compare(tmp_path, f"{HEAD}\n{GOOD}\n", "") == []
    unmeasured = GOOD.replace(",300,", ",,").replace(",20,", ",,")
    assert compare(tmp_path, f"{HEAD}\n{unmeasured}\n", "roofline") == []
    unknown = GOOD.replace("h100_sxm", "no device")
    (score, _) = compare(tmp_path, f"{HEAD}\n{unknown}\n", "roofline")[:2]
    assert (score.common_rows, score.median_error_percent) == (0, None)


@pytest.mark.parametrize(("text", "against"), [(f"{HEAD}\n{GOOD}\n", "guessing"), (TRAINING, "roofline")])
def test_an_unknown_predictor_and_a_table_of_training_are_refused(tmp_path: Path, text: str, against: str) -> None:
    with pytest.raises(UsageError) as caught:
        compare(tmp_path, text, against)
    assert caught.value.code == "AW-USE-23"
