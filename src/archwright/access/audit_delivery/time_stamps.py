"""Time stamps of checkpoints by an authority, RFC 3161.

The authority signs the SHA-256 of a checkpoint's line and the time. So a checkpoint with a stamp existed at that time,
and neither the clock of this machine nor the home's key can make an earlier one. Requests and answers are made and
verified by the program `openssl ts`. The home keeps each answer in a line of `audit/time-stamps.jsonl`.
"""

import base64
import fcntl
import subprocess
from calendar import timegm
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from time import strptime

import msgspec

from archwright.access.audit_checkpoints import AuditCheckpoint, append_line, digest_checkpoint, read_checkpoints
from archwright.contract.record import Record
from archwright.errors import ErrorLocation, MissingError, StoreError
from archwright.home import Home, open_private
from archwright.http_client.blocking_client import BlockingClient, NoReply
from archwright.monitor.wal.segment_owner import read_store_name
from archwright.store import Store

TIME_STAMP_MARK = b'{"kind":"archwright-audit-time-stamp",'
STAMPS_FILE = "time-stamps.jsonl"
REQUEST_HEADERS = {"content-type": "application/timestamp-query", "accept": "application/timestamp-reply"}
TIMEOUT_S = 30.0
# Clocks of authority and machine may differ by this much.
CLOCK_TOLERANCE_S = 300.0
MESSAGE_CHARACTERS = 300
ANSWER = "answer.tsr"
QUERY = "query.tsq"


class AuditTimeStamp(Record):
    """The answer of an authority, in base64, to the `checkpoint` of this digest, which covers `records` of a store.

    `at`: seconds since the epoch by the authority. `authority`: its URL.
    """

    kind: str = "archwright-audit-time-stamp"
    at: float
    store: str
    checkpoint: str
    records: int
    authority: str
    answer: str


_ENCODE = msgspec.json.Encoder().encode
_DECODER = msgspec.json.Decoder(AuditTimeStamp)


def request_time_stamp(checkpoint: AuditCheckpoint, authority: str, roots: Path) -> AuditTimeStamp:
    """Return the verified answer of the authority; `roots`: PEM file of the certificates that are trusted.

    Raises StoreError AW-STO-32 (no valid answer), MissingError AW-GET-16.
    """
    digest = digest_checkpoint(checkpoint)
    with TemporaryDirectory() as name:
        folder = Path(name)
        query = _run_openssl(folder, ["-query", "-digest", digest, "-sha256", "-cert"], authority)
        (folder / QUERY).write_bytes(query)
        try:
            reply = BlockingClient(TIMEOUT_S).send("POST", authority, headers=REQUEST_HEADERS, body=query)
        except NoReply as error:
            raise _stamp_error(str(error), authority) from error
        if reply.status != 200:
            raise _stamp_error(f"status {reply.status}", authority)
        (folder / ANSWER).write_bytes(reply.body)
        at = _verify_answer(folder, ["-queryfile", QUERY], roots, authority=authority)
    return AuditTimeStamp(
        at=at,
        store=checkpoint.store,
        checkpoint=digest,
        records=checkpoint.records,
        authority=authority,
        answer=base64.b64encode(reply.body).decode(),
    )


def stamp_newest_checkpoint(home: Home, store: Store, authority: str, *, authorities: str) -> AuditTimeStamp:
    """Get a stamp of the newest checkpoint of a store, and keep it in the home. Raises as `request_time_stamp`."""
    store_name = read_store_name(store)
    newest: AuditCheckpoint | None = None
    for checkpoint in read_checkpoints(home.audit_checkpoints):
        if checkpoint.store == store_name:
            newest = checkpoint
    if newest is None:
        raise _stamp_error("the log has no checkpoint", authority)
    stamp = request_time_stamp(newest, authority, Path(authorities))
    with open_private(home.folder("audit") / STAMPS_FILE, "ab+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        append_line(file, _ENCODE(stamp))
    return stamp


def read_time_stamp_lines(home: Home, store_name: str) -> Iterator[bytes]:
    """Yield the lines of the stamps of a store."""
    path = home.root / "audit" / STAMPS_FILE
    if not path.exists():
        return
    with open(path, "rb") as file:
        for line in file:
            with suppress(msgspec.MsgspecError):  # the part of a line that a killed process left
                if _DECODER.decode(line).store == store_name:
                    yield line.rstrip(b"\n")


def check_time_stamps(
    home: Home, store: Store, checkpoints: Iterable[AuditCheckpoint], *, authorities: str | None
) -> str:
    """Verify the stamps of a store, and return what they cover.

    `authorities`: PEM file of the roots; None: the stamps are only counted. Raises StoreError: AW-STO-32 a stamp is
    false, AW-STO-33 the home lost a stamped checkpoint, or its clock was wrong.
    """
    stamps = tuple(map(_DECODER.decode, read_time_stamp_lines(home, read_store_name(store))))
    if not stamps:
        return "none"
    if authorities is None:
        return f"{len(stamps)} not verified: pass --authorities FILE"
    by_digest = {digest_checkpoint(checkpoint): checkpoint for checkpoint in checkpoints}
    for stamp in stamps:
        _check_stamp(stamp, by_digest.get(stamp.checkpoint), Path(authorities))
    covered = max(stamp.records for stamp in stamps)
    return f"{len(stamps)} verified, up to record {covered:,}"


def _check_stamp(stamp: AuditTimeStamp, checkpoint: AuditCheckpoint | None, roots: Path) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / ANSWER).write_bytes(_decode_answer(stamp))
        at = _verify_answer(folder, ["-digest", stamp.checkpoint], roots, authority=stamp.authority)
    if checkpoint is None:
        message = f"the home lost a checkpoint of {stamp.records:,} records, which {stamp.authority} stamped"
        raise _lost_error(message, stamp.authority)
    if at < checkpoint.at - CLOCK_TOLERANCE_S:
        late_s = checkpoint.at - at
        message = f"a checkpoint states a time {late_s:,.0f} s after that of its stamp: the clock was wrong"
        raise _lost_error(message, stamp.authority)


def _decode_answer(stamp: AuditTimeStamp) -> bytes:
    try:
        return base64.b64decode(stamp.answer, validate=True)
    except ValueError as error:
        raise _stamp_error("the answer is no base64", stamp.authority) from error


def _verify_answer(folder: Path, subject: list[str], roots: Path, *, authority: str) -> float:
    """Verify the answer in the folder, and return its time.

    The certificates must be valid at the time of the stamp, since they end years before the log does.
    """
    text = _run_openssl(folder, ["-reply", "-in", ANSWER, "-text"], authority)
    at = _read_time(text.decode("utf-8", "replace"), authority)
    trust = ["-CAfile", str(roots.absolute()), "-attime", str(int(at))]
    _run_openssl(folder, ["-verify", *subject, "-in", ANSWER, *trust], authority)
    return at


def _read_time(text: str, authority: str) -> float:
    """Return the time of an answer in the form of openssl: `Time stamp: Dec  3 09:41:00.25 2026 GMT`."""
    for line in text.splitlines():
        name, _, value = line.partition(": ")
        if name.strip() == "Time stamp":
            month, day, clock, year, _zone = value.split()
            whole_seconds = clock.partition(".")[0]
            return float(timegm(strptime(f"{month} {day} {whole_seconds} {year}", "%b %d %H:%M:%S %Y")))
    raise _stamp_error("the answer has no time", authority)


def _run_openssl(folder: Path, arguments: Sequence[str], authority: str) -> bytes:
    command = ["openssl", "ts", *arguments]
    try:
        run = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    except FileNotFoundError as error:
        hint = "install openssl: apt-get install openssl"
        where = ErrorLocation(authority)
        raise MissingError("AW-GET-16", "the program openssl is not installed", where=where, hint=hint) from error
    if run.returncode:
        reasons = run.stderr.decode("utf-8", "replace").split()
        raise _stamp_error(" ".join(reasons), authority)
    return run.stdout


def _stamp_error(reason: str, authority: str) -> StoreError:
    message = f"no valid time stamp: {reason[:MESSAGE_CHARACTERS]}"
    hint = "check the URL of the authority, and that the file has its root certificate"
    return StoreError("AW-STO-32", message, where=ErrorLocation(authority), hint=hint)


def _lost_error(message: str, authority: str) -> StoreError:
    hint = "compare the home with a restored backup: archwright restore --into DIR"
    return StoreError("AW-STO-33", message, where=ErrorLocation(authority), hint=hint)
