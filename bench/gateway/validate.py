"""Measure the validation of a request: from the bytes of a plain chat (0.5 kB) to the engine's request.

    .venv/bin/python bench/gateway/validate.py

Prints microseconds per request, the best of seven rounds: the fast path, the full path, and decoding alone.
"""

from __future__ import annotations

import json
import timeit

import msgspec

from archwright.serving.messages_api import request_translation
from archwright.serving.requests import fast_path, request_validation
from archwright.serving.requests.field_checks import decode_body
from archwright.serving.requests.model_resolution import ModelDirectory
from archwright.serving.settings.config import EndpointSpec, EnginePoolSpec, WeightedTarget

ROUNDS, TIMES = 7, 20_000
WORDS = "The pump of line four shows a slowly rising vibration; say in two sentences what to look at first. "
CHAT = {
    "model": "desk",
    "messages": [
        {"role": "system", "content": "You are the assistant of a maintenance team. Answer briefly."},
        {"role": "user", "content": WORDS * 3},
    ],
    "max_tokens": 128,
    "temperature": 0.2,
    "stream": True,
    "stream_options": {"include_usage": True},
}
MESSAGE = {"model": "desk", "max_tokens": 128, "stream": True, "messages": CHAT["messages"][1:]}  # type: ignore[index]


def main() -> None:
    pool = EnginePoolSpec(name="p", addresses=("unix:e",), model="m", slots=8, context_tokens=4096)
    spec = EndpointSpec(model="m", workload="desk", targets=(WeightedTarget(pool="p"),), default_max_tokens=128)
    directory = ModelDirectory((pool,), (spec,))
    chat, message = json.dumps(CHAT).encode(), json.dumps(MESSAGE).encode()
    ways = {
        "chat, the short way": lambda: fast_path.parse_chat(chat, directory, None),
        "chat, the long way": lambda: request_validation.validate_chat(decode_body(chat), directory, None),
        "messages": lambda: request_translation.translate_request(decode_body(message), directory, None),
        "JSON alone": lambda: msgspec.json.decode(chat),
    }
    print(f"bodies of {len(chat)} and {len(message)} bytes")
    for name, way in ways.items():
        best = min(timeit.repeat(way, number=TIMES, repeat=ROUNDS)) / TIMES
        print(f"{name:22} {best * 1e6:6.2f} us")


if __name__ == "__main__":
    main()
