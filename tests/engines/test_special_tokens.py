"""Texts never hold a special token, and read the same."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archwright.engines.gguf import read_gguf
from archwright.engines.special_tokens import WORD_JOINER, SpecialTokens, read_tokenizer_files
from archwright.home import Home

from .conftest import SMALL_MODEL

TOKENS = ("<|im_start|>", "<|im_end|>", "<s>", "</s>", "[INST]", "<｜end▁of▁sentence｜>")
SPECIAL = SpecialTokens(TOKENS)
TEXTS = st.lists(st.sampled_from((*TOKENS, "<", "<|", "|>", "im_end", "a", " ", "\n"))).map("".join)


@given(TEXTS)
def test_no_text_holds_a_token(text: str) -> None:
    broken = SPECIAL.break_text(text)
    assert not any(token in broken for token in TOKENS)
    assert broken.replace(WORD_JOINER, "") == text and SPECIAL.break_text(broken) == broken
    assert all(unicodedata.normalize(form, WORD_JOINER) == WORD_JOINER for form in ("NFC", "NFKC"))


@given(TEXTS, TEXTS)
def test_texts_that_a_template_joins_hold_no_token(one: str, other: str) -> None:
    content = [{"type": "text", "text": text} for text in (one, other)]
    broken = SPECIAL.break_body({"messages": [{"role": "user", "content": content}]})
    joined = "".join(part["text"] for part in broken["messages"][0]["content"])
    assert not any(token in joined for token in TOKENS)


def test_every_text_of_a_conversation_is_searched() -> None:
    call = {"id": "<s>", "type": "function", "function": {"name": "f", "arguments": '{"a": "<s>"}'}}
    messages = [
        {"role": "user", "name": "<s>", "content": "<s>"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "<s>", "content": [{"type": "text", "text": "<s>"}]},
    ]
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"<s>": {"enum": ["<s>"]}}}}}]
    body = {"messages": messages, "tools": tools, "input": ["<s>"], "max_tokens": 5, "stop": ["<s>"]}
    broken = SPECIAL.break_body(body)
    kept = {name: broken.pop(name) for name in ("stop", "max_tokens")}
    assert kept == {"stop": ["<s>"], "max_tokens": 5}
    assert "<s>" not in json.dumps(broken) and json.dumps(broken).count("<\\u2060s>") == 9
    raw = {"prompt": "<s>"}
    assert SPECIAL.break_body(raw) == raw and SpecialTokens(()).break_body(body) is body


def test_no_token_hides_in_the_json_of_a_tool_calls_arguments() -> None:
    escaped = '{"k": ["\\u003c|im_end|>", 7]}'
    call = {"function": {"name": "f", "arguments": escaped}}
    broken = SPECIAL.break_body({"messages": [{"role": "assistant", "tool_calls": [call]}]})
    arguments = broken["messages"][0]["tool_calls"][0]["function"]["arguments"]
    assert json.loads(arguments) == {"k": [f"<{WORD_JOINER}|im_end|>", 7]}
    call["function"]["arguments"] = "no JSON </s>"
    broken = SPECIAL.break_body({"messages": [{"tool_calls": [call]}]})
    assert "</s>" not in str(broken)


def test_the_tokens_of_a_gguf_file_are_read(model_home: Home) -> None:
    found = read_gguf(model_home.model(SMALL_MODEL.sha256)).special_tokens
    assert {"<|im_start|>", "<|im_end|>", "<|endoftext|>"} < set(found)
    assert len(found) == 17


@pytest.mark.parametrize("damage", ["", "none", "[1]"])
def test_the_tokens_of_a_model_folder_are_read(tmp_path: Path, damage: str) -> None:
    added = [{"id": 1, "content": "<s>", "special": True}, {"id": 2, "content": "<think>", "special": False}]
    decoder = {"3": {"content": "<|tool|>", "special": False}}
    (tmp_path / "tokenizer.json").write_text(damage or json.dumps({"added_tokens": added, "model": {"vocab": {}}}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))
    broken = read_tokenizer_files(tmp_path).break_text("<s><think><|tool|>")
    assert broken == f"{'<s>' if damage else f'<{WORD_JOINER}s>'}<think><{WORD_JOINER}|tool|>"
    assert not read_tokenizer_files(tmp_path / "other")
