"""The cases with a provider behind the gateway: does the gateway record all that the provider bills?

Design: only the provider knows what it generated for a client that left. So the suite runs one (`paid_provider`), which
the gateway under test has as an upstream, and compares its bill with the budget and with the recorded spend.
"""

import asyncio
import base64
import struct
import time
from contextlib import aclosing
from typing import Any, Literal, NamedTuple

from .gateway_client import GatewayClient, GatewayError, encode_json
from .key_administration import CreatedKey
from .paid_provider import (
    CHARACTERS_PER_TOKEN,
    DOCUMENT_TOKENS,
    DOCUMENTS,
    PIECES,
    REASONING,
    SOUND,
    SOUND_TOKENS_PER_SECOND,
    VISIBLE_SHARE,
    WORD,
    WORDS_PER_SECOND,
    Bill,
    PaidProvider,
)
from .request_templates import (
    CHAT,
    MESSAGES,
    REQUEST_LIMIT_S,
    Answer,
    describe_failure,
)

ProviderVerdict = Literal["ok", "overspent", "underbilled", "overbilled", "inconclusive"]
OUTPUT_TOKENS, ROUNDS = 400, 12
ROUNDING = 1e-6  # of the recorded spend, relative to the budget
SOUND_S, SOUND_RATE = 60, 8_000
READY_LIMIT_S, READY_POLL_S, ASKED_POLL_S = 30.0, 0.2, 0.01
NOT_READY = (0, 502, 503)
PAUSE_S = 0.2  # of the provider, before it states its usage
TRANSCRIPTIONS = "/v1/audio/transcriptions"
BOUNDARY = "archwright-conformance-sound"


class ProviderCase(NamedTuple):
    """Requests to one model of the provider, left when `words` have come; None: read to the end.

    `usual`: what the provider bills for one request."""

    name: str
    model: str
    usual: Bill
    words: int | None
    path: str = CHAT
    stream: bool = True


class ProviderTrial(NamedTuple):
    """A case, its answers, and what the provider billed for them."""

    case: ProviderCase
    budget_usd: float
    account: CreatedKey
    answers: list[Answer]
    billed_usd: float

    @property
    def is_served(self) -> bool:
        return any(answer.status == 200 for answer in self.answers)


SOUND_BILL = Bill(SOUND_S * SOUND_TOKENS_PER_SECOND, SOUND_S * WORDS_PER_SECOND * len(WORD) // CHARACTERS_PER_TOKEN)
PROVIDER_CASES = (
    ProviderCase("streams left: 100 tokens a piece", PIECES, Bill(20, OUTPUT_TOKENS), OUTPUT_TOKENS),
    ProviderCase("streams left: hidden reasoning", REASONING, Bill(20, OUTPUT_TOKENS), OUTPUT_TOKENS // VISIBLE_SHARE),
    ProviderCase("complete replies left early", PIECES, Bill(20, OUTPUT_TOKENS), 0, stream=False),
    ProviderCase("documents left", DOCUMENTS, Bill(DOCUMENT_TOKENS, OUTPUT_TOKENS), OUTPUT_TOKENS, MESSAGES),
    ProviderCase("sound with two formats", SOUND, SOUND_BILL, None, TRANSCRIPTIONS),
)


def build_body(case: ProviderCase) -> dict[str, Any]:
    content: Any = "Write the numbers from 1 to 500 as words."
    if case.path == MESSAGES:
        source = {"type": "base64", "media_type": "application/pdf", "data": base64.b64encode(bytes(3_000)).decode()}
        content = [{"type": "document", "source": source}, {"type": "text", "text": content}]
    messages = [{"role": "user", "content": content}]
    body = {"model": case.model, "messages": messages, "max_tokens": OUTPUT_TOKENS}
    return {**body, "stream": True} if case.stream else body


def build_sound() -> bytes:
    """Return a WAV file of a minute whose second `fmt ` chunk claims that it lasts no time."""
    honest = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, SOUND_RATE, SOUND_RATE * 2, 2, 16)
    huge = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 65_535, 2**32 - 1, 2**32 - 1, 65_535, 16)
    samples = bytes(SOUND_S * SOUND_RATE * 2)
    chunks = b"WAVE" + honest + huge + struct.pack("<4sI", b"data", len(samples)) + samples
    return struct.pack("<4sI", b"RIFF", len(chunks)) + chunks


async def send_and_leave(case: ProviderCase, client: GatewayClient, provider: PaidProvider) -> Answer:
    """Send one request, and leave its reply as the case says."""
    try:
        async with asyncio.timeout(REQUEST_LIMIT_S):
            if case.path == TRANSCRIPTIONS:
                await _send_sound(client)
            elif case.stream:
                await _read_words(client, case)
            else:
                await _leave_complete_reply(client, case, provider)
    except (GatewayError, TimeoutError) as error:
        return describe_failure(error)
    return Answer(200, exact=False)


async def _send_sound(client: GatewayClient) -> None:
    parts = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="model"\r\n\r\n{SOUND}\r\n'
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n'
        "Content-Type: audio/wav\r\n\r\n"
    )
    form = parts.encode() + build_sound() + f"\r\n--{BOUNDARY}--\r\n".encode()
    await client.send_bytes("POST", TRANSCRIPTIONS, form, f"multipart/form-data; boundary={BOUNDARY}")


async def _read_words(client: GatewayClient, case: ProviderCase) -> None:
    """Read a stream up to its last word, and close the connection before its usage."""
    words = 0
    async with aclosing(client.stream(case.path, build_body(case))) as events:
        async for event in events:
            words += encode_json(event).count(WORD.encode())
            if case.words is not None and words >= case.words:
                return


async def _leave_complete_reply(client: GatewayClient, case: ProviderCase, provider: PaidProvider) -> None:
    """Close the connection once the provider has one more request; raise the gateway's error if it refuses."""
    before = provider.bill.requests
    reply = asyncio.ensure_future(client.post(case.path, build_body(case)))
    while not reply.done() and provider.bill.requests == before:
        await asyncio.sleep(ASKED_POLL_S)
    if reply.done():
        reply.result()
    reply.cancel()
    await asyncio.gather(reply, return_exceptions=True)


async def wait_until_ready(case: ProviderCase, client: GatewayClient, provider: PaidProvider) -> None:
    """Send requests until the gateway has found the provider, which has just started."""
    until = time.monotonic() + READY_LIMIT_S
    while (await send_and_leave(case, client, provider)).status in NOT_READY and time.monotonic() < until:
        await asyncio.sleep(READY_POLL_S)


async def spend_and_leave(
    case: ProviderCase, client: GatewayClient, provider: PaidProvider, requests: int
) -> list[Answer]:
    """Send `requests` at once and leave them, again and again, until all are refused."""
    answers: list[Answer] = []
    while len(answers) < ROUNDS * requests:
        sent = (send_and_leave(case, client, provider) for _ in range(requests))
        answers += await asyncio.gather(*sent)
        if all(answer.status != 200 for answer in answers[-requests:]):
            break
    return answers


def find_bill_problem(trial: ProviderTrial, recorded_usd: float) -> tuple[ProviderVerdict, str]:
    """Return the verdict of a trial and its reason."""
    billed, tolerance = trial.billed_usd, trial.budget_usd * ROUNDING
    if max(billed, recorded_usd) > trial.budget_usd + tolerance:
        return "overspent", f"the provider bills {billed:.6f} USD"
    refused = [one for one in trial.answers if one.status != 200 and not one.over_budget]
    # A gateway may refuse a file that is read in two ways. No other request has a fault.
    others = [one.reason for one in refused if trial.case.model != SOUND or one.status != 400]
    if others or not (trial.is_served or refused):
        return "inconclusive", others[0] if others else "no request fits into the budget: use more requests"
    if recorded_usd < billed - tolerance:
        return "underbilled", f"the provider bills {billed - recorded_usd:.6f} USD more than is recorded"
    if recorded_usd > billed + tolerance:
        return "overbilled", f"{recorded_usd - billed:.6f} USD more than the provider bills"
    return "ok", ""
