"""One chat about documents: search, then the generation with the passages, then the reply with citations.

The request is admitted, charged, routed and recorded as every chat; the longest prompt that passages can make is
reserved before the search. Without a passage that may answer, no model is asked.
"""

from http import HTTPStatus

from msgspec.structs import replace

from archwright.engines.http_request_parser import RequestHead
from archwright.serving.admission.metering import RequestCharge
from archwright.serving.events.citation_writer import CitationWriter
from archwright.serving.events.response_formats import ResponsePiece
from archwright.serving.events.stream_replay import encode_stream
from archwright.serving.handlers.generation import GenerationHandler
from archwright.serving.handlers.request_handler import HandlerContext
from archwright.serving.handlers.stream_relay import EVENT_STREAM_TYPE, STREAM_HEADERS
from archwright.serving.http.errors import unknown_model
from archwright.serving.http.http_response import JSON_CONTENT_TYPE
from archwright.serving.requests.passage_prompt import PassageChat, insert_passages, select_passages
from archwright.serving.routing.router import DATA_CLASS_HEADER_BYTES

NO_MATCH = "The indexed documents contain no passage that answers this question."
NO_USAGE = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
LESS_STRICT_CLASSES = (None, "public", "internal")  # than personal


class RetrievalHandler(GenerationHandler):
    """Answers one chat about documents."""

    def __init__(self, context: HandlerContext, chat: PassageChat, writer: CitationWriter) -> None:
        super().__init__(context, chat.generation, "chat", writer)
        self._chat, self._citations = chat, writer

    def look_up(self) -> None:
        """Do nothing: the cache key needs the passages."""

    async def _respond(self, charge: RequestCharge) -> None:
        chat, search = self._chat, self.gateway.passages
        found = await search.search(self.request.principal.tenant, chat.dataset, chat.question)
        if found is None:
            raise unknown_model(chat.generation.model)
        passages = select_passages(found.passages, chat.passage_bytes)
        self._citations.cite(passages)
        if not passages:
            self._record("ok")
            self._send_no_match(charge)
            return
        if found.bound and self.request.header(DATA_CLASS_HEADER_BYTES) in LESS_STRICT_CLASSES:
            head = self.request.head
            headers = {**head.headers, DATA_CLASS_HEADER_BYTES: b"personal"}
            self.request = replace(self.request, head=RequestHead(head.method, head.path, head.version, headers))
        # The output may have been shortened to the budget since.
        self._generation = insert_passages(chat._replace(generation=self._generation), passages)
        await super()._respond(charge)

    def _send_no_match(self, charge: RequestCharge) -> None:
        response, writer = self.response, self._citations
        pieces, headers = [ResponsePiece(NO_MATCH, "", None, "stop")], charge.headers()
        if self._chat.generation.stream:
            response.start_stream(HTTPStatus.OK, EVENT_STREAM_TYPE, [*STREAM_HEADERS, *headers])
            response.finish(encode_stream(writer, pieces, NO_USAGE))
        else:
            response.send(HTTPStatus.OK, writer.encode_response(pieces, NO_USAGE), JSON_CONTENT_TYPE, headers)
