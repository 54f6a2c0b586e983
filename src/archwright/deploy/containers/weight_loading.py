"""How the replicas of a pool read their weights, and how long that may take, from the storage that holds them.

Let n readers read w bytes each from storage that gives B bytes/s in all, and b to one of them:

    alone = w / min(b, B)          together = max(alone, n w / B)

All replicas start at once after a change of the model and when a site comes up, so `together` bounds a start. The rates
are the low ends of weight_storage.csv: a probe that is too short ends engines that work, and they begin again for ever.
If reading together takes long and machines have disks, each replica first copies its weights to its own disk, as many
at a time as the storage serves at full speed (`archwright.engines.weight_cache`).
"""

import csv
import functools
import math
from pathlib import Path

import msgspec

from archwright.contract.record import Record

GIB = 2**30
# A start that waits longer for the shared storage copies the weights to the machine's own disk.
LONGEST_SHARED_READ_S = 300.0
# A folder for a copy has this multiple of the weights: a draft model lies beside them.
COPY_SHARE = 1.25
ANY_PLACE = "*"


class WeightStorage(Record):
    """A row of weight_storage.csv. `bytes_per_s`: to all readers, with `bytes_per_s_per_gib` for each GiB bought, of
    which there are at least `smallest_gib`; `reader_bytes_per_s`: to one. `local_disk`: pods have folders on a fast
    disk of their machine.
    """

    place: str
    storage: str
    bytes_per_s: float
    bytes_per_s_per_gib: float
    most_bytes_per_s: float
    smallest_gib: float
    reader_bytes_per_s: float
    local_disk: str
    source: str
    as_of: str
    confidence: str

    def compute_rate(self, volume_bytes: int) -> float:
        """Return the bytes/s that a volume of this size gives to all its readers together."""
        size_gib = max(self.smallest_gib, volume_bytes / GIB)
        return min(self.most_bytes_per_s, self.bytes_per_s + self.bytes_per_s_per_gib * size_gib)


class WeightLoading(Record):
    """`readers` replicas, or machines of replicas, read `weight_bytes` each from `storage`, which gives `rate` bytes/s.

    `alone_s`: a single reader; `together_s`: the last of all readers that start at once. `is_cached`: the weights are
    copied to the machine's disk first, `slots` machines at a time.
    """

    storage: str
    rate: float
    readers: int
    weight_bytes: int
    alone_s: float
    together_s: float
    is_cached: bool
    slots: int

    @property
    def copy_bytes(self) -> int:
        return math.ceil(COPY_SHARE * self.weight_bytes)


@functools.cache
def read_weight_storage() -> dict[str, WeightStorage]:
    """Return the rows by place."""
    with Path(__file__).with_name("weight_storage.csv").open(encoding="utf-8", newline="") as file:
        rows = msgspec.convert(list(csv.DictReader(file)), tuple[WeightStorage, ...], strict=False)
    return {row.place: row for row in rows}


def plan_weight_loading(
    place: str, *, readers: int, weight_bytes: int, volume_bytes: int, disk_bytes: int | None
) -> WeightLoading:
    """Return how `readers` load their weights at a place. `disk_bytes`: room on a machine's own disks for each reader,
    None if the plan does not know them, as for machines that a user owns.
    """
    rows = read_weight_storage()
    storage = rows.get(place, rows[ANY_PLACE])
    rate = storage.compute_rate(volume_bytes)
    alone_rate = min(rate, storage.reader_bytes_per_s)
    alone_s = weight_bytes / alone_rate
    together_s = max(alone_s, readers * weight_bytes / rate)
    has_room = disk_bytes is None or disk_bytes >= COPY_SHARE * weight_bytes
    is_slow = readers > 1 and together_s > LONGEST_SHARED_READ_S
    return WeightLoading(
        storage=storage.storage,
        rate=rate,
        readers=readers,
        weight_bytes=weight_bytes,
        alone_s=alone_s,
        together_s=together_s,
        is_cached=is_slow and storage.local_disk == "yes" and has_room,
        slots=max(1, min(readers, math.floor(rate / alone_rate))),
    )
