"""One finished request: usage, observations, lineage and traces are derived from it.

Written as an array (a third shorter, and faster, than with names): new fields go to the end, with a default.
"""

from __future__ import annotations

import re
from typing import Literal

from archwright.contract.record import Record

_ID = re.compile(r"aw-([0-9a-f]{11})[0-9a-f]{13}")


class RequestRecord(Record, array_like=True, forbid_unknown_fields=False):
    """`at` is the end, seconds since the epoch. `version` gave the answer, `model` was asked for.

    `status` is as in `contract.metrics`: ok, refused, rejected, failed, cancelled, ended. `cached_tokens` came from the
    engine's prefix cache. `cost_usd` is None where the model has no price; `saved_usd` is what an answer from the cache
    would have cost. `latency_s` is received to last byte: `queue_s` for a slot, `gateway_s` our own work, `engine_s`
    the engine's. A `shadow` is a copy sent to another model. `operation` has OpenTelemetry's GenAI name where there is
    one.
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
    operation: Literal["chat", "text_completion", "embeddings", "predict"] = "chat"


def make_request_id(at: float, chance: int) -> str:
    """A request's id: 44 bits of milliseconds since the epoch, so that ids sort by time, and 52 bits of `chance`."""
    return f"aw-{int(at * 1000) & 0xFFFFFFFFFFF:011x}{chance & 0xFFFFFFFFFFFFF:013x}"


def request_received_at(request_id: str) -> float | None:
    """When the request of this id came in, seconds since the epoch; None where it is no id of ours."""
    found = _ID.fullmatch(request_id)
    return None if found is None else int(found[1], 16) / 1000
