"""The header of a model's files: dimensions, quantisation, task, licence. No weight is read, and no code run.

GGUF keys: github.com/ggml-org/ggml/blob/master/docs/gguf.md. A folder of safetensors or ONNX has its dimensions in
config.json, by the names of the package transformers.
"""

import json
import re
from collections import Counter
from math import prod
from pathlib import Path
from typing import Any

from archwright.contract.record import Record
from archwright.contract.stored_model import ModelArchitecture, ModelForm, ModelTask
from archwright.engines.gguf import GgufContents, read_gguf
from archwright.engines.llamacpp_architectures import ARCHITECTURES, LIBRARY
from archwright.engines.onnx_file import check_folder_onnx
from archwright.errors import EngineError, ErrorLocation

# The weights of an ONNX folder: the first that exists.
ONNX_FILES = ("model.onnx", "onnx/model.onnx")
# Number of `general.file_type` -> quantisation, from llama.h (enum llama_ftype).
FILE_TYPES = {
    **{0: "fp32", 1: "fp16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S"},
    **{12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K"},
    **{19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL"},
    **{26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "bf16"},
    **{36: "TQ1_0", 37: "TQ2_0", 38: "mxfp4", 39: "nvfp4", 40: "Q1_0"},
}
# Type of a tensor -> the file type whose name says the same, for files without a file type.
TENSOR_TYPES = {
    **{0: 0, 1: 1, 2: 2, 3: 3, 6: 8, 7: 9, 8: 7, 10: 10, 11: 12, 12: 15, 13: 17, 14: 18, 16: 19, 17: 20, 18: 23},
    **{19: 24, 20: 25, 21: 26, 22: 28, 23: 30, 29: 31, 30: 32, 34: 36, 35: 37, 39: 38, 40: 39, 41: 40},
}
# Pooling of a text model (llama.h, enum llama_pooling_type): 0 none, 1 mean, 2 class token, 3 last token, 4 rank.
RANK_POOLING = 4
JSON_LIMIT_BYTES = 64 << 20
HEADER_LIMIT_BYTES = 100_000_000
NUMBER_FORMATS = {"F32": "fp32", "F16": "fp16", "BF16": "bf16", "F8_E4M3": "fp8", "F8_E5M2": "fp8", "I8": "int8"}
QUANTISERS = {"fp8": "fp8", "fbgemm_fp8": "fp8", "awq": "int4", "gptq": "int4", "mxfp4": "mxfp4"}
# Formats of 4 bits keep several weights in a number of these types.
PACKED_WEIGHTS = {"I32": 8, "U8": 2}


class ModelHeader(Record):
    """`name` and `licence` as the maker wrote them; empty if they are not stated."""

    form: ModelForm
    task: ModelTask
    quantisation: str
    architecture: ModelArchitecture
    name: str = ""
    licence: str = ""
    chat_template: bool = False
    template_tools: bool = False


def read_gguf_header(path: Path) -> ModelHeader:
    """Raises EngineError AW-ENG-05 (damaged), -20 (an architecture that the engine does not know), -21 (no model)."""
    contents = read_gguf(path)
    values = contents.values
    kind = str(values.get("general.architecture", ""))
    general = str(values.get("general.type", "model"))
    if general != "model" or kind == "clip" or not contents.shapes:
        what = "a vision projector" if kind == "clip" else f"of the type {general}" if contents.shapes else "empty"
        raise _content_error(path, f"the file is no model of its own: it is {what}")
    if isinstance(parts := values.get("split.count"), int) and parts > 1:
        raise _content_error(path, f"the file is one of {parts} parts: join them with llama-gguf-split --merge")
    if kind not in ARCHITECTURES:
        message = f"the architecture {kind[:40]!r} of this model is not one that {LIBRARY} loads"
        hint = "choose a model of another architecture, or update the engine: pip install --upgrade 'archwright[local]'"
        raise EngineError("AW-ENG-20", message, where=ErrorLocation(str(path)), hint=hint)
    pooling = values.get(f"{kind}.pooling_type")
    embeds = (isinstance(pooling, int) and pooling > 0) or any(part in kind for part in ("bert", "embed", "encoder"))
    return ModelHeader(
        form="gguf",
        task="rerank" if pooling == RANK_POOLING else "embed" if embeds else "generate",
        quantisation=_find_quantisation(contents),
        architecture=_read_gguf_architecture(path, contents, kind),
        name=str(values.get("general.name", "")),
        licence=str(values.get("general.license", "")),
        chat_template=bool(values.get("tokenizer.chat_template")),
        template_tools="tools" in str(values.get("tokenizer.chat_template", "")),
    )


def _find_quantisation(contents: GgufContents) -> str:
    stated = contents.values.get("general.file_type")
    if stated in FILE_TYPES:
        return FILE_TYPES[int(stated)]
    weights: Counter[int] = Counter()
    for name, shape in contents.shapes.items():
        weights[contents.types[name]] += prod(shape)
    return FILE_TYPES[TENSOR_TYPES.get(weights.most_common(1)[0][0], 0)]


def _read_gguf_architecture(path: Path, contents: GgufContents, kind: str) -> ModelArchitecture:
    values, shapes = contents.values, contents.shapes

    def number(key: str, default: int | None = None) -> int:
        # A key that differs by layer is an array; the default is then an upper bound from another key.
        value = values.get(f"{kind}.{key}")
        if isinstance(value, int) and value > 0:
            return value
        if default is None:
            raise _content_error(path, f"the header does not state {kind}.{key}")
        return default

    hidden, layers = number("embedding_length"), number("block_count")
    heads = number("attention.head_count", 1)
    experts, used = number("expert_count", 0), number("expert_used_count", 0)
    parameters = sum(map(prod, shapes.values()))
    in_experts = sum(prod(shape) for name, shape in shapes.items() if "_exps." in name)
    dense = any(re.fullmatch(r"blk\.\d+\.ffn_(up|gate_up)\.weight", name) for name in shapes)
    ffn = number("feed_forward_length", 0)
    return ModelArchitecture(
        type=kind,
        parameters=parameters,
        active_parameters=parameters - (in_experts * (experts - used) // experts if experts else 0),
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=number("attention.head_count_kv", heads),
        head_width=number("attention.key_length", max(hidden // heads, 1)),
        vocabulary=contents.lengths.get("tokenizer.ggml.tokens") or number("vocab_size", 0),
        context_tokens=number("context_length"),
        ffn=ffn if ffn and (dense or not experts) else None,
        experts=experts,
        experts_active=used,
        expert_ffn=number("expert_feed_forward_length", ffn) if experts else None,
        sliding_window=number("attention.sliding_window", 0) or None,
    )


def _content_error(path: Path, reason: str) -> EngineError:
    where = ErrorLocation(str(path))
    return EngineError("AW-ENG-21", reason, where=where, hint="choose a file or folder with the weights of a model")


def locate_onnx(folder: Path) -> Path | None:
    return next((folder / name for name in ONNX_FILES if (folder / name).is_file()), None)


def read_folder_header(folder: Path, form: ModelForm) -> ModelHeader:
    """The header of a folder with config.json. Raises EngineError AW-ENG-21 if its files do not describe a model."""
    outer = read_json(folder / "config.json")
    inner = outer.get("text_config")
    config = {**outer, **inner} if isinstance(inner, dict) else outer
    names = [str(name) for name in outer.get("architectures") or ()]
    if form == "onnx":
        # Its tensors are 32-bit numbers: the other precisions have other file names.
        weights = locate_onnx(folder) or folder / ONNX_FILES[0]
        check_folder_onnx(weights, "choose a complete ONNX model")
        formats = Counter({"F32": sum(path.stat().st_size for path in weights.parent.glob("model.onnx*")) // 4})
    else:
        formats = _count_safetensors(folder)
    ranks = any(name.endswith("ForSequenceClassification") for name in names)
    generates = any("CausalLM" in name or "ConditionalGeneration" in name for name in names)
    if generates and form == "onnx":
        raise _content_error(folder, "an ONNX model that writes text cannot be served")
    quantiser = config.get("quantization_config")
    method = str(quantiser.get("quant_method", "")) if isinstance(quantiser, dict) else ""
    quantisation = QUANTISERS.get(method) or NUMBER_FORMATS.get(formats.most_common(1)[0][0], "fp32")
    packed = PACKED_WEIGHTS if quantisation in ("int4", "mxfp4") else {}
    parameters = sum(count * packed.get(name, 1) for name, count in formats.items())
    return ModelHeader(
        form=form,
        task="rerank" if ranks else "generate" if generates else "embed",
        quantisation=quantisation,
        architecture=_read_config_architecture(folder / "config.json", config, parameters),
        name=str(outer.get("_name_or_path") or ""),
        licence=_read_front_matter_licence(folder / "README.md"),
        chat_template=(folder / "chat_template.jinja").is_file()
        or "chat_template" in read_json(folder / "tokenizer_config.json", {}),
    )


def _read_config_architecture(path: Path, config: dict[str, Any], parameters: int) -> ModelArchitecture:
    def number(*keys: str, default: int | None = None) -> int:
        for key in keys:
            if isinstance(value := config.get(key), int) and not isinstance(value, bool) and value > 0:
                return value
        if default is None:
            raise _content_error(path, f"the configuration does not state {keys[0]}")
        return default

    hidden, heads = number("hidden_size", "d_model", "n_embd"), number("num_attention_heads", "n_head", default=1)
    layers = number("num_hidden_layers", "n_layer")
    experts = number("num_local_experts", "num_experts", "n_routed_experts", default=0)
    used = number("num_experts_per_tok", "num_experts_per_token", default=0)
    expert_ffn = number("moe_intermediate_size", "intermediate_size", default=0) if experts else 0
    idle = 3 * hidden * expert_ffn * layers * (experts - used)
    ffn = number("intermediate_size", "n_inner", default=0)
    return ModelArchitecture(
        type=str(config.get("model_type", "")),
        parameters=parameters,
        active_parameters=max(parameters - idle, parameters // max(experts, 1)),
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=number("num_key_value_heads", default=heads),
        head_width=number("head_dim", default=max(hidden // heads, 1)),
        vocabulary=number("vocab_size"),
        context_tokens=number("max_position_embeddings", "n_positions"),
        ffn=None if experts or not ffn else ffn,
        experts=experts,
        experts_active=used,
        expert_ffn=expert_ffn or None,
        sliding_window=number("sliding_window", default=0) or None,
    )


def read_json(path: Path, default: dict[str, Any] | None = None) -> dict[str, Any]:
    """A JSON object of at most JSON_LIMIT_BYTES; `default` if the file is absent. Raises EngineError AW-ENG-21."""
    if not path.is_file():
        if default is None:
            raise _content_error(path, f"the folder has no {path.name}")
        return default
    try:
        found = json.loads(path.read_bytes()) if path.stat().st_size <= JSON_LIMIT_BYTES else None
    except (ValueError, RecursionError) as error:
        raise _content_error(path, f"{path.name} is not valid JSON: {error}") from error
    if not isinstance(found, dict):
        raise _content_error(path, f"{path.name} is not a JSON object of at most {JSON_LIMIT_BYTES} bytes")
    return found


def _count_safetensors(folder: Path) -> Counter[str]:
    """How many numbers of each format all files have, from the headers alone."""
    formats: Counter[str] = Counter()
    for path in sorted(folder.glob("*.safetensors")):
        for tensor in _read_safetensors_header(path):
            formats[str(tensor["dtype"])] += prod(tensor["shape"])
    if not formats:
        raise _content_error(folder, "the folder has no tensor in a safetensors file")
    return formats


def _read_safetensors_header(path: Path) -> list[dict[str, Any]]:
    """Each tensor, checked to lie in the file (huggingface.co/docs/safetensors: length, JSON header, data)."""
    size_bytes = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size_bytes - 8, HEADER_LIMIT_BYTES):
                raise ValueError("it ends inside its header")
            header = json.loads(file.read(length))
        tensors = [tensor for name, tensor in header.items() if name != "__metadata__"]
        end = max((int(tensor["data_offsets"][1]) for tensor in tensors), default=0)
        if any(not isinstance(side, int) or side < 0 for tensor in tensors for side in tensor["shape"]):
            raise ValueError("a tensor has no valid shape")
        if end != size_bytes - 8 - length:
            raise ValueError(f"its data should have {end} bytes and have {size_bytes - 8 - length}")
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise _content_error(path, f"{path.name} is not a complete safetensors file: {error}") from error
    return tensors


def _read_front_matter_licence(path: Path) -> str:
    """`license` of the YAML block that opens a model card; empty if there is none."""
    if not path.is_file():
        return ""
    with path.open(encoding="utf-8", errors="replace") as file:
        head = file.read(20_000)
    block = re.match(r"---\s*\n(.*?)\n---", head, re.DOTALL)
    found = re.search(r"(?m)^license(?:_name)?:\s*[\"']?([^\s\"'#]+)", block.group(1)) if block else None
    return found.group(1) if found else ""
