"""Writes a GGUF model of a given shape and quantisation with random weights, to measure an engine's speed and memory.

    python -m bench.engine.synthetic_model 4B Q4_K_M -o model.gguf

The writer is the product's, which measures models that are not on disk by it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from archwright.engines.synthetic_model import FORMATS, ModelShape, write_synthetic_model

# The vocabulary of SmolLM2.
VOCABULARY = 49_152
# The shapes of SmolLM2-135M and -360M, Qwen3-0.6B, Llama-3.2-1B and -3B, Qwen3-4B and -8B.
SHAPES = {
    "135M": ModelShape(30, 576, 9, 3, 64, 1536, VOCABULARY),
    "360M": ModelShape(32, 960, 15, 5, 64, 2560, VOCABULARY),
    "0.6B": ModelShape(28, 1024, 16, 8, 128, 3072, VOCABULARY),
    "1B": ModelShape(16, 2048, 32, 8, 64, 8192, VOCABULARY),
    "3B": ModelShape(28, 3072, 24, 8, 128, 8192, VOCABULARY),
    "4B": ModelShape(36, 2560, 32, 8, 128, 9728, VOCABULARY),
    "8B": ModelShape(36, 4096, 32, 8, 128, 12288, VOCABULARY),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("quantisation", choices=FORMATS)
    parser.add_argument("-o", "--output", type=Path, required=True)
    chosen = parser.parse_args()
    write_synthetic_model(chosen.output, SHAPES[chosen.shape], chosen.quantisation)
    print(f"{chosen.output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
