"""Batches over the official client."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import openai
import pytest
from tests.serving.official_clients import HELLO
from tests.tools.checks import until

DONE = ("completed", "failed", "expired", "cancelled")
CHAT: Any = "/v1/chat/completions"


def write_lines(count: int, **fields: Any) -> bytes:
    body = {"model": "m", "messages": HELLO, "max_tokens": 4, **fields}
    lines = ({"custom_id": f"c{n}", "method": "POST", "url": CHAT, "body": body} for n in range(count))
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


class Batches:
    """The batches of one client."""

    def __init__(self, client: openai.OpenAI) -> None:
        self.client = client

    def create(self, data: bytes, endpoint: Any = CHAT) -> Any:
        file = self.client.files.create(file=("in.jsonl", data), purpose="batch")
        fields: Any = {"completion_window": "24h", "metadata": {"team": "night"}}
        return self.client.batches.create(input_file_id=file.id, endpoint=endpoint, **fields)

    def wait(self, batch_id: str, true: Callable[[Any], bool] = lambda batch: batch.status in DONE) -> Any:
        """Wait until the condition holds for the batch, and return the batch."""
        batch = None

        def is_reached() -> bool:
            nonlocal batch
            # While the gateway starts again there is no connection.
            with suppress(openai.APIConnectionError):
                batch = self.client.batches.retrieve(batch_id)
            return batch is not None and true(batch)

        until(is_reached)
        return batch

    def read(self, file_id: str | None) -> list[Any]:
        return [json.loads(line) for line in self.client.files.content(file_id).text.splitlines()] if file_id else []


@pytest.fixture
def lines() -> Callable[..., bytes]:
    return write_lines
