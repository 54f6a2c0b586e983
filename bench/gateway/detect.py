"""Measure the detection of personal data, in microseconds per 1,024 characters (`bench/gateway/detect.py`).

The texts are plain prose, prose with similar numbers and names, prose with an address, other scripts, and text full of
escapes, which is decoded and searched a second time. The gateway is not involved: detection runs only at endpoints that
ask for it (`EndpointSpec.detect`).
"""

from __future__ import annotations

import json
import statistics
import time

from archwright.serving.routing.pii_detection import detect_data_class

PROSE = (
    "The committee met in the afternoon and agreed that the bridge would be closed for repairs until the spring, "
    "while traffic over the river is led past the old harbour and the market. "
)
ALIKE = "Invoice 2024-05-06 no. 4711-0815-2333, version 1.2.3, ISBN 978-3-16-148410-0, total 1,234,567.89 at 17:45. "
FOUND = "Please write to anna.schmidt@example.de before Friday. "
GERMAN = "Die Straße über den Fluß ist für Fußgänger gesperrt, und größere Wagen müssen über die Brücke. "
CHINESE = "委员会下午开会，同意将桥梁关闭维修至春季，而河上的交通则绕过旧港口和市场。"
ESCAPED = "see https://example.org/a%20b/c?x=1&y=2&amp;z=%C3%A4\\n and 50 % off, "
TEXTS = {
    "prose": PROSE,
    "numbers": PROSE + ALIKE,
    "found at the end": PROSE,
    "German": GERMAN,
    "Chinese": CHINESE,
    "escaped": ESCAPED,
}
SIZES_KB = (1, 8, 64)
REPEATS = 30


def body_of(kind: str, size_kb: int) -> dict[str, object]:
    text = (TEXTS[kind] * (size_kb * 1024 // len(TEXTS[kind]) + 1))[: size_kb * 1024]
    if kind == "found at the end":
        text = text[: -len(FOUND)] + FOUND
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 16}


def cost_us(body: dict[str, object]) -> float:
    took = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        detect_data_class(body)
        took.append(time.perf_counter() - begun)
    return statistics.median(took) * 1e6


def main() -> None:
    rows = [
        {"text": kind, "size_kb": size_kb, "us_per_kb": round(cost_us(body_of(kind, size_kb)) / size_kb, 1)}
        for kind in TEXTS
        for size_kb in SIZES_KB
    ]
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
