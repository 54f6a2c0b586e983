"""The verbs `predict` and `accuracy`."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from ..command_line import CommandLine

TABLE = """row_id,model,precision,accelerator,n_accelerators,parallelism,engine,scenario,\
concurrency_or_batch,input_len,output_len,tpot_ms
a,Llama-3.1-70B,fp8,h100_sxm,4,TP4,vllm 0.18.0,fixed_concurrency_agg,32,1024,1024,20
b,Llama-3.1-70B,fp8,no such thing,4,TP4,vllm 0.18.0,fixed_concurrency_agg,32,1024,1024,20
"""
LATE = {f"{name}_p{share}_s" for name in ("tpot", "ttft") for share in (50, 95, 99)}


def test_predict_serving(cli: CommandLine) -> None:
    line = "predict serving Llama-3.1-70B --on '4x H100' --load 64x1024+512 --layout 'TP4 fp8' --engine vllm"
    found = cli.json(line)
    assert found["stratum"] == "seen configuration, closed"
    assert set(found["estimates"]) == {"tpot_s", "ttft_s", "tokens_per_s"} | LATE == set(found["definitions"])
    assert any("sha256" in source for source in found["sources"])
    assert "AW-CAT-01" in cli.error("predict serving Some-Model --on '4x H100'", 4)
    several = cli.json_error("predict serving 'llama 70b' --on '4x H100'", 4)
    assert several["code"] == "AW-CAT-10"
    assert several["nearest"][:2] == ["Llama-3.1-70B-Instruct", "Llama-3.3-70B-Instruct"]
    shown = cli.text("predict serving Qwen3-32B --on H100")
    assert "assumed: requests in flight" in shown and "--layout bf16" in shown and "ttft_s" not in shown


def test_predict_serving_at_a_rate(cli: CommandLine) -> None:
    asked = "predict serving Llama-3.1-8B-Instruct --layout 'TP1 fp8'"
    found = {}
    for rate in ("2", "30", "200"):
        found[rate] = cli.json(f"{asked} --on '2x H100' --load '{rate}/s x 1024 + 256'")
        each = found[rate]["estimates"]
        assert set(each) == LATE
        for name in ("tpot", "ttft"):
            values = [each[f"{name}_p{share}_s"]["value"] for share in (50, 95, 99)]
            assert values == sorted(values)
            assert all(one["low"] < one["value"] < one["high"] for one in each.values())
    assert found["2"]["estimates"]["ttft_p95_s"]["value"] < found["30"]["estimates"]["ttft_p95_s"]["value"]
    assert found["2"]["weak"] == [] and "at most" in found["200"]["weak"][0]
    assert "engine: vllm" in found["2"]["assumed"]
    host = cli.json(f"{asked} --on '2x CPU-EPYC-9654-2S' --load '0.05/s x 256 + 64'")
    assert host["stratum"].startswith("host processor") and host["pilot"] is found["2"]["pilot"] is None
    far = cli.json(f"{asked} --on '1x V100-32GB-SXM2' --load '1/s x 256 + 64'")["pilot"]
    assert (
        far["subject"] == "device V100-32GB-SXM2"
        and far["cost"]["value"] > 0
        and far["command"].startswith("archwright bench ")
    )
    assert host["estimates"]["ttft_p50_s"]["value"] < host["estimates"]["ttft_p99_s"]["value"]


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ("--on 8xH100 --layout nonsense", "'nonsense' is no part of a layout"),
        ("--on H100 --layout 'TP8 fp8'", "needs 8 devices"),
        ("--on 2xH100 --layout 'disagg P:1x(TP2 DP1) D:1x(TP2 DP1)'", "needs 4 devices"),
        ("--on H100 --options kv=fp8,KV=bf16", "stated twice"),
        ("--on H100 --options chunk=1", "128"),
        ("--on H100 --options prefix=nan", "prefix"),
    ],
)
def test_predict_serving_refuses_what_it_does_not_understand(cli: CommandLine, rest: str, said: str) -> None:
    refused = cli.json_error(f"predict serving Llama-3.1-8B-Instruct {rest}", 2)
    assert refused["code"] == "AW-USE-23" and said in refused["message"]


def test_predict_serving_with_separate_prefill_workers(cli: CommandLine) -> None:
    layout = "--layout 'disagg P:1x(TP2 DP1) D:1x(TP4 DP1) FP8'"
    for load in ("max x 1024+512", "16x1024+512", "1x1024+512"):
        found = cli.json(f"predict serving Llama-3.1-8B-Instruct --on 8xH100 {layout} --load '{load}'")
        assert found["stratum"].endswith("disaggregated")


def test_predict_serving_names_the_measured_engine_of_a_vendor(cli: CommandLine) -> None:
    asked = "predict serving Llama-3.1-8B-Instruct --on '1x M2 Ultra' --load 1x512+128"
    usual, foreign = cli.json(asked), cli.json(f"{asked} --engine vllm")
    assert usual["weak"] == [] and any(text.startswith("engine: llamacpp, ") for text in usual["assumed"])
    assert foreign["weak"] == ["no fitted row is of this engine on a device of Apple"] and foreign["pilot"]
    old = cli.json("predict serving Llama-3.1-8B-Instruct --on T4 --options kv=fp8")
    assert any("T4 does not compute in fp8" in text for text in old["weak"])
    assert any(text.startswith("KV cache: eight bits") for text in old["assumed"])
    for threads in (0, 5000):
        assert "AW-CAT-01" in cli.error(f"predict serving Qwen3-4B --on 'EPYC 9654 ({threads} threads)'", 4)


def test_requests_that_wait_do_not_slow_a_deployment_down(cli: CommandLine) -> None:
    asked = "predict serving Llama-3.1-8B-Instruct --on H100 --layout bf16 --load"
    found = [cli.json(f"{asked} {sent}x1024+512") for sent in (500, 1000, 9000)]
    rates = [one["estimates"]["tokens_per_s"]["value"] for one in found]
    assert all(one["stratum"].endswith("queueing") for one in found)
    assert all(later >= 0.999 * earlier for earlier, later in itertools.pairwise(rates))


def test_predict_training(cli: CommandLine) -> None:
    line = "predict training 'Llama 3.1 8B' --on '64x H100' --load 256x8192 --tokens 1e12"
    for layout, slower in (("FSDP64 micro 1 bf16", 1.0), ("FSDP64 micro 1 bf16 full", 1.05)):
        found = cli.json(f"{line} --layout '{layout}'")
        hours, rate = (found["estimates"][key]["value"] for key in ("device_hours", "tokens_per_s_per_device"))
        assert hours * rate * 3600 == pytest.approx(1e12)
        assert hours > 30_000 * slower


def test_predict_training_chooses_a_split_and_prices_the_run(cli: CommandLine) -> None:
    line = "predict training 13B --on '16x H100' --tokens 1e9 --usd-per-hour 3"
    found = cli.json(f"{line} --layout lora")
    assert found["layout"].startswith(("DP", "FSDP"))
    assert found["estimates"]["cost_usd"]["value"] == pytest.approx(3 * found["estimates"]["run_device_hours"]["value"])
    assert found["definitions"].keys() <= found["estimates"].keys()
    shown = cli.text(line)
    assert "layout: " in shown and "cost_usd" in shown
    assert "AW-USE-21" in cli.error("predict training 'Llama 3.1 70B' --on '1x L4'", 2)
    assert "AW-USE-23" in cli.error("predict training 13B --on '16x H100' --layout nonsense", 2)
    old = cli.json("predict training 13B --on '16x A100' --layout 'FSDP16 MBS1 GA 4 selective fp8'")
    assert any("A100-80GB-SXM does not compute in fp8" in text for text in old["assumed"])


@pytest.mark.parametrize(
    ("line", "machine"),
    [
        ("embedding bge-m3 --on '2x L4' --tokens 300..900", "2 x L4"),
        ("image '16 vCPU' --pixels 1e6 --parameters 25e6", "16 x vCPU"),
        ("table 8vcpu --features 140 --latency-p95-s 0.05", "8 x vCPU"),
        ("data '64 vCPU' --gib 2600", "64 x vCPU"),
    ],
)
def test_predict_other_work(line: str, machine: str, cli: CommandLine) -> None:
    found = cli.json(f"predict {line}")
    assert found["stratum"] and found["formula"] and len(found["sources"]) > 2
    assert found["definitions"].keys() == found["estimates"].keys()
    for estimate in found["estimates"].values():
        assert estimate["low"] < estimate["value"] < estimate["high"]
    assert f"{found['devices']} x {found['accelerator']}" == machine
    assert "90 % interval" in cli.text(f"predict {line}")


SERVING, L70B = "serving Qwen3-32B --on H100 --load", "serving Llama-3.1-70B-Instruct"
TRAINING = "training 13B --on 64xH100"


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        *(
            (f"{SERVING} {load}", "AW-USE-20", f"{load!r} is not a load")
            for load in ("plenty", "0x0+0", "0x1024+512", "64x1024+0", "maxx0+512", "2/sx0+512")
        ),
        *(
            (f"training Qwen3-32B --on H100 --load {load}", "AW-USE-20", f"{load!r} is not a load")
            for load in ("plenty", "0x4096", "256x00")
        ),
        (f"{L70B} --on 2xH100 --load 0/sx1024+256", "AW-USE-20", "not a rate"),
        (f"{L70B} --on 8xH100 --load 1/sx1024+256 --layout TP1DP8", "AW-USE-21", "can be simulated"),
        (f"{L70B} --on 1xL4 --load 1/sx1024+256 --layout TP1bf16", "AW-USE-21", "can be simulated"),
        ("serving Llama-3.1-405B --on 1xL4", "AW-USE-21", "of weights and"),
        ("serving Llama-3.1-8B --load 4x1000000+128 --on 1xL4", "AW-USE-21", "shorter requests"),
        ("serving Llama-3.1-70B --layout TP1bf16 --on 1xL4", "AW-USE-21", "narrower format"),
        ("serving Qwen3-32B --on 0xH100", "AW-USE-23", "no device"),
        (f"{TRAINING} --tokens -5", "AW-USE-23", "tokens"),
        (f"{TRAINING} --tokens nan", "AW-USE-23", "tokens"),
        (f"{TRAINING} --tokens 1e9 --usd-per-hour inf", "AW-USE-23", "usd_per_hour"),
        ("embedding bge-m4 --on 1xL4", "AW-CAT-01", "bge-m4"),
        ("embedding bge-m3 --on 1xL5000", "AW-CAT-01", "L5000"),
        ("embedding bge-m3 --on 1xL4 --tokens many", "AW-USE-20", "not a length"),
        ("embedding bge-m3 --on 1xL4 --tokens 0", "AW-USE-20", "not a length"),
        ("embedding Qwen3-Embedding-8B --on 1xT4", "AW-USE-21", "more memory"),
        ("image 1xL4 --pixels -1 --parameters 1e6", "AW-USE-20", "pixels"),
        ("image 1xL4 --pixels nan --parameters 1e6", "AW-USE-20", "pixels"),
        ("table 8vCPU --features 0", "AW-USE-20", "features"),
        ("data 8vCPU --gib 0", "AW-USE-20", "gib"),
        ("data 1xCPU-EPYC-9654-2S --gib 1", "AW-USE-20", "is a processor"),
    ],
)
def test_bad_arguments_are_refused(cli: CommandLine, words: str, code: str, says: str) -> None:
    error = cli.error(f"predict {words}", 4 if code == "AW-CAT-01" else 2)
    assert error.startswith(code) and says in error


def test_a_limit_out_of_reach_is_reported(cli: CommandLine) -> None:
    line = "predict image '1 vCPU' --pixels 1e6 --parameters 25e6 --latency-p95-s 0.1"
    assert "weak: an idle machine takes" in cli.text(line)


def test_an_unstated_format_is_the_published_one(cli: CommandLine) -> None:
    asked = "predict serving DeepSeek-V3 --on 8xH200-SXM-141GB --load 64x1024+512 --layout"
    found = [cli.json(f"{asked} '{layout}'") for layout in ("", "TP8 fp8")]
    assert "format: fp8, as published" in found[0]["assumed"]
    assert found[0]["estimates"] == found[1]["estimates"]


def test_a_wide_ttft_names_the_run_that_narrows_it(cli: CommandLine) -> None:
    asked = "predict serving Llama-3.1-8B-Instruct --engine vllm --on"
    wide = cli.json(f"{asked} H100 --load 16x1024+256")
    ttft = wide["estimates"]["ttft_s"]
    assert ttft["high"] > 5 * ttft["low"]
    notes = [text for text in wide["assumed"] if "TTFT spans" in text]
    assert len(notes) == 1 and "archwright bench" in notes[0]
    offline = cli.json(f"{asked} H100 --load 'max x 1024+256'")
    assert not [text for text in offline["assumed"] if "TTFT spans" in text]


def test_accuracy(cli: CommandLine) -> None:
    Path("rows.csv").write_text(TABLE, encoding="utf-8")
    shown = cli.text("accuracy rows.csv --rows-out out.csv")
    assert "1 of 2 rows answered" in shown and "not answered: b" in shown and "wrote out.csv" in shown
    assert Path("out.csv").read_text(encoding="utf-8").startswith("row_id,pred_tpot_ms,pred_tpot_ms_lo")
    assert cli.json("accuracy rows.csv")["scores"][0]["rows"] == 1
    assert "AW-USE-22" in cli.error("accuracy rows.csv --rows-out rows.csv", 2)
    compared = cli.text("accuracy rows.csv --against roofline,copy=out.csv")
    assert "roofline" in compared and "copy" in compared and "in the fit" in compared
    assert "AW-USE-23" in cli.error("accuracy rows.csv --against guessing", 2)
    assert Path("rows.csv").read_text(encoding="utf-8") == TABLE, "the table itself is never written over"


def test_engine_options_change_a_prediction_and_widen_it(cli: CommandLine) -> None:
    asked = "predict serving Llama-3.1-8B-Instruct --on 1xL40S --load"
    plain = cli.json(f"{asked} 16x2000+300")["estimates"]
    found = cli.json(f"{asked} 16x2000+300 --options prefix=0.4,speculation=3")
    assert [effect["option"] for effect in found["options"]] == ["prefix", "drafts"]
    for name, estimate in found["estimates"].items():
        assert estimate["high"] / estimate["low"] >= plain[name]["high"] / plain[name]["low"]
    assert found["estimates"]["tpot_s"]["value"] < 0.7 * plain["tpot_s"]["value"]
    assert found["estimates"]["tokens_per_s"]["value"] > plain["tokens_per_s"]["value"]
    late, soon = (
        cli.json(f"{asked} '1.5/s x 2000+300' --options '{options}'")["estimates"] for options in ("", "prefix=0.4")
    )
    assert soon["ttft_p95_s"]["value"] < late["ttft_p95_s"]["value"]
    assert "prefix caching: requests/s +" in cli.text(f"{asked} 16x2000+300 --options prefix=0.4")


@pytest.mark.parametrize("options", ["prefix=1", "chunk=0", "kv=int3", "speculation=x", "odd"])
def test_what_is_no_engine_option_is_refused(options: str, cli: CommandLine) -> None:
    found = cli.json_error(f"predict serving Llama-3.1-8B-Instruct --on 1xL40S --options {options}", 2)
    assert (found["code"], "is no engine option" in found["message"]) == ("AW-USE-23", True)
