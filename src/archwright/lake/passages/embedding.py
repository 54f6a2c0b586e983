"""The step embed: a vector per text, by an ONNX embedder of the home, in process and in batches.

Design: vectors are cached by SHA-256 of model and text, so a new version embeds only its new texts. The cache holds no
text. An erasure removes the whole cache (`remove_embedding_cache`), because pages of a database outlive their entries.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import lmdb

from archwright.engines.model_store import find_stored_model, list_stored_models, locate_stored_model
from archwright.engines.onnx_text import TextModel, TextSettings, TokenSequence, make_batches
from archwright.engines.text_model_folder import encode_text, read_model_folder
from archwright.errors import DataError, ErrorLocation
from archwright.home import Home
from archwright.lake.lazy_modules import np, pa
from archwright.lake.steps.step import Rows, Step, StepContext, StepSources, StepWorker
from archwright.lake.steps.text_columns import find_text_column

EMBEDDING = "embedding"
FETCH_LINE = "archwright models fetch hf:sentence-transformers/all-MiniLM-L6-v2"
CONTEXT_TOKENS = 8192  # unless the model has fewer
BATCH_TOKENS = 4096
BATCH_TEXTS = 512
CACHE_BYTES = 1 << 36  # of address space; the file grows with its entries
# Their mean cosine is the zero of `TextEmbedder.unrelated_cosine`, since models differ: from 0.0 to 0.8.
UNRELATED = (
    "The train leaves at seven.",
    "Roses need water.",
    "He sold the company.",
    "Add salt to the soup.",
    "The court heard both sides.",
    "Atoms have electrons.",
)


class EmbedText(Step):
    """Add the column `embedding`: the normalised vector of `column` by the model `model` of this home."""

    column: str = ""
    model: str = ""

    def output_columns(self, columns: dict[str, str]) -> dict[str, str]:
        if EMBEDDING in columns:
            message = f"the data set has a column {EMBEDDING} already"
            raise DataError("AW-DATA-80", message, where=ErrorLocation(field="embed"), hint="remove the step embed")
        return {**columns, EMBEDDING: "vector"}

    def prepare(self, sources: StepSources) -> StepWorker:
        return EmbeddingWorker(find_text_column(sources.columns, self.column), find_embedder(sources.home, self.model))


class EmbedderFiles(NamedTuple):
    """An embedding model of the home: its name, digest and folder, and the folder of its cached vectors."""

    name: str
    sha256: str
    path: str
    cache: str


def find_embedder(home: Home, name: str = "") -> EmbedderFiles:
    """The embedder `name`, by default the first of the home. Raises DataError AW-DATA-78, MissingError AW-GET-02."""
    first = next((one for one in list_stored_models(home) if one.task == "embed"), None)
    found = find_stored_model(home, name) if name else first
    if found is None or found.task != "embed":
        message = f"{name} is not an embedding model" if found else "this home has no embedding model"
        raise DataError("AW-DATA-78", message, where=ErrorLocation(str(home.stored_models)), hint=FETCH_LINE)
    cache = home.lake / "embeddings" / found.sha256
    return EmbedderFiles(found.name, found.sha256, str(locate_stored_model(found, home)), str(cache))


def remove_embedding_cache(home: Home) -> None:
    """Remove all cached vectors; the next embedding computes them again."""
    shutil.rmtree(home.lake / "embeddings", ignore_errors=True)


class EmbeddingWorker:
    def __init__(self, column: str, files: EmbedderFiles) -> None:
        self._column, self._files = column, files

    def process_rows(self, rows: Rows, context: StepContext) -> Rows:
        for batch in rows:
            yield add_vectors(batch, self._column, self._files)


def add_vectors(batch: Any, column: str, files: EmbedderFiles, threads: int = 1) -> Any:
    """The batch with the column `embedding`: the vectors of the texts in `column`; null counts as empty."""
    vectors = embed_cached(files, [text or "" for text in batch.column(column).to_pylist()], threads)
    offsets = np.arange(batch.num_rows + 1, dtype=np.int32) * vectors.shape[1]
    made = pa.ListArray.from_arrays(pa.array(offsets), pa.array(vectors.ravel(), pa.float32()))
    return batch.append_column(EMBEDDING, made)


@lru_cache(maxsize=2)
def open_embedder(path: str, threads: int) -> "TextEmbedder":
    """The embedder in the folder `path`, loaded once per process."""
    return TextEmbedder(Path(path), threads)


class TextEmbedder:
    """Embeds texts of any length; may be called from several threads at once.

    `unrelated_cosine`: mean cosine of sentences that have nothing in common.
    """

    def __init__(self, path: Path, threads: int) -> None:
        folder = read_model_folder(path)
        self._tokenizer = folder.tokenizer
        settings = TextSettings(threads=threads, batch_tokens=BATCH_TOKENS)
        self._model = TextModel(folder, settings, folder.context_tokens or CONTEXT_TOKENS)
        self.dimensions = self._model.dimensions
        vectors = self.embed_texts(UNRELATED)
        count = len(UNRELATED)
        self.unrelated_cosine = float(((vectors @ vectors.T).sum() - count) / (count * (count - 1)))

    def embed_texts(self, texts: Sequence[str]) -> Any:
        """One normalised vector (float32) per text, zeros without tokens. A longer text is the mean of its parts."""
        parts, owners = [], []
        for number, text in enumerate(texts):
            found = list(self._tokenize(text))
            parts += found
            owners += [number] * len(found)
        vectors = np.zeros((len(texts), self.dimensions), np.float32)
        for batch in make_batches([len(part.ids) for part in parts], BATCH_TOKENS) if parts else ():
            rows = self._model.run([parts[index] for index in batch])
            for index, row in zip(batch, rows, strict=True):
                vectors[owners[index]] += row * len(parts[index].ids)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)

    def _tokenize(self, text: str) -> Iterator[TokenSequence]:
        """The tokens of the text, or of its halves if it exceeds the context."""
        encoded, limit = encode_text(self._tokenizer, text), self._model.context_tokens
        if len(encoded.ids) <= limit or len(text) < 2:
            if encoded.ids:
                yield TokenSequence(encoded.ids[:limit], encoded.type_ids[:limit])
            return
        middle = len(text) // 2
        middle = text.find(" ", middle, middle + 80) + 1 or middle
        yield from self._tokenize(text[:middle])
        yield from self._tokenize(text[middle:])


def embed_cached(files: EmbedderFiles, texts: Sequence[str], threads: int = 1) -> Any:
    """One vector (float32) per text; only texts without a cached vector are embedded."""
    embedder = open_embedder(files.path, threads)
    keys = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in texts]
    vectors = np.empty((len(texts), embedder.dimensions), np.float32)
    os.makedirs(files.cache, mode=0o700, exist_ok=True)
    with lmdb.open(files.cache, map_size=CACHE_BYTES) as cache:
        with cache.begin() as reading:
            found = [reading.get(key) for key in keys]
        missing: dict[bytes, list[int]] = {}
        for row, (key, value) in enumerate(zip(keys, found, strict=True)):
            if value is not None and len(value) == vectors.shape[1] * 4:
                vectors[row] = np.frombuffer(value, np.float32)
            else:
                missing.setdefault(key, []).append(row)
        pending = list(missing.items())
        for start in range(0, len(pending), BATCH_TEXTS):
            group = pending[start : start + BATCH_TEXTS]
            made = embedder.embed_texts([texts[rows[0]] for _, rows in group])
            with cache.begin(write=True) as writing:
                for (key, rows), vector in zip(group, made, strict=True):
                    vectors[rows] = vector
                    writing.put(key, vector.tobytes())
    return vectors
