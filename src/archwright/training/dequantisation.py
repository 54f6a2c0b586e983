"""`python -P -m archwright.training.dequantisation FILE.gguf FOLDER`: GGUF to float32 safetensors.

By default transformers keeps GGUF weights packed and unpacks them in every product, which is slow in training.
"""

from collections.abc import Sequence
from pathlib import Path

from archwright.engines.parent_watch import exit_with_parent
from archwright.errors import require_extra
from archwright.python_process import run_entry_point


def dequantise_model(source: Path, folder: Path) -> None:
    with require_extra("train", "preparing a base model"):
        import gguf  # noqa: F401, PLC0415 - transformers reads the file with it
        import torch  # noqa: PLC0415
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig  # noqa: PLC0415
    where, file = source.parent, source.name
    tokenizer = AutoTokenizer.from_pretrained(where, gguf_file=file, local_files_only=True)
    unpacked = GgufConfig(gguf_file=file, dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        where, gguf_file=file, dtype=torch.float32, quantization_config=unpacked, local_files_only=True
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main(arguments: Sequence[str]) -> int:
    exit_with_parent()
    dequantise_model(Path(arguments[0]), Path(arguments[1]))
    return 0


if __name__ == "__main__":
    run_entry_point(main)
