"""How far a second place of the audit log is, as a file of the home states it.

`audit_delivery.outbox` moves the cursor after the place took a batch, and `log_retention` keeps the
records that a place lacks.
"""

import hashlib
from pathlib import Path

import msgspec

from archwright.access.record_chain import ChainState
from archwright.contract.record import Record
from archwright.home import Home


class DeliveryCursor(Record, forbid_unknown_fields=False):
    """How far the place `address` is for the store `store`.

    It has the `records` up to the block `seq` with the identity `block`, of which the last has the `digest`. It has
    the checkpoints in the first `checkpoint_bytes` of the home's file. `delivered_at`: time of the last batch.
    `failing_since`, `failure`: time of the first of the failures since then, and text of the last one.
    """

    address: str
    store: str
    seq: int = 0
    records: int = 0
    digest: str = ""
    block: str = ""
    checkpoint_bytes: int = 0
    delivered_at: float = 0.0
    failing_since: float = 0.0
    failure: str = ""

    @property
    def state(self) -> ChainState:
        return ChainState(self.seq, self.records, self.digest)


_CURSOR_DECODER = msgspec.json.Decoder(DeliveryCursor)


def locate_cursor(home: Home, store_name: str, address: str) -> Path:
    location = address.partition("?")[0]  # other options of a place send nothing again
    name = hashlib.sha256(f"{store_name} {location}".encode()).hexdigest()[:16]
    return home.root / "audit" / "outbox" / f"{name}.json"


def read_cursor(path: Path) -> DeliveryCursor | None:
    """Return the cursor of a file; None without one, and for a damaged file, after which all is sent again."""
    try:
        return _CURSOR_DECODER.decode(path.read_bytes())
    except (FileNotFoundError, msgspec.MsgspecError):
        return None
