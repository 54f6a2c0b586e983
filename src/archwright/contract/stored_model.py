"""A model file or folder of the home: what its header says, where it came from, and its licence.

The run wing writes these records when it fetches or adds a model; the catalog reads them, so that plans and predictions
know every model of the home.
"""

import re
from typing import Literal

from archwright.contract.record import Record

ModelForm = Literal["gguf", "onnx", "safetensors"]
ModelTask = Literal["generate", "embed", "rerank"]
CommercialUse = Literal["yes", "no", "conditional"]
# Licences without conditions on the use, by their names on the hub (SPDX). All others are to be read.
FREE_LICENCES = {"apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "isc", "cc0-1.0", "unlicense", "cc-by-4.0"}


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


def find_commercial_use(licence: str) -> CommercialUse:
    """Business use by a licence of this name; "conditional" if the licence has to be read."""
    if re.search(r"\b(nc|research|non-?commercial)\b", licence.lower()):
        return "no"
    return "yes" if licence.lower() in FREE_LICENCES else "conditional"


def describe_licence(licence: str) -> str:
    if not licence:
        return "licence not stated"
    return f"{licence}, forbids commercial use" if find_commercial_use(licence) == "no" else licence
