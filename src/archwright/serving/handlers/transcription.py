"""One transcription: a file of sound, passed on as a form, and the engine's text."""

from typing import Any, TypeGuard, cast

from archwright.serving.events.response_formats import is_count
from archwright.serving.handlers.request_handler import HandlerContext
from archwright.serving.handlers.single_reply import PaidBody, SingleReplyHandler, wrong_results
from archwright.serving.http.multipart import FormPart, encode_multipart
from archwright.serving.requests.request_validation import CHARACTERS_PER_TOKEN, WORKLOAD_HEADER
from archwright.serving.requests.transcription import count_sound_tokens, validate_transcription
from archwright.serving.routing.replica import Replica

MAX_SECONDS = 1e6  # that an engine may state
REPLY_FIELDS = ("text", "task", "language", "duration", "words", "segments")


def is_duration(seconds: object) -> TypeGuard[float]:
    """True if an engine may mean it as the length of a file."""
    return type(seconds) in (int, float) and 0 <= cast(float, seconds) <= MAX_SECONDS


class TranscriptionHandler(SingleReplyHandler):
    """Answers one transcription. It is not cached, because its sound is no part of the body."""

    path = "/audio/transcriptions"
    field = "file"
    operation = "transcription"
    _audio_tokens = 0

    def __init__(self, context: HandlerContext) -> None:
        request = context.request
        content_type, workload = request.header(b"content-type") or "", request.header(WORKLOAD_HEADER)
        directory = context.gateway.directory
        generation, self._sound = validate_transcription(request.body, content_type, directory, workload)
        super().__init__(context, generation)
        self.worst_case = self.worst_case._replace(input_estimate=count_sound_tokens(self._sound.usual_s))

    async def _post(self, replica: Replica, sink: PaidBody) -> dict[str, Any]:
        fields = {**self._generation.body, **replica.client.model_override}
        texts = ((name, text) for name, value in fields.items() for text in ([value] if type(value) is str else value))
        parts = [FormPart(name, "", "text/plain", text.encode()) for name, text in texts]
        form, content_type = encode_multipart([*parts, self._sound.file])
        return await replica.client.send_bytes("POST", self.path, form, content_type, sink=sink)

    def _build_response(self, reply: dict[str, Any]) -> dict[str, Any]:
        if type(reply.get("text")) is not str:
            raise wrong_results("reply contains no text")
        return {name: reply[name] for name in REPLY_FIELDS if name in reply}

    def _figures(self) -> dict[str, Any]:
        return {**super()._figures(), "usage": {"prompt_tokens_details": {"audio_tokens": self._audio_tokens}}}

    def _take_usage(self, reply: dict[str, Any]) -> dict[str, Any]:
        """Take the engine's tokens, else the tokens of its seconds, else of the usual length of such a file.

        The engine knows its seconds best, also if they are more than the file seems to have."""
        usage: dict[str, Any] = reply["usage"] if type(reply.get("usage")) is dict else {}
        tokens, output = usage.get("input_tokens"), usage.get("output_tokens")
        stated = (usage.get("seconds"), reply.get("duration"))
        seconds = next(filter(is_duration, stated), self._sound.usual_s)
        tokens = tokens if is_count(tokens) else count_sound_tokens(seconds)
        output = output if is_count(output) else len(reply["text"]) // CHARACTERS_PER_TOKEN
        self._input_tokens, self._output_tokens = tokens, output
        details = usage.get("input_token_details")
        audio = details.get("audio_tokens") if type(details) is dict else None
        self._audio_tokens = audio if is_count(audio) else tokens
        return {"type": "tokens", "input_tokens": tokens, "output_tokens": output, "total_tokens": tokens + output}
