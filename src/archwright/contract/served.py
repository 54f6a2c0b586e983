"""One finished request: usage, observations, lineage and traces are derived from this record.

Records are encoded as arrays, a third shorter than with names and faster: append new fields with a default.
"""

import re
from typing import Literal

from archwright.contract.record import Record

_ID = re.compile(r"aw-([0-9a-f]{11})[0-9a-f]{13}")


class RequestRecord(Record, array_like=True, forbid_unknown_fields=False):
    """`at` is the end, in seconds since the epoch. `model` was requested, `version` answered.
    A request that was refused before its body was read has no model.

    `status`: ok, refused, limited, rejected, failed, cancelled or ended (`contract.metrics`). `cached_tokens` came from
    the engine's prefix cache. `cost_usd` is None if the model has no price; `saved_usd` is the cost avoided by an
    answer from the cache. `latency_s` lasts from received to last byte: `queue_s` waiting for a slot, `gateway_s` in
    our code, `engine_s` in the engine. A `shadow` is a copy sent to another model. `operation` is OpenTelemetry's GenAI
    name if there is one. `http_status` is what the client got: 499 if it left before, 0 in records of older releases.
    """

    at: float
    request_id: str
    status: str
    tenant: str = ""
    key_id: str = ""
    user: str = ""
    workload: str = ""
    model: str = ""
    version: str = ""
    pool: str = ""
    route: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cost_usd: float | None = None
    reserved_usd: float | None = None
    saved_usd: float = 0.0
    cache: Literal["hit", "miss", "off"] = "off"
    ttft_s: float | None = None
    tpot_s: float | None = None
    latency_s: float = 0.0
    queue_s: float = 0.0
    gateway_s: float = 0.0
    engine_s: float = 0.0
    data_class: str = ""
    tries: int = 1
    shadow: bool = False
    operation: Literal["chat", "text_completion", "embeddings", "rerank", "transcription", "predict"] = "chat"
    http_status: int = 0


def make_request_id(at: float, chance: int) -> str:
    """Return a request id: 44 bits of milliseconds since the epoch, so ids sort by time; 52 bits `chance`."""
    return f"aw-{int(at * 1000) & 0xFFFFFFFFFFF:011x}{chance & 0xFFFFFFFFFFFFF:013x}"


def request_received_at(request_id: str) -> float | None:
    """Return when the request was received, in seconds since the epoch; None if the id is not one of ours."""
    found = _ID.fullmatch(request_id)
    return None if found is None else int(found[1], 16) / 1000
