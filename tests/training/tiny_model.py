"""A language model of 30,000 weights as a GGUF file: read, trained and exported by the very code that a real one is,
in seconds. Its tokenizer knows bytes, "th" and "the"; its weights are noise."""

from __future__ import annotations

import atexit
import functools
import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

import gguf
import numpy as np

from archwright.contract.plan import Artefact
from archwright.home import Home
from archwright.training import base_model
from archwright.training.training_spec import TrainSpec

NAME = "tiny-llama"
HIDDEN, LAYERS, HEADS, KEY_HEADS, INNER = 32, 2, 4, 2, 64
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
LORA = TrainSpec(name="assistant", task="text-lora", dataset="answers", base=NAME, learning_rate=0.02, threads=1)
SPEC = """
name: assistant
task: text-lora
dataset: answers
base: tiny-llama
steps: {steps}
tokens_per_step: 64
checkpoint_every_steps: {every}
held_out: 0.2
threads: 1
"""


class Tiny(NamedTuple):
    """The model's file and its dequantised twin, made once for all tests."""

    file: Path
    twin: Path
    sha256: str

    def into(self, home: Home) -> Artefact:
        """Bring both into a home."""
        shutil.copy(self.file, home.model(self.sha256))
        shutil.copytree(self.twin, home.dequantised_base(self.sha256))
        return artefact(self.sha256, self.file.stat().st_size)


@functools.cache
def made() -> Tiny:
    """Once for all tests of a session, in a folder that goes with it."""
    folder = Path(tempfile.mkdtemp(prefix="tiny-llama-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    home, file = Home(folder / "home"), folder / "tiny.gguf"
    sha256 = write_model(file)
    shutil.copy(file, home.model(sha256))
    return Tiny(file, base_model.prepare_base(home, sha256, NAME), sha256)


def artefact(sha256: str, size_bytes: int) -> Artefact:
    """The row that the catalog would have for it."""
    return Artefact(
        name=f"{NAME}-F32",
        model=NAME,
        package="tiny",
        version="1",
        member="tiny.gguf",
        sha256=sha256,
        size_bytes=size_bytes,
        quantisation="F32",
        licence="none",
        source="made by a test",
    )


def write_model(path: Path) -> str:
    """Returns the file's digest."""
    tokens = ["<|end|>", *byte_tokens(), "th", "the"]
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([3] + [1] * (len(tokens) - 1))
    writer.add_token_merges(["t h", "th e"])
    writer.add_eos_token_id(0)
    writer.add_bos_token_id(0)
    writer.add_pad_token_id(0)
    writer.add_chat_template(TEMPLATE)
    noise = np.random.default_rng(7)
    for name, shape in shapes(len(tokens)).items():
        values = np.ones(shape) if name.endswith("norm.weight") else noise.normal(0.0, 0.08, shape)
        writer.add_tensor(name, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return hashlib.sha256(path.read_bytes()).hexdigest()


def shapes(vocabulary: int) -> dict[str, tuple[int, ...]]:
    narrow = HIDDEN * KEY_HEADS // HEADS
    found: dict[str, tuple[int, ...]] = {"token_embd.weight": (vocabulary, HIDDEN), "output_norm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        found |= {
            f"{block}attn_q.weight": (HIDDEN, HIDDEN),
            f"{block}attn_k.weight": (narrow, HIDDEN),
            f"{block}attn_v.weight": (narrow, HIDDEN),
            f"{block}attn_output.weight": (HIDDEN, HIDDEN),
            f"{block}ffn_gate.weight": (INNER, HIDDEN),
            f"{block}ffn_up.weight": (INNER, HIDDEN),
            f"{block}ffn_down.weight": (HIDDEN, INNER),
            f"{block}attn_norm.weight": (HIDDEN,),
            f"{block}ffn_norm.weight": (HIDDEN,),
        }
    return found


def byte_tokens() -> list[str]:
    """The 256 bytes as GPT-2's vocabulary writes them."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in printed]
    letters = {byte: chr(byte) for byte in printed} | {byte: chr(256 + n) for n, byte in enumerate(hidden)}
    return [letters[byte] for byte in range(256)]


def answers(rows: int = 60) -> str:
    """A data set to learn from, as JSON lines."""
    lines = ({"prompt": f"the {n}th of them?", "completion": f"it is {n * n}, then"} for n in range(rows))
    return "".join(json.dumps(line) + "\n" for line in lines)
