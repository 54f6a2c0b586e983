"""Exact cache of responses: the same request of the same tenant to the same model version gets the same response.

Design: a key is a BLAKE2b of the request under a secret of the tenant, which is derived from the pepper. No tenant can
reach or guess an entry of another tenant, and a stolen file shows no request. The workers share one table of two
generations, which approximates LRU: new entries go into the young generation, and an entry that is used in the old
generation moves there. If the young generation is full, the old generation is dropped. Each process also keeps a few
hundred responses in memory.
"""

import hashlib
import hmac
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from archwright.errors import StoreError
from archwright.home import Home
from archwright.monitor.shared_table import SharedTable, Transaction
from archwright.policy.cache_key import CacheKeyParts, CachePolicy, build_canonical_key, is_cacheable

CACHE_BYTES = 64 * 1024 * 1024
TTL_S = 24 * 3600.0
ENTRY_BYTES = 256 * 1024  # a larger response is not cached
FRONT_ENTRIES = 512
CHECK_INTERVAL_S = 5.0
FRONT_BYTES = 4 * 1024 * 1024
MAX_SALTS = 4096
KEY_BYTES = 16
_GENERATIONS = ("0", "1")
_STATE = struct.Struct("<Bq")  # which generation is young, bytes in it
_STATE_KEY = b"state"
_ENTRY = struct.Struct("<IdqqdH")  # bytes in all, expires_at, input tokens, output tokens, usd, length of the version
# A longer value would need contiguous pages, which a used table lacks. It is stored in pieces that fill pages well.
# Measured for bodies of 200 B to 200 kB: 1.5 to 1.96 bytes of pages per stored byte.
PIECE_BYTES = 1300
PAGE_OVERHEAD_FACTOR = 2


class CachedResponse(NamedTuple):
    """A complete response, and the tokens and cost of the request that produced it."""

    body: bytes
    input_tokens: int
    output_tokens: int
    usd: float
    version: str


class ResponseCache:
    """One per process. Raises nothing: if the shared table fails, no entry is found or stored."""

    def __init__(
        self,
        home: Home,
        pepper: bytes,
        size_bytes: int = CACHE_BYTES,
        ttl_s: float = TTL_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._table = SharedTable(home.shared_tables, "cache", size_bytes, tables=_GENERATIONS)
        # Pages of a dropped generation are free only when no reader is left that may look at them.
        self._generation_bytes = size_bytes * 3 // 8
        self._pepper = pepper
        self._ttl_s = ttl_s
        self._clock = clock
        self._salts: dict[str, bytes] = {}
        self._front: dict[bytes, tuple[float, CachedResponse]] = {}
        self._front_bytes = 0
        self._check_at = 0.0
        self.refused = 0
        """Number of failures of the shared table."""

    def cache_key(
        self, tenant: str, parts: CacheKeyParts, policy: CachePolicy, cache_control: str = ""
    ) -> bytes | None:
        """Return the key of the response; None if the response to this request is not cached."""
        if not is_cacheable(policy, parts, cache_control):
            return None
        salt = self._salts.get(tenant)
        if salt is None:
            if len(self._salts) >= MAX_SALTS:
                self._salts.clear()
            salt = self._salts[tenant] = hmac.digest(self._pepper, b"replies of " + tenant.encode(), "sha256")
        return hashlib.blake2b(build_canonical_key(parts), digest_size=KEY_BYTES, key=salt).digest()

    def get(self, key: bytes) -> CachedResponse | None:
        now = self._clock()
        if now >= self._check_at:
            self._check_table(now)
        known = self._front.get(key)
        if known is not None:
            if now < known[0]:
                return known[1]
            self._drop_from_front(key)
        try:
            entry = self._table.read(self._read_entry, key)
            if entry is None:
                return None
            raw, young = entry
            expires_at, cached = _decode_entry(raw)
            if now >= expires_at:
                return None
            if not young:
                self._table.write(self._write_entry, key, raw)
        except StoreError:
            self.refused += 1
            return None
        self._add_to_front(key, expires_at, cached)
        return cached

    def put(self, key: bytes, cached: CachedResponse) -> None:
        expires_at = self._clock() + self._ttl_s
        raw = _encode_entry(expires_at, cached)
        if len(raw) > min(ENTRY_BYTES, self._generation_bytes):
            return
        try:
            self._table.write(self._write_entry, key, raw)
        except StoreError:
            self.refused += 1
            return
        self._add_to_front(key, expires_at, cached)

    def _check_table(self, now: float) -> None:
        """Forget the responses in memory if the table was replaced, as an erasure does."""
        self._check_at = now + CHECK_INTERVAL_S
        generation = self._table.generation
        with suppress(StoreError):
            self._table.follow_replacement()
        if self._table.generation != generation:
            self._front.clear()
            self._front_bytes = 0

    def close(self) -> None:
        self._table.close()

    def _read_entry(self, transaction: Transaction, key: bytes) -> tuple[bytes, bool] | None:
        """Return the entry, and True if it is in the young generation."""
        young = _STATE.unpack(transaction.get(_STATE_KEY) or bytes(_STATE.size))[0]
        for number in (young, 1 - young):
            table = self._table.tables[_GENERATIONS[number]]
            raw = transaction.get(key, db=table)
            if raw is not None:
                length = _ENTRY.unpack_from(raw)[0]
                rest = [transaction.get(_piece_key(key, at), b"", table) for at in range(len(raw), length, PIECE_BYTES)]
                return b"".join((raw, *rest)) if rest else raw, number == young
        return None

    def _write_entry(self, transaction: Transaction, key: bytes, raw: bytes) -> None:
        young, size = _STATE.unpack(transaction.get(_STATE_KEY) or bytes(_STATE.size))
        needed = (len(raw) + (len(raw) // PIECE_BYTES + 1) * 64) * PAGE_OVERHEAD_FACTOR  # bytes of pages at most
        if size + needed > self._generation_bytes:
            young, size = 1 - young, 0
            transaction.drop(self._table.tables[_GENERATIONS[young]], delete=False)
        table = self._table.tables[_GENERATIONS[young]]
        transaction.put(key, raw[:PIECE_BYTES], db=table)
        for at in range(PIECE_BYTES, len(raw), PIECE_BYTES):
            transaction.put(_piece_key(key, at), raw[at : at + PIECE_BYTES], db=table)
        transaction.put(_STATE_KEY, _STATE.pack(young, size + needed))

    def _add_to_front(self, key: bytes, expires_at: float, cached: CachedResponse) -> None:
        self._drop_from_front(key)
        if len(cached.body) > FRONT_BYTES // 16:
            return
        self._front[key] = (expires_at, cached)
        self._front_bytes += len(cached.body)
        while len(self._front) > FRONT_ENTRIES or self._front_bytes > FRONT_BYTES:
            self._drop_from_front(next(iter(self._front)))

    def _drop_from_front(self, key: bytes) -> None:
        known = self._front.pop(key, None)
        if known is not None:
            self._front_bytes -= len(known[1].body)


def _piece_key(key: bytes, at: int) -> bytes:
    return key + at.to_bytes(4, "big")


def _encode_entry(expires_at: float, cached: CachedResponse) -> bytes:
    version = cached.version.encode()
    size = _ENTRY.size + len(version) + len(cached.body)
    head = _ENTRY.pack(size, expires_at, cached.input_tokens, cached.output_tokens, cached.usd, len(version))
    return head + version + cached.body


def _decode_entry(raw: bytes) -> tuple[float, CachedResponse]:
    _size, expires_at, input_tokens, output_tokens, usd, length = _ENTRY.unpack_from(raw)
    start = _ENTRY.size
    version = raw[start : start + length].decode()
    return expires_at, CachedResponse(raw[start + length :], input_tokens, output_tokens, usd, version)
