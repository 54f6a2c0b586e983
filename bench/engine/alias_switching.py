"""Measures what switching between loaded models adds to a request.

    ARCHWRIGHT_HOME=/tmp/home python bench/engine/alias_switching.py MODEL.gguf [--rounds 40] [-o result.json]

The home must be new. It gets the model in three quantisations (as it is, Q8_0 and Q4_0) under the aliases assistant-1
to -3. A running platform answers the same short request twice for each alias in turn: the first request follows another
model, the second follows the same one. The added time is the median of the differences of these pairs, which are
neighbours in time, so other programs of the machine disturb both alike.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

from tests.tools.quantised_model import quantise_model

from archwright import api

ALIASES = ("assistant-1", "assistant-2", "assistant-3")
TOKENS = 2


class Client:
    def __init__(self, url: str, key: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
        self._headers = {"authorization": f"Bearer {key}"}

    def measure_s(self, alias: str) -> float:
        """Return the time of one complete reply."""
        message = {"role": "user", "content": "Count to three."}
        body = {"model": alias, "messages": [message], "max_tokens": TOKENS, "temperature": 0}
        began = time.perf_counter()
        self._connection.request("POST", "/v1/chat/completions", json.dumps(body), self._headers)
        reply = self._connection.getresponse()
        data = reply.read()
        if reply.status != 200:
            raise SystemExit(f"{reply.status} {data.decode()}")
        return time.perf_counter() - began


def load_models(model: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("Q8_0", "Q4_0"):
            file = quantise_model(model, kind, Path(folder) / f"{kind}.gguf")
            api.models.add(str(file), name=kind, licence="Apache-2.0")
    for name, alias in zip(("base", "Q8_0", "Q4_0"), ALIASES, strict=True):
        api.models.load(name, alias=[alias], context=1024)


def measure(client: Client, rounds: int) -> dict[str, dict[str, float]]:
    """Return for each alias the medians in milliseconds of switched and repeated requests, and of their differences."""
    pairs: dict[str, list[tuple[float, float]]] = {alias: [] for alias in ALIASES}
    for _ in range(rounds):
        for alias in ALIASES:
            pairs[alias].append((client.measure_s(alias), client.measure_s(alias)))
    return {
        alias: {
            "switched_ms": round(statistics.median(first for first, _ in found) * 1e3, 2),
            "repeated_ms": round(statistics.median(second for _, second in found) * 1e3, 2),
            "added_ms": round(statistics.median(first - second for first, second in found) * 1e3, 2),
        }
        for alias, found in pairs.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("-o", "--output", type=Path)
    given = parser.parse_args()
    if not [one for one in api.models.list() if getattr(one, "id", "") == "base"]:
        api.models.add(str(given.model), name="base", licence="Apache-2.0")
    started = api.up(detach=True, port=0).started
    try:
        load_models(given.model)
        found = measure(Client(started.url, api.key.create(tenant="bench").key), given.rounds)
    finally:
        api.down()
    print(json.dumps(found, indent=2))
    if given.output:
        given.output.write_text(json.dumps(found, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
