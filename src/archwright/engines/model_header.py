"""The header of a model's files: dimensions, quantisation, task, licence. No weight is read, and no code run.

GGUF keys: github.com/ggml-org/ggml/blob/master/docs/gguf.md. A folder of safetensors or ONNX has its dimensions in
config.json, by the names of the package transformers.

gguf_architectures.txt: the names in the library of xllamacpp 2026.10.11549, and those of the package gguf 0.19.0 that
the library contains. gguf_quantisations.csv: numbers of `general.file_type` (llama.h, enum llama_ftype) and types of
tensors with the same name (ggml.h, enum ggml_type).
"""

import csv
import json
import re
from collections import Counter
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Annotated, Any

import msgspec

from archwright.contract.record import Record
from archwright.contract.stored_model import ModelArchitecture, ModelForm, ModelTask
from archwright.engines.gguf import GgufContents, read_gguf
from archwright.engines.onnx_file import check_folder_onnx
from archwright.errors import EngineError, ErrorLocation

# The weights of an ONNX folder: the first that exists.
ONNX_FILES = ("model.onnx", "onnx/model.onnx")
LIBRARY = "xllamacpp 2026.10.11549"
# Pooling of a text model (llama.h, enum llama_pooling_type): 0 none, 1 mean, 2 class token, 3 last token, 4 rank.
RANK_POOLING = 4
JSON_LIMIT_BYTES = 64 << 20
HEADER_LIMIT_BYTES = 100_000_000
NUMBER_FORMATS = {"F32": "fp32", "F16": "fp16", "BF16": "bf16", "F8_E4M3": "fp8", "F8_E5M2": "fp8", "I8": "int8"}
QUANTISERS = {"fp8": "fp8", "fbgemm_fp8": "fp8", "awq": "int4", "gptq": "int4", "mxfp4": "mxfp4"}
# Formats of 4 bits keep several weights in a number of these types.
PACKED_WEIGHTS = {"I32": 8, "U8": 2}
# Dimension -> its keys in config.json; last, its key in GGUF after the name of the architecture.
DIMENSIONS = {
    "layers": ("num_hidden_layers", "n_layer", "block_count"),
    "hidden": ("hidden_size", "d_model", "n_embd", "embedding_length"),
    "heads": ("num_attention_heads", "n_head", "attention.head_count"),
    "kv_heads": ("num_key_value_heads", "attention.head_count_kv"),
    "head_width": ("head_dim", "attention.key_length"),
    "vocabulary": ("vocab_size",),
    "context_tokens": ("max_position_embeddings", "n_positions", "context_length"),
    "ffn": ("intermediate_size", "n_inner", "feed_forward_length"),
    "experts": ("num_local_experts", "num_experts", "n_routed_experts", "expert_count"),
    "experts_active": ("num_experts_per_tok", "num_experts_per_token", "expert_used_count"),
    "expert_ffn": ("moe_intermediate_size", "expert_feed_forward_length"),
    "sliding_window": ("sliding_window", "attention.sliding_window"),
}


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


def read_header(path: Path, form: ModelForm) -> ModelHeader:
    """Raises EngineError AW-ENG-05 (damaged), -20 (an architecture that the engine does not know), -21 (no model)."""
    return read_gguf_header(path) if form == "gguf" else read_folder_header(path, form)


def read_gguf_header(path: Path) -> ModelHeader:
    contents = read_gguf(path)
    values, shapes = contents.values, contents.shapes
    kind = str(values.get("general.architecture", ""))
    general = str(values.get("general.type", "model"))
    if general != "model" or kind == "clip" or not shapes:
        what = "a vision projector" if kind == "clip" else f"of the type {general[:40]}" if shapes else "empty"
        raise _content_error(path, f"the file is no model of its own: it is {what}")
    if isinstance(parts := values.get("split.count"), int) and parts > 1:
        raise _content_error(path, f"the file is one of {parts} parts: join them with llama-gguf-split --merge")
    if kind not in read_architectures():
        message = f"the architecture {kind[:40]!r} of this model is not one that {LIBRARY} loads"
        hint = "choose a model of another architecture, or update the engine: pip install --upgrade 'archwright[local]'"
        raise EngineError("AW-ENG-20", message, where=ErrorLocation(str(path)), hint=hint)
    pooling = values.get(f"{kind}.pooling_type")
    embeds = (isinstance(pooling, int) and pooling > 0) or any(part in kind for part in ("bert", "embed", "encoder"))
    parameters = sum(map(prod, shapes.values()))
    in_experts = sum(prod(shape) for name, shape in shapes.items() if "_exps." in name)
    dense = any(re.fullmatch(r"blk\.\d+\.ffn_(up|gate_up)\.weight", name) for name in shapes)
    found = {key.removeprefix(f"{kind}."): value for key, value in values.items()}
    found["vocab_size"] = contents.lengths.get("tokenizer.ggml.tokens") or found.get("vocab_size", 0)
    template = str(values.get("tokenizer.chat_template", ""))
    return ModelHeader(
        form="gguf",
        task="rerank" if pooling == RANK_POOLING else "embed" if embeds else "generate",
        quantisation=_find_quantisation(contents),
        architecture=_build_architecture(path, kind, found, parameters, in_experts, dense=dense),
        name=str(values.get("general.name", "")),
        licence=str(values.get("general.license", "")),
        chat_template=bool(template),
        template_tools="tools" in template,
    )


def read_architectures() -> frozenset[str]:
    """The architectures that the embedded llama.cpp loads."""
    return frozenset(Path(__file__).with_name("gguf_architectures.txt").read_text(encoding="utf-8").split())


def read_quantisations() -> list[dict[str, str]]:
    with Path(__file__).with_name("gguf_quantisations.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _find_quantisation(contents: GgufContents) -> str:
    """The stated quantisation, else that of most weights."""
    weights: Counter[int] = Counter()
    for name, shape in contents.shapes.items():
        weights[contents.types[name]] += prod(shape)
    stated, most = str(contents.values.get("general.file_type", "")), str(weights.most_common(1)[0][0])
    rows = read_quantisations()
    by_file = {row["file_type"]: row["quantisation"] for row in rows}
    by_tensor = {row["tensor_type"]: row["quantisation"] for row in rows if row["tensor_type"]}
    return by_file.get(stated) or by_tensor.get(most, "fp32")


def _build_architecture(
    path: Path, kind: str, values: Mapping[str, object], parameters: int, in_experts: int | None, *, dense: bool
) -> ModelArchitecture:
    """`in_experts`: parameters of all experts, None to estimate them. `dense`: some layer has no experts."""
    found: dict[str, int] = {}
    for name, keys in DIMENSIONS.items():
        # A key that differs by layer is an array; the default is then an upper bound from another key.
        numbers = [v for key in keys if isinstance(v := values.get(key), int) and not isinstance(v, bool) and v > 0]
        if numbers:
            found[name] = numbers[0]
    for name in ("layers", "hidden", "context_tokens"):
        if name not in found:
            raise _content_error(path, f"{path.name} does not state {' or '.join(DIMENSIONS[name])}")
    heads, ffn = found.get("heads", 1), found.get("ffn", 0)
    experts, used = found.get("experts", 0), found.get("experts_active", 0)
    expert_ffn = found.get("expert_ffn", ffn) if experts else 0
    if in_experts is None:
        in_experts = 3 * found["hidden"] * expert_ffn * found["layers"] * experts
    idle = in_experts * (experts - used) // experts if experts else 0
    defaults = {"heads": 1, "kv_heads": heads, "head_width": max(found["hidden"] // heads, 1), "vocabulary": 0}
    changes = {"ffn": ffn if ffn and (dense or not experts) else None, "expert_ffn": expert_ffn or None}
    dimensions: dict[str, Any] = {**defaults, **found, **changes}
    active = max(parameters - idle, parameters // max(experts, 1))
    return ModelArchitecture(type=kind, parameters=parameters, active_parameters=active, **dimensions)


def _content_error(path: Path, reason: str) -> EngineError:
    where = ErrorLocation(str(path))
    return EngineError("AW-ENG-21", reason, where=where, hint="choose a file or folder with the weights of a model")


def locate_onnx(folder: Path) -> Path | None:
    return next((folder / name for name in ONNX_FILES if (folder / name).is_file()), None)


def list_safetensors(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.safetensors") if path.is_file())


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
    kind = str(config.get("model_type", ""))
    return ModelHeader(
        form=form,
        task="rerank" if ranks else "generate" if generates else "embed",
        quantisation=quantisation,
        architecture=_build_architecture(folder / "config.json", kind, config, parameters, None, dense=False),
        name=str(outer.get("_name_or_path") or ""),
        licence=_read_front_matter_licence(folder / "README.md"),
        chat_template=(folder / "chat_template.jinja").is_file()
        or "chat_template" in read_json(folder / "tokenizer_config.json", {}),
    )


def read_json(path: Path, default: dict[str, Any] | None = None) -> dict[str, Any]:
    """A JSON object of at most JSON_LIMIT_BYTES; `default` if the file is absent. Raises EngineError AW-ENG-21."""
    if not path.is_file():
        if default is None:
            raise _content_error(path, f"the folder has no {path.name}")
        return default
    try:
        # Not msgspec: some configurations hold Infinity.
        found = json.loads(path.read_bytes()) if path.stat().st_size <= JSON_LIMIT_BYTES else None
    except (ValueError, RecursionError) as error:
        raise _content_error(path, f"{path.name} is not valid JSON: {error}") from error
    if not isinstance(found, dict):
        raise _content_error(path, f"{path.name} is not a JSON object of at most {JSON_LIMIT_BYTES} bytes")
    return found


class _Tensor(msgspec.Struct):
    """A tensor of a safetensors file; its data begin and end at `data_offsets` bytes after the header."""

    dtype: str
    shape: list[Annotated[int, msgspec.Meta(ge=0)]]
    data_offsets: tuple[int, int]


def _count_safetensors(folder: Path) -> Counter[str]:
    """How many numbers of each format all files have, from the headers alone."""
    formats: Counter[str] = Counter()
    for path in list_safetensors(folder):
        for tensor in _read_safetensors_header(path):
            formats[tensor.dtype] += prod(tensor.shape)
    if not formats:
        raise _content_error(folder, "the folder has no tensor in a safetensors file")
    return formats


def _read_safetensors_header(path: Path) -> list[_Tensor]:
    """Each tensor, checked to lie in the file (huggingface.co/docs/safetensors: length, JSON header, data)."""
    size_bytes = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size_bytes - 8, HEADER_LIMIT_BYTES):
                raise ValueError("it ends inside its header")
            header = msgspec.json.decode(file.read(length), type=dict[str, msgspec.Raw])
        header.pop("__metadata__", None)
        tensors = [msgspec.json.decode(one, type=_Tensor) for one in header.values()]
    except (ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise _content_error(path, f"{path.name} is not a complete safetensors file: {error}") from error
    end, there = max((one.data_offsets[1] for one in tensors), default=0), size_bytes - 8 - length
    if end != there:
        reason = f"its data should have {end} bytes and have {there}"
        raise _content_error(path, f"{path.name} is not a complete safetensors file: {reason}")
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
