"""Embeddings in the encoding that the client requested, and reranks: the scores of all documents, best first.

A score is passed on as the engine reports it: our own ONNX engine sends the sigmoid of the model's logit, others send
the logit itself. Only their order can be compared between engines.
"""

import base64
from array import array
from typing import Any

import msgspec

from archwright.serving.handlers.single_reply import SingleReplyHandler, convert_results, wrong_results
from archwright.serving.http.errors import bad_request
from archwright.serving.routing.replica import Replica


class _EmbeddingVector(msgspec.Struct):
    """One vector as an engine sends it; other fields are ignored."""

    index: int
    embedding: list[float]


class EmbeddingsHandler(SingleReplyHandler):
    """Answers one embedding request."""

    path = "/embeddings"
    field = "input"
    operation = "embeddings"
    kind = "embedding"

    def _check_replica(self, replica: Replica) -> None:
        generation = self._generation
        if generation.plain and replica.tuned:
            # Engines leave an adapter out of a generation, not out of embeddings: other vectors would spoil an index.
            message = (
                f"{generation.model!r} makes no embeddings while {replica.version!r} is served over it. "
                f"Request {generation.endpoint.workload!r} to get the embeddings of that version."
            )
            raise bad_request(message, "model", "unsupported_model")

    def _build_response(self, reply: dict[str, Any]) -> dict[str, Any]:
        """Return the engine's vectors in the order of the inputs."""
        items = convert_results(reply.get("data"), list[_EmbeddingVector], "vectors")
        vectors = {item.index: item.embedding for item in items}
        expected = range(self._generation.contexts)
        if set(vectors) != set(expected):
            raise wrong_results("vectors do not match the inputs")
        encoded: dict[int, Any] = {**vectors}
        if self._generation.base64:  # little-endian 32-bit floats, the official client's default encoding
            encoded = {at: base64.b64encode(array("f", vector).tobytes()).decode() for at, vector in vectors.items()}
        data = [{"object": "embedding", "index": index, "embedding": encoded[index]} for index in expected]
        return {"object": "list", "data": data, "model": self._generation.model}


class _RankedDocument(msgspec.Struct):
    """One result as an engine sends it; other fields are ignored."""

    index: int
    relevance_score: float


class RerankHandler(SingleReplyHandler):
    """Answers one rerank request."""

    path = "/rerank"
    field = "documents"
    operation = "rerank"
    kind = "rerank"

    def _build_response(self, reply: dict[str, Any]) -> dict[str, Any]:
        """Return the best `top_n` documents. The engine scores all, so the length of its list can be checked."""
        generation = self._generation
        documents = generation.body["documents"]
        found = convert_results(reply.get("results"), list[_RankedDocument], "scores")
        if sorted(one.index for one in found) != [*range(len(documents))]:
            raise wrong_results("scores do not match the documents")
        found.sort(key=lambda one: (-one.relevance_score, one.index))
        results: list[dict[str, Any]] = []
        for one in found[: generation.top_n]:
            text = {"document": {"text": documents[one.index]}} if generation.return_documents else {}
            results.append({"index": one.index, "relevance_score": one.relevance_score, **text})
        return {"object": "list", "model": generation.model, "results": results}
