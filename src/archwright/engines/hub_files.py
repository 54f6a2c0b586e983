"""Which files of a hub repository make a model: one GGUF file, or the files of an ONNX or safetensors folder."""

import re
from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from archwright.contract.stored_model import ModelForm
from archwright.engines.hub import HubFile, HubReference, HubRepository
from archwright.engines.model_header import ONNX_FILES
from archwright.engines.pickles import PICKLE_SUFFIXES, refuse_pickle
from archwright.errors import ErrorLocation, UsageError

QUANTISATION = re.compile(
    r"(?:^|[-._])((?:UD-)?I?Q\d_[A-Z0-9_]+|TQ\d_0|BF16|FP?16|FP?32|MXFP4(?:_MOE)?)(?=$|[-.])", re.IGNORECASE
)
SPLIT = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
# Beside a model: a vision projector, the statistics of a quantisation, a draft head.
NO_MODEL = re.compile(r"mmproj|imatrix", re.IGNORECASE)
# Without a choice: 4 bits with the mixed layout, then its neighbours, then the smaller loss before the smaller file.
PREFERENCE = (
    *("Q4_K_M", "Q4_K_S", "Q4_1", "Q4_0", "IQ4_NL", "IQ4_XS", "MXFP4", "MXFP4_MOE", "Q5_K_M", "Q5_K_S", "Q5_1", "Q5_0"),
    *("Q6_K", "Q8_0", "Q3_K_L", "Q3_K_M", "Q3_K_S", "BF16", "F16", "F32", "Q2_K"),
)
FOLDER_FILES = {
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model"),
    *("special_tokens_map.json", "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json", "chat_template.jinja"),
    *("model.safetensors.index.json", "README.md", "modules.json", "sentence_bert_config.json"),
    "1_Pooling/config.json",
}


class ChosenFiles(NamedTuple):
    """The files of one model. A GGUF model has one file; `choices`: the quantisations, if none was stated."""

    form: ModelForm
    files: tuple[HubFile, ...]
    choices: tuple[str, ...] = ()


def find_quantisation(name: str) -> str:
    """The quantisation in the name of a GGUF file, in capitals; empty if the name has none."""
    found = QUANTISATION.findall(SPLIT.sub("", PurePosixPath(name).name).removesuffix(".gguf"))
    return _plain(found[-1]) if found else ""


def _plain(quantisation: str) -> str:
    """One spelling for each quantisation: files say F16 or fp16."""
    return re.sub("^FP", "F", quantisation.upper())


def choose_files(repository: HubRepository, reference: HubReference) -> ChosenFiles:
    """Raises UsageError AW-USE-17 (the choice is not there, or not clear), ModelError AW-MOD-01 (only pickles)."""
    named = {file.name: file for file in repository.files}
    gguf = [file for file in repository.files if file.name.endswith(".gguf") and not NO_MODEL.search(file.name)]
    if gguf or reference.choice:
        return _choose_gguf(gguf, reference)
    names = [name for name, file in named.items() if file.size_bytes]
    found = choose_folder_files(names, generates=repository.generates)
    if found is None:
        raise _choice_error(reference, f"{repository.id} holds no model in a known format", ())
    return ChosenFiles(found[0], tuple(named[name] for name in found[1]))


def choose_folder_files(
    names: Collection[str], folder: Path = Path(), *, generates: bool = False
) -> tuple[ModelForm, list[str]] | None:
    """The form of a model, and its files: weights, then what describes them; never code. None if there is no model.

    `generates`: it is known to write text. Raises ModelError AW-MOD-01 (only pickles), with the path in `folder`.
    """
    small = sorted(FOLDER_FILES.intersection(names))
    onnx = next((name for name in ONNX_FILES if name in names), None)
    if onnx is not None and "tokenizer.json" in names and not generates:
        return "onnx", [*(name for name in (onnx, f"{onnx}_data") if name in names), *small]
    weights = sorted(name for name in names if re.fullmatch(r"[^/]+\.safetensors", name))
    if weights and "config.json" in names:
        return "safetensors", weights + small
    pickles = sorted(name for name in names if PurePosixPath(name).suffix.lower() in PICKLE_SUFFIXES)
    if pickles and not weights:
        refuse_pickle(folder / pickles[0])
    return None


def _choose_gguf(files: list[HubFile], reference: HubReference) -> ChosenFiles:
    choice, whole = reference.choice, [file for file in files if not SPLIT.search(file.name)]
    if choice:
        found = [file for file in files if choice in (file.name, PurePosixPath(file.name).name)]
        found = found or [file for file in files if find_quantisation(file.name) == _plain(choice)]
    else:
        offered = {find_quantisation(file.name) for file in whole}
        best = next((name for name in PREFERENCE if name in offered), None)
        found = [file for file in whole if best in (None, find_quantisation(file.name))] or files
    if not found:
        raise _choice_error(reference, f"{reference.repository} has no GGUF file {choice[:60]!r}", whole)
    if SPLIT.search(found[0].name):
        message = f"{found[0].name} is one part of a model in several files"
        raise _choice_error(reference, message, whole, "; or join its parts: llama-gguf-split --merge, then models add")
    if len(found) > 1:
        raise _choice_error(reference, f"{reference.repository} has several models", found)
    return ChosenFiles("gguf", (found[0],), () if choice else _list_choices(whole))


def _list_choices(files: Sequence[HubFile]) -> tuple[str, ...]:
    """The quantisations, or the names if several files have the same."""
    quantisations = [find_quantisation(file.name) for file in files]
    return tuple(quantisations if len(set(quantisations)) == len(files) else [file.name for file in files])[:12]


def _choice_error(reference: HubReference, message: str, files: Sequence[HubFile], more: str = "") -> UsageError:
    hint, choices = "use a repository with GGUF, ONNX or safetensors files", _list_choices(files)
    if choices:
        hint = f"use hf:{reference.repository}:CHOICE with one of {', '.join(choices)}"
    where = ErrorLocation(field=f"hf:{reference.repository}")
    return UsageError("AW-USE-17", message, where=where, hint=hint + more, nearest=choices)
