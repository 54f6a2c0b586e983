"""A model file or folder of the home: what its header says, where it came from, and its licence.

The run wing writes these records when it fetches or adds a model; the catalog reads them, so that plans and predictions
know every model of the home.
"""

from typing import Literal

from archwright.contract.record import Record

ModelForm = Literal["gguf", "onnx", "safetensors"]
ModelTask = Literal["generate", "embed", "rerank"]


class ModelArchitecture(Record):
    """Dimensions from the header. `type`: the engine's name of the architecture, for example "qwen3".

    `head_width`: width of a key and value head. `ffn`: width of a dense layer, None if every layer has experts.
    """

    type: str
    parameters: int
    active_parameters: int
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_width: int
    vocabulary: int
    context_tokens: int
    ffn: int | None = None
    experts: int = 0
    experts_active: int = 0
    expert_ffn: int | None = None
    sliding_window: int | None = None


class StoredModel(Record):
    """`name` is unique in the home; `model`: its id in the catalog, or `name` for a model that the catalog lacks.

    `sha256`: digest of the file, or of the list of digests of a folder. `source`: "hf:ORG/REPO@COMMIT:FILE", "wheel
    PACKAGE==VERSION:MEMBER" or "file". `licence`: SPDX identifier or the maker's name; empty if it is not known.
    `template_tools`, `template_tokens`, `shared_prefix_tokens`: see Artefact. `added_at`: Unix time.
    """

    name: str
    model: str
    form: ModelForm
    task: ModelTask
    sha256: str
    size_bytes: int
    quantisation: str
    licence: str
    source: str
    added_at: float
    architecture: ModelArchitecture
    chat_template: bool = False
    template_tools: bool = False
    template_tokens: int = 0
    shared_prefix_tokens: int = 0
