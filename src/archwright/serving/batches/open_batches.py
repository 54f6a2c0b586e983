"""The batches of a home that are not done, and the gateways that run them.

OPEN_FOLDER has a file for each, named after the batch; its lock belongs to the process that runs the batch. Several
gateways may share a home. The gateway that accepted a batch runs it, since the others may have other models, prices and
residencies. If that gateway has ended, for example to start again at another port, one that has the model runs it.
"""

import fcntl
from contextlib import suppress
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

import msgspec

from archwright.contract.record import Record
from archwright.home import Home, open_private

OPEN_FOLDER = "_open"  # no tenant has this name
FIRST_LINE_BYTES = 32 << 20


class OpenBatch(Record):
    """`port`: of the gateway that accepted the batch; `model`: of its first line, empty if that cannot be read."""

    tenant: str
    port: int
    model: str
    expires_at: int


class InputLine(msgspec.Struct, frozen=True, gc=False):
    """One request of an input file."""

    custom_id: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    method: Literal["POST"]
    url: str
    body: msgspec.Raw


class BodyFields(msgspec.Struct, frozen=True, gc=False):
    model: str
    stream: bool | None = None


decode_line = msgspec.json.Decoder(InputLine).decode
decode_fields = msgspec.json.Decoder(BodyFields).decode


def read_model(path: Path) -> str:
    """Return the model of the first line of an input file; empty if the line is no request."""
    with path.open("rb") as file, suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return decode_fields(decode_line(file.readline(FIRST_LINE_BYTES)).body).model
    return ""


def list_open_batches(home: Home) -> list[tuple[str, OpenBatch]]:
    """Return the ids and batches, oldest first."""
    found = []
    for path in sorted((home.batches / OPEN_FOLDER).glob("batch_*")):
        with suppress(FileNotFoundError, msgspec.MsgspecError):  # it was done meanwhile, or is damaged
            found.append((path.name, msgspec.json.decode(path.read_bytes(), type=OpenBatch)))
    return found


def mark_gateway(home: Home, port: int) -> BinaryIO:
    """Return a file that shows, while it is open, that the gateway runs."""
    file = open_private(home.folder("run") / f"batches-{port}.lock", "ab")
    fcntl.flock(file, fcntl.LOCK_SH)
    return file


def is_gateway_running(home: Home, port: int) -> bool:
    with suppress(FileNotFoundError), open(home.folder("run") / f"batches-{port}.lock", "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
