"""The rows say which fields an engine gets; an operator may allow more, within bounds."""

from __future__ import annotations

import csv
from pathlib import Path

import msgspec
import pytest

from archwright.errors import OperateError
from archwright.serving.messages_api.schema import MessagesRequest
from archwright.serving.requests.fast_path import PlainChat
from archwright.serving.requests.transcription import TranscriptionRequest
from archwright.serving.requests.typed_requests import ChatRequest, CompletionRequest, EmbeddingRequest, RerankRequest
from archwright.serving.responses_api.schema import ResponsesRequest
from archwright.serving.settings import engine_fields
from archwright.serving.settings.config import check_config
from archwright.serving.settings.engine_fields import PASS, combine_rules, list_engines, rules_of_engine

from ..conftest import endpoint, table

RECORDS: dict[str, type[msgspec.Struct]] = {
    "chat": ChatRequest,
    "completions": CompletionRequest,
    "embeddings": EmbeddingRequest,
    "rerank": RerankRequest,
    "messages": MessagesRequest,
    "responses": ResponsesRequest,
    "transcriptions": TranscriptionRequest,
}
ENGINES = ("own", "anthropic", *list_engines())
FAR = ("https://e/v1",)


def read_rows() -> list[dict[str, str]]:
    with Path(engine_fields.__file__).with_name("engine_fields.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_row_has_a_source_and_every_refusal_a_reason() -> None:
    keys = [
        (field, engine) for row in read_rows() for field in row["fields"].split() for engine in row["engines"].split()
    ]
    assert all(row["source"] for row in read_rows())
    assert all(row["reason"] for row in read_rows() if row["handling"] not in ("pass", "drop"))
    assert ("temperature", "own") in keys
    assert list_engines() == ("llama-server", "llamacpp", "ollama", "openai", "sglang", "vllm")


def test_a_field_without_a_type_in_its_row_has_one_in_its_record() -> None:
    for engine in ENGINES:
        for interface, rules in rules_of_engine(engine).items():
            defined = RECORDS[interface].__struct_fields__
            assert {name for name, rule in rules.fields.items() if rule is PASS} <= set(defined)
            typed = {name for name, rule in rules.fields.items() if rule.handling == "pass" and rule is not PASS}
            assert typed.isdisjoint(defined), (engine, interface)


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_takes_the_fields_of_the_fast_path(engine: str) -> None:
    rules = rules_of_engine(engine)["chat"].fields
    assert all(rules[name] is PASS for name in PlainChat.__struct_fields__)


def test_an_endpoint_takes_what_all_its_engines_take() -> None:
    both = combine_rules([rules_of_engine("vllm", ("top_a",)), rules_of_engine("own")])["chat"]
    assert both.fields["temperature"] is PASS
    assert not {"bad_words", "reasoning_effort", "top_a"} & both.fields.keys()
    assert (both.fields["user"].handling, both.fields["store"].only) == ("drop", (False,))
    assert both.fields["priority"].handling == "never"
    assert rules_of_engine("unheard-of") == rules_of_engine("openai")


@pytest.mark.parametrize("field", ["priority", "api_base", "n_predict", "max_tokens", "n", "messages"])
def test_what_breaks_limits_cannot_be_allowed(field: str) -> None:
    with pytest.raises(OperateError, match="allow_fields") as caught:
        check_config(table(endpoint(addresses=FAR, allow_fields=("top_a", field))))
    assert caught.value.code == "AW-OPS-13"
    check_config(table(endpoint(addresses=FAR, allow_fields=("top_a", "messages.prefix"))))


def test_our_own_engines_get_no_more_fields() -> None:
    with pytest.raises(OperateError, match="our own"):
        check_config(table(endpoint(allow_fields=("top_a",))))
