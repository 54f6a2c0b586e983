"""GGUF files for tests: the small model with another chat template, and an encoder of random weights with its result.

The results of the encoder are computed with numpy from the same weights, independently of the engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import erf
from pathlib import Path
from typing import Any

import gguf
import numpy as np

TEMPLATE_KEY, ALIGNMENT = b"tokenizer.chat_template", 32
# ChatML with tools in the Hermes form, and with reasoning in <think> tags.
TOOL_TEMPLATE = """\
{%- if tools %}
{{- '<|im_start|>system\\n# Tools\\n<tools>' }}
{%- for tool in tools %}{{- '\\n' }}{{- tool | tojson }}{%- endfor %}
{{- '\\n</tools>\\nFor each call, return:\\n<tool_call>\\n{"name": <name>, "arguments": <object>}\\n</tool_call>' }}
{{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{%- if message.role == 'tool' %}
{{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}
{%- else %}
{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.reasoning_content %}{{- '<think>\\n' + message.reasoning_content + '\\n</think>\\n\\n' }}{%- endif %}
{{- message.content or '' }}
{%- for call in message.tool_calls or [] %}
{{- '\\n<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
{%- if call.function.arguments is string %}{{- call.function.arguments }}
{%- else %}{{- call.function.arguments | tojson }}{%- endif %}
{{- '}\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}
"""
WORDS = ("the", "sea", "ship", "tax", "form", "red", "blue", "is", "and", "of")
VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"\N{LOWER ONE EIGHTH BLOCK}{word}" for word in WORDS))
CLASSIFY, SEPARATE = 2, 3
LAYERS, HEADS, WIDTH, INNER, CONTEXT = 2, 4, 32, 64, 64
Weights = dict[str, "np.ndarray[Any, np.dtype[np.float32]]"]


def copy_with_template(source: Path, target: Path, template: str) -> None:
    """Copy a model with another chat template; a comment in it keeps the tensors aligned."""
    data, text = source.read_bytes(), template.encode()
    at = data.index(TEMPLATE_KEY) + len(TEMPLATE_KEY) + 4
    size = int.from_bytes(data[at : at + 8], "little")
    text += b"{#" + b" " * ((size - len(text) - 4) % ALIGNMENT) + b"#}"
    target.write_bytes(data[:at] + len(text).to_bytes(8, "little") + text + data[at + 8 + size :])


def write_adapter(target: Path, architecture: str, width: int) -> None:
    """Write a low-rank adapter of one matrix of `width` x `width`."""
    writer = gguf.GGUFWriter(target, architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 1.0)
    writer.add_tensor("blk.0.attn_q.weight.lora_a", np.zeros((2, width), np.float32))
    writer.add_tensor("blk.0.attn_q.weight.lora_b", np.zeros((width, 2), np.float32))
    _finish(writer)


def write_encoder(target: Path, pooling: gguf.PoolingType, architecture: str = "bert") -> Weights:
    """Write a small BERT with random weights, for RANK with a classifier, and return its weights."""
    weights = _draw_weights(classifies=pooling is gguf.PoolingType.RANK)
    writer = gguf.GGUFWriter(target, architecture)
    writer.add_tokenizer_model("bert")
    writer.add_token_list(VOCABULARY)
    writer.add_token_types([3] * 5 + [1] * len(WORDS))
    writer.add_token_type_count(2)
    writer.add_unk_token_id(1)
    writer.add_pad_token_id(0)
    writer.add_sep_token_id(SEPARATE)
    writer.add_mask_token_id(4)
    writer.add_bos_token_id(CLASSIFY)
    writer.add_eos_token_id(SEPARATE)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(pooling)
    if pooling is gguf.PoolingType.RANK:
        writer.add_array(f"{architecture}.classifier.output_labels", ["score"])
    for name, data in weights.items():
        writer.add_tensor(name, data)
    _finish(writer)
    return weights


def encode(weights: Weights, tokens: Sequence[int]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the state of the first token after all layers."""
    count = len(tokens)

    def linear(values: Any, name: str) -> Any:
        return values @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def normalise(values: Any, name: str) -> Any:
        centred = values - values.mean(-1, keepdims=True)
        scaled = centred / np.sqrt(values.var(-1, keepdims=True) + 1e-12)
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    state = weights["token_embd.weight"][list(tokens)] + weights["position_embd.weight"][:count]
    state = normalise(state + weights["token_types.weight"][0], "token_embd_norm")
    for layer in (f"blk.{number}" for number in range(LAYERS)):
        split = [linear(state, f"{layer}.attn_{part}").reshape(count, HEADS, -1).swapaxes(0, 1) for part in "qkv"]
        scores = np.exp(split[0] @ split[1].swapaxes(1, 2) / np.sqrt(WIDTH / HEADS))
        mixed = scores / scores.sum(-1, keepdims=True) @ split[2]
        attended = linear(mixed.swapaxes(0, 1).reshape(count, WIDTH), f"{layer}.attn_output")
        state = normalise(state + attended, f"{layer}.attn_output_norm")
        inner = linear(state, f"{layer}.ffn_up")
        inner = inner * 0.5 * (1 + np.vectorize(erf)(inner / np.sqrt(2)))
        state = normalise(state + linear(inner, f"{layer}.ffn_down"), f"{layer}.layer_output_norm")
    first: np.ndarray[Any, np.dtype[np.float64]] = state[0]
    return first


def score(weights: Weights, query: str, document: str) -> float:
    """Return the relevance, of the tokens that llama.cpp forms: [CLS] query [SEP] document, all of the first type."""
    first = encode(weights, [CLASSIFY, *find_tokens(query), SEPARATE, *find_tokens(document)])
    hidden = np.tanh(first @ weights["cls.weight"].T + weights["cls.bias"])
    return float((hidden @ weights["cls.output.weight"].T + weights["cls.output.bias"])[0])


def find_tokens(text: str) -> list[int]:
    return [VOCABULARY.index(f"\N{LOWER ONE EIGHTH BLOCK}{word}") for word in text.split()]


def _draw_weights(*, classifies: bool) -> Weights:
    chance = np.random.default_rng(3)
    shapes = {"token_embd": (len(VOCABULARY), WIDTH), "position_embd": (CONTEXT, WIDTH), "token_types": (2, WIDTH)}
    linear, norms = dict[str, tuple[int, int]](), ["token_embd_norm"]
    for layer in (f"blk.{number}" for number in range(LAYERS)):
        linear |= {f"{layer}.attn_{part}": (WIDTH, WIDTH) for part in ("q", "k", "v", "output")}
        linear |= {f"{layer}.ffn_up": (INNER, WIDTH), f"{layer}.ffn_down": (WIDTH, INNER)}
        norms += [f"{layer}.attn_output_norm", f"{layer}.layer_output_norm"]
    if classifies:
        linear |= {"cls": (WIDTH, WIDTH), "cls.output": (1, WIDTH)}
    drawn = {f"{name}.weight": chance.normal(0, 0.3, shape) for name, shape in (shapes | linear).items()}
    drawn |= {f"{name}.bias": chance.normal(0, 0.3, shape[0]) for name, shape in linear.items()}
    drawn |= {f"{name}.weight": chance.normal(1, 0.1, WIDTH) for name in norms}
    drawn |= {f"{name}.bias": chance.normal(0, 0.1, WIDTH) for name in norms}
    return {name: data.astype(np.float32) for name, data in drawn.items()}


def _finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
