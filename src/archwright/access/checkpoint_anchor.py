"""The number and digest of a home's newest checkpoint, kept in the database that the checkpoint
covers.

The file of checkpoints cannot show that its last lines were cut. The database has one signed row
for each home, which is replaced by each checkpoint, so no older row is left that an attacker could
put back. The home's key signs it.
"""

from collections.abc import Mapping

import msgspec

from archwright.contract.record import Record, replace
from archwright.crypto.signing import SigningKey, is_signed_by
from archwright.store import RecordTable, Store


class CheckpointAnchor(Record):
    """The newest checkpoint of the home with the key `public_key`: its `number` and `digest`."""

    kind: str = "archwright-checkpoint-anchor"
    public_key: str
    number: int
    digest: str
    signature: str = ""


ANCHORS = RecordTable("checkpoint_anchors", CheckpointAnchor, index=("public_key",))
_ENCODE = msgspec.json.Encoder().encode


def anchor_checkpoint(
    store: Store,
    key: SigningKey,
    number: int,
    *,
    digests: Mapping[int, str],
) -> None:
    """Keep the checkpoint `number` as the newest one. Raises StoreError.

    `digests`: of the home's last checkpoints. An anchor that none of these matches stays: it proves
    that checkpoints were lost.
    """
    present_anchors = store.rows(ANCHORS, {"public_key": key.public_key})
    for anchor in present_anchors:
        if digests.get(anchor.number) != anchor.digest or anchor.number == number:
            return

    unsigned = CheckpointAnchor(public_key=key.public_key, number=number, digest=digests[number])
    signature = key.sign(_ENCODE(unsigned))
    store.append(ANCHORS, [replace(unsigned, signature=signature)])
    for anchor in present_anchors:
        store.remove(ANCHORS, {"public_key": anchor.public_key, "number": anchor.number})


def read_anchors(store: Store) -> tuple[CheckpointAnchor, ...]:
    return tuple(store.rows(ANCHORS))


def is_anchor_of(anchor: CheckpointAnchor, public_key: str) -> bool:
    """True if the owner of the key signed the anchor."""
    unsigned = _ENCODE(replace(anchor, signature=""))
    return anchor.public_key == public_key and is_signed_by(public_key, unsigned, anchor.signature)
