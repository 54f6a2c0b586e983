"""Exports a trained LoRA adapter as a GGUF adapter for the quantised base.

Design: adapters are not merged, since requantisation to 4 bit removes the update (measured: 1.5 % remains). Two things
differ between the formats. Transformers stores the halves of a rotary pair apart, llama.cpp side by side, so the rows
of B of q and k are reordered per head. llama.cpp always scales by alpha / r, so alpha is written to give peft's scale.
A repeated export of an adapter gives the same bytes.
"""

import re
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from archwright.engines.gguf import GgufContents, read_gguf
from archwright.engines.pickles import refuse_pickle
from archwright.errors import EngineError, ErrorLocation, ModelError, from_os_error, require_extra
from archwright.lake.lazy_modules import np
from archwright.lifecycle import model_formats

WEIGHTS_FILE, CONFIG_FILE = "adapter_model.safetensors", "adapter_config.json"
PICKLED_WEIGHTS_FILE = "adapter_model.bin"
# The files of an adapter in its own format.
PEFT_FILES = (CONFIG_FILE, WEIGHTS_FILE)
# Supported architectures, and transformers' module -> llama.cpp's tensor.
ARCHITECTURES = ("llama",)
TENSORS = {
    **{"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v"},
    **{"self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up"},
    "mlp.down_proj": "ffn_down",
}
TENSOR_NAME = re.compile(
    r"(?:base_model\.model\.)?model\.layers\.(\d+)\.([a-z_]+\.[a-z_]+)\.lora_([AB])(?:\.default)?\.weight"
)
FLOAT16_MAX = 65504.0


class PeftConfig(msgspec.Struct):
    """The fields of adapter_config.json that determine the meaning of the weights."""

    r: int
    lora_alpha: float
    peft_type: str = "LORA"
    bias: str = "none"
    use_rslora: bool = False
    use_dora: bool = False
    fan_in_fan_out: bool = False
    modules_to_save: list[str] | None = None
    rank_pattern: dict[str, int] | None = None
    alpha_pattern: dict[str, float] | None = None

    @property
    def scale(self) -> float:
        """peft's factor of B A."""
        return self.lora_alpha / (self.r**0.5 if self.use_rslora else self.r)


def export_adapter(base: Path, folder: Path, target: Path) -> None:
    """Write the peft adapter in `folder` for the model in `base` to the new file `target`.

    Raises ModelError AW-MOD-01 (a pickle), AW-MOD-03 (another kind of adapter or another base), AW-MOD-04 (unknown
    architecture); EngineError AW-ENG-05 (damaged base).
    """
    contents = read_gguf(base)
    architecture = str(contents.values.get("general.architecture", "an unnamed one"))
    if architecture not in ARCHITECTURES:
        message = f"adapters of the architecture {architecture} cannot be exported: its row order is not known"
        hint = f"train on a base of one of these architectures: {', '.join(ARCHITECTURES)}"
        raise ModelError("AW-MOD-04", message, where=ErrorLocation(str(base)), hint=hint)
    config = read_config(folder)
    pairs = _pair_matrices(read_weights(folder), folder)
    _check_shapes(pairs, config, contents, folder)
    heads = _read_head_counts(contents, architecture, base)
    ordered = {
        name: (a, interleave_rotary_rows(b, heads[part]) if (part := name.split(".")[2]) in heads else b)
        for name, (a, b) in pairs.items()
    }
    _write_gguf(target, architecture, config, ordered)


def read_config(folder: Path) -> PeftConfig:
    """Raises ModelError AW-MOD-03 if the adapter is not a plain LoRA adapter."""
    path = folder / CONFIG_FILE
    try:
        config = msgspec.json.decode(path.read_bytes(), type=PeftConfig)
    except OSError as error:
        raise from_os_error(error) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _invalid_adapter_error(path, f"its configuration cannot be read: {error}") from error
    unsupported = {
        "peft_type": config.peft_type.upper() != "LORA",
        "bias": config.bias != "none",
        "use_dora": config.use_dora,
        "fan_in_fan_out": config.fan_in_fan_out,
        "modules_to_save": bool(config.modules_to_save),
        "rank_pattern": bool(config.rank_pattern),
        "alpha_pattern": bool(config.alpha_pattern),
        "r": config.r < 1,
    }
    found = [name for name, is_set in unsupported.items() if is_set]
    if found:
        raise _invalid_adapter_error(path, f"these settings are not those of a plain LoRA adapter: {', '.join(found)}")
    return config


def read_weights(folder: Path) -> dict[str, Any]:
    """The weights: name -> float32 array."""
    path = check_weights(folder)
    with require_extra("train", "exporting an adapter"):
        import safetensors  # noqa: PLC0415
        import safetensors.torch  # noqa: PLC0415  numpy has no bf16, which adapters may be kept in
    try:
        return {name: tensor.float().numpy() for name, tensor in safetensors.torch.load_file(path).items()}
    except safetensors.SafetensorError as error:
        raise _invalid_adapter_error(path, f"its weights are damaged: {error}") from error


def check_weights(folder: Path) -> Path:
    """The path of the weights. Raises ModelError AW-MOD-01 (a pickle), AW-MOD-02 (not safetensors)."""
    path, pickled = folder / WEIGHTS_FILE, folder / PICKLED_WEIGHTS_FILE
    if not path.is_file() and pickled.is_file():
        refuse_pickle(pickled)
    model_formats.check_format(path)
    return path


def _pair_matrices(weights: Mapping[str, Any], folder: Path) -> dict[str, tuple[Any, Any]]:
    """Tensor name of llama.cpp -> its A and B."""
    path = folder / WEIGHTS_FILE
    halves: dict[str, dict[str, Any]] = {}
    for name, array in weights.items():
        found = TENSOR_NAME.fullmatch(name)
        if found is None or found[2] not in TENSORS:
            raise _invalid_adapter_error(path, f"it changes {name}, which an adapter of llama.cpp cannot change")
        halves.setdefault(f"blk.{found[1]}.{TENSORS[found[2]]}.weight", {})[found[3]] = array
    single = [name for name, half in halves.items() if len(half) != 2]
    if single or not halves:
        raise _invalid_adapter_error(path, f"A or B is missing: {', '.join(single[:3]) or 'it has no weights'}")
    return {name: (half["A"], half["B"]) for name, half in halves.items()}


def _check_shapes(pairs: Mapping[str, tuple[Any, Any]], config: PeftConfig, base: GgufContents, folder: Path) -> None:
    path = folder / WEIGHTS_FILE
    for name, (a, b) in pairs.items():
        wanted = base.shapes.get(name)
        if wanted != (a.shape[-1], b.shape[0]):
            has = f"{wanted[1]} x {wanted[0]}" if wanted and len(wanted) == 2 else "no such tensor"
            reason = f"{name} is {b.shape[0]} x {a.shape[-1]} in the adapter, and the base has {has}"
            raise _invalid_adapter_error(path, reason)
        if (a.shape[0], b.shape[1]) != (config.r, config.r):
            raise _invalid_adapter_error(path, f"{name} has rank {a.shape[0]}, but the configuration says {config.r}")
        largest = max(np.abs(a).max(), np.abs(b).max())
        if not largest <= FLOAT16_MAX:  # also true for NaN
            raise _invalid_adapter_error(path, f"{name} contains {largest}: the training diverged")


def _read_head_counts(base: GgufContents, architecture: str, path: Path) -> dict[str, int]:
    """The attention heads in the rows of q and of k."""
    query = base.values.get(f"{architecture}.attention.head_count")
    key = base.values.get(f"{architecture}.attention.head_count_kv", query)
    if not isinstance(query, int) or not isinstance(key, int) or query < 1 or key < 1:
        message = "not a complete GGUF model file: it does not state the count of its attention heads"
        hint = "remove the file, then run `archwright models fetch` with the model's name"
        raise EngineError("AW-ENG-05", message, where=ErrorLocation(str(path)), hint=hint)
    return {"attn_q": query, "attn_k": key}


def interleave_rotary_rows(rows: Any, heads: int) -> Any:
    """Rows in llama.cpp's rotary order: in each head, row i and row i + half side by side."""
    total, width = rows.shape
    return rows.reshape(heads, 2, total // heads // 2, width).swapaxes(1, 2).reshape(total, width)


def _write_gguf(target: Path, architecture: str, config: PeftConfig, pairs: Mapping[str, tuple[Any, Any]]) -> None:
    with require_extra("train", "exporting an adapter"):
        import gguf  # noqa: PLC0415
    try:
        with closing(gguf.GGUFWriter(target, architecture)) as writer:
            writer.add_string("general.type", "adapter")
            writer.add_string("adapter.type", "lora")
            writer.add_float32("adapter.lora.alpha", config.scale * config.r)
            for tensor, (a, b) in sorted(pairs.items()):
                writer.add_tensor(f"{tensor}.lora_a", np.ascontiguousarray(a, dtype=np.float16))
                writer.add_tensor(f"{tensor}.lora_b", np.ascontiguousarray(b, dtype=np.float16))
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
    except OSError as error:
        raise from_os_error(error) from error


def _invalid_adapter_error(path: Path, reason: str) -> ModelError:
    message = f"this adapter cannot be exported: {reason}"
    hint = "use a plain LoRA adapter of attention and feed-forward layers, as `archwright train` makes it"
    return ModelError("AW-MOD-03", message, where=ErrorLocation(str(path)), hint=hint)
