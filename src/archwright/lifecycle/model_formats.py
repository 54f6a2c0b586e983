"""Accepted model files: safetensors, GGUF and ONNX. Pickles can run code and are refused unopened.

A file is identified by its first bytes and its suffix, so a renamed pickle is refused too.
"""

from pathlib import Path

from archwright.contract.lineage import ModelFormat
from archwright.engines.pickles import PICKLE_SUFFIXES, refuse_pickle
from archwright.errors import ErrorLocation, ModelError, from_os_error

FORMAT_BY_SUFFIX: dict[str, ModelFormat] = {".safetensors": "safetensors", ".gguf": "gguf", ".onnx": "onnx"}
HEADER_LIMIT_BYTES = 100_000_000


def check_format(path: Path) -> ModelFormat:
    """The format of a model file. Raises ModelError AW-MOD-01 (a pickle), AW-MOD-02 (not accepted)."""
    if path.suffix.lower() in PICKLE_SUFFIXES:
        refuse_pickle(path)
    try:
        with path.open("rb") as file:
            head = file.read(16)
            size_bytes = path.stat().st_size
    except OSError as error:
        raise from_os_error(error) from error
    # A zip archive as torch writes it, or a pickle of protocol 2 or later.
    if head[:4] == b"PK\3\4" or (head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5")):
        refuse_pickle(path)
    form = FORMAT_BY_SUFFIX.get(path.suffix.lower())
    if form is None or not _matches_signature(form, head, size_bytes):
        message = f"not an accepted model file: {path.name}" + (f" does not begin like a {form} file" if form else "")
        hint = "give a safetensors, GGUF or ONNX file with the suffix of its format"
        raise ModelError("AW-MOD-02", message, where=ErrorLocation(str(path)), hint=hint)
    return form


def _matches_signature(form: ModelFormat, head: bytes, size_bytes: int) -> bool:
    if form == "gguf":
        return head[:4] == b"GGUF"
    if form == "safetensors":
        length = int.from_bytes(head[:8], "little")
        return len(head) > 8 and length <= min(size_bytes, HEADER_LIMIT_BYTES) and head[8:9] == b"{"
    # A protobuf message whose first field is the version of the format: tag 1, a number.
    return head[:1] == b"\x08"
