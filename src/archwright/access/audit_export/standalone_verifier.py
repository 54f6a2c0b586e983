"""Verifies a file of archwright's audit log with nothing but Python 3.9 or newer and its standard library.

    python verifier.py FILE [--public-key KEY]...

FILE is an export (jsonl or rfc5424), or what a second place got. The digest of record n is the SHA-256, in hex, of the
digest of record n - 1 and the bytes of record n. A checkpoint states the digest of its newest record, and Ed25519
(RFC 8032) signs the checkpoint. Exit status: 0 the file is whole and signed, 1 it is not, 2 it cannot be read.

Only a key that you got from another source than FILE shows who signed: pass it as KEY.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

RECORD_MARK = b'{"kind":"archwright-audit-record",'
RECORD_FIELD = b',"record":'
CHECKPOINT_MARK = b'{"kind":"archwright-audit-checkpoint",'
DIGEST_BYTES = 32


class FileFinding(Exception):
    """The file is not what the platform wrote; the text says where."""


class Checkpoint(NamedTuple):
    """A signed statement; `chain`: digest of record number `records`, "" for none; `line`: its bytes.

    `start_records`, `start_chain`: number and digest of the last record that was removed; 0 and "" for none.
    """

    at: float
    records: int
    chain: str | None
    public_key: str
    signature: str
    line: bytes
    start_records: int
    start_chain: str


class RecordChain:
    """The records of one store, read in order; a record may come twice, since deliveries are repeated."""

    def __init__(self, store: str) -> None:
        self.store = store
        self.records = 0
        self.removed = 0
        self._first = ("", b"")
        self.checkpoints: list[Checkpoint] = []
        self._digests = bytearray()

    def add_record(self, number: int, digest: str, record: bytes) -> None:
        if not self.records and number > 1:
            # Older records were removed, which a signed checkpoint must state.
            self.removed = number - 1
            self.records = number
            self._first = (digest, record)
            self._digests = bytearray(bytes.fromhex(digest))
            return
        if number > self.records + 1:
            raise FileFinding(f"records {self.records + 1} to {number - 1} are missing")
        if number <= self.removed:
            raise FileFinding(f"record {number} stands behind later ones")
        expected = hashlib.sha256(self.read_digest(number - 1).encode() + record).hexdigest()
        if self.removed and number == self.removed + 1:
            expected = self._first[0]
        if digest != expected:
            raise FileFinding(f"record {number} was altered, or one before it")
        if number <= self.records:
            if self.read_digest(number) != digest:
                raise FileFinding(f"there are two versions of record {number}")
            return
        self._digests += bytes.fromhex(digest)
        self.records = number

    def read_digest(self, number: int) -> str:
        """Return the digest of a record, "" before the first one."""
        end = max(0, number - self.removed) * DIGEST_BYTES
        return self._digests[max(0, end - DIGEST_BYTES) : end].hex()

    def verify_checkpoints(self, public_keys: Iterable[str]) -> Checkpoint:
        """Compare each checkpoint with the records, and return the signed one that covers most."""
        accepted = {key.lower() for key in public_keys}
        newest_by_key: dict[str, Checkpoint] = {}
        for checkpoint in self.checkpoints:
            stated = f"the checkpoint of {format_time(checkpoint.at)}"
            if checkpoint.records > self.records:
                raise FileFinding(f"{stated} counts {checkpoint.records} records, and the file has {self.records}")
            is_covered = checkpoint.chain is not None and checkpoint.records > self.removed
            if is_covered and checkpoint.chain != self.read_digest(checkpoint.records):
                raise FileFinding(f"{stated} contradicts the records")
            newest_by_key[checkpoint.public_key] = checkpoint
        covering: list[Checkpoint] = []
        for checkpoint in newest_by_key.values():
            if not is_signed(checkpoint):
                raise FileFinding(f"the checkpoint of {format_time(checkpoint.at)} was altered: its signature is false")
            is_accepted = not accepted or checkpoint.public_key in accepted
            if checkpoint.chain is not None and checkpoint.records > self.removed and is_accepted:
                covering.append(checkpoint)
        if not covering:
            raise FileFinding("no checkpoint of an accepted key signs the records")
        newest = max(covering, key=lambda checkpoint: checkpoint.records)
        self._check_start(newest)
        return newest

    def _check_start(self, newest: Checkpoint) -> None:
        """Check that the signed checkpoint states the records before the first one as removed."""
        if not self.removed:
            return
        digest, record = self._first
        expected = hashlib.sha256(newest.start_chain.encode() + record).hexdigest()
        if newest.start_records != self.removed or digest != expected:
            raise FileFinding(f"records 1 to {self.removed} are missing, and no signed checkpoint states their removal")


def read_chains(lines: Iterable[bytes]) -> list[RecordChain]:
    """Return the chain of each store among the lines. A collector of logs may have put text before a line."""
    chains: dict[str, RecordChain] = {}
    for line_number, line in enumerate(lines, 1):
        stripped = line.rstrip()
        if not stripped.endswith(b"}"):
            continue  # the part of a line that a killed process left
        try:
            _add_line(chains, stripped)
        except FileFinding as finding:
            raise FileFinding(f"line {line_number}: {finding}") from finding
        except (ValueError, KeyError, TypeError) as error:
            raise FileFinding(f"line {line_number} was altered: {error}") from error
    return list(chains.values())


def _add_line(chains: dict[str, RecordChain], line: bytes) -> None:
    start = line.find(RECORD_MARK)
    if start >= 0:
        field = line.index(RECORD_FIELD, start)
        head = json.loads(line[start:field] + b"}")
        chain = chains.setdefault(head["store"], RecordChain(head["store"]))
        chain.add_record(head["number"], head["digest"], line[field + len(RECORD_FIELD) : -1])
        return
    start = line.find(CHECKPOINT_MARK)
    if start >= 0:
        statement: dict[str, Any] = json.loads(line[start:])
        removed = statement.get("audit_start") or {}
        chain = chains.setdefault(statement["store"], RecordChain(statement["store"]))
        checkpoint = Checkpoint(
            at=float(statement["at"]),
            records=int(statement["records"]),
            chain=statement.get("chain"),
            public_key=statement["public_key"],
            signature=statement["signature"],
            line=line[start:],
            start_records=int(removed.get("records", 0)),
            start_chain=removed.get("chain", ""),
        )
        chain.checkpoints.append(checkpoint)


def is_signed(checkpoint: Checkpoint) -> bool:
    """Return True if the key signed the line, in which the signature was empty."""
    signed = checkpoint.line.replace(b'"%b"' % checkpoint.signature.encode(), b'""', 1)
    return is_ed25519_signature(bytes.fromhex(checkpoint.public_key), signed, bytes.fromhex(checkpoint.signature))


def format_time(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))


# Ed25519 as in RFC 8032, section 6: only public values are handled, so its time may depend on them.
PRIME = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
CURVE = -121665 * pow(121666, PRIME - 2, PRIME) % PRIME
ROOT_OF_MINUS_ONE = pow(2, (PRIME - 1) // 4, PRIME)
CurvePoint = tuple[int, int, int, int]
NEUTRAL: CurvePoint = (0, 1, 1, 0)


def add_points(first: CurvePoint, second: CurvePoint) -> CurvePoint:
    a = (first[1] - first[0]) * (second[1] - second[0]) % PRIME
    b = (first[1] + first[0]) * (second[1] + second[0]) % PRIME
    c = 2 * first[3] * second[3] * CURVE % PRIME
    d = 2 * first[2] * second[2] % PRIME
    e = b - a
    f = d - c
    g = d + c
    h = b + a
    return e * f % PRIME, g * h % PRIME, f * g % PRIME, e * h % PRIME


def multiply_point(factor: int, point: CurvePoint) -> CurvePoint:
    product = NEUTRAL
    while factor:
        if factor & 1:
            product = add_points(product, point)
        point = add_points(point, point)
        factor >>= 1
    return product


def are_equal(first: CurvePoint, second: CurvePoint) -> bool:
    same_x = (first[0] * second[2] - second[0] * first[2]) % PRIME == 0
    same_y = (first[1] * second[2] - second[1] * first[2]) % PRIME == 0
    return same_x and same_y


def decode_point(encoded: bytes) -> CurvePoint | None:
    """Return the point of 32 bytes, None if there is no such point."""
    y = int.from_bytes(encoded, "little")
    sign = y >> 255
    y &= (1 << 255) - 1
    if len(encoded) != 32 or y >= PRIME:
        return None
    square = (y * y - 1) * pow(CURVE * y * y + 1, PRIME - 2, PRIME) % PRIME
    x = pow(square, (PRIME + 3) // 8, PRIME)
    if (x * x - square) % PRIME:
        x = x * ROOT_OF_MINUS_ONE % PRIME
    if (x * x - square) % PRIME or (x == 0 and sign):
        return None
    if x & 1 != sign:
        x = PRIME - x
    return x, y, 1, x * y % PRIME


_base_y = 4 * pow(5, PRIME - 2, PRIME) % PRIME
BASE = decode_point(_base_y.to_bytes(32, "little"))


def is_ed25519_signature(public_key: bytes, data: bytes, signature: bytes) -> bool:
    """Return True if the owner of the key signed the data."""
    key_point = decode_point(public_key)
    nonce_point = decode_point(signature[:32])
    factor = int.from_bytes(signature[32:], "little")
    if len(signature) != 64 or key_point is None or nonce_point is None or BASE is None or factor >= ORDER:
        return False
    hashed = hashlib.sha512(signature[:32] + public_key + data).digest()
    challenge = int.from_bytes(hashed, "little") % ORDER
    signed_point = add_points(nonce_point, multiply_point(challenge, key_point))
    return are_equal(multiply_point(factor, BASE), signed_point)


def main() -> int:
    parser = argparse.ArgumentParser(description="Verify a file of archwright's audit log.")
    parser.add_argument("file", help="export in jsonl or rfc5424, or the file of a second place")
    parser.add_argument(
        "--public-key", action="append", default=[], help="key in hex that must have signed (repeatable)"
    )
    options = parser.parse_args()
    try:
        with open(options.file, "rb") as lines:
            chains = read_chains(lines)
        if not chains:
            raise FileFinding("the file has no record of an audit log")
        for chain in chains:
            print(f"store {chain.store}: records {chain.removed + 1} to {chain.records} are in an unbroken chain")
            checkpoint = chain.verify_checkpoints(options.public_key)
            print(f"records {chain.removed + 1} to {checkpoint.records} were signed at {format_time(checkpoint.at)}")
            print(f"public key {checkpoint.public_key}")
            if checkpoint.records < chain.records:
                print(f"records {checkpoint.records + 1} to {chain.records} have no signed checkpoint yet")
    except FileFinding as finding:
        print(f"NOT WHOLE: {finding}")
        return 1
    except OSError as error:
        print(f"cannot read the file: {error}", file=sys.stderr)
        return 2
    if not options.public_key:
        print("compare the public key with one from another source, or pass it by --public-key")
    print("whole: yes")
    return 0
