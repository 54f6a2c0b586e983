"""One rerank request: the engine's scores of all documents, best first, with the documents if the client wants them.

A score is passed on as the engine reports it: our own ONNX engine sends the sigmoid of the model's logit, others send
the logit itself. Only their order can be compared between engines.
"""

from typing import Any

import msgspec

from archwright.serving.handlers.single_reply import SingleReplyHandler, convert_results, wrong_results


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
