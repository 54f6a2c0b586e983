"""Drop near duplicates: rows whose sets of word 5-grams have at least a given Jaccard similarity.

1. A survey computes a MinHash sketch of each row (one-permutation hashing; bins that stay empty are filled by further
   rounds of hashing: Dahlgaard, Knudsen, Thorup, "Fast Similarity Sketching", FOCS 2017), and a key per band of bins.
2. Rows that share a band, and whose sketches agree enough, are candidates. A second survey collects their shingles.
3. Candidates are verified by exact Jaccard similarity. Verified pairs connect rows to groups; each group keeps its
   first row by source file and source row.

Design: the result depends on the rows alone, not on the order of parts, the size of batches or the number of workers.
Rows with the same shingles equally often are one row in the steps 2 and 3. A row without a word is never a duplicate.
Memory of `decide`: 176 + 4 x bands bytes per row (276 at 0.8), and 8 bytes per shingle of the candidates.
"""

import itertools
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, NamedTuple

import msgspec

from archwright.lake.lazy_modules import np, pa
from archwright.lake.steps.row_decisions import (
    drop_decided,
    find_ids,
    id_column,
    identify_rows,
    join_surveys,
    make_decision,
    make_survey,
    rank_rows,
    view_ids,
)
from archwright.lake.steps.shingles import LETTER_BASE, Shingles, hash_shingles, join_texts, mix_bits
from archwright.lake.steps.step import Rows, StepContext
from archwright.lake.steps.text_columns import TextStep

WIDTH = 5  # words of a shingle
BINS = 128
ROUNDS = 12  # of hashing to fill the bins; bins that stay empty take the least hash of all shingles
HASH_BITS = 27
HASH_MASK, EMPTY = (1 << HASH_BITS) - 1, 0xFFFFFFFF
MISSED = 0.0005  # greatest share of pairs of the threshold's similarity that have no band in common
NEIGHBOURS = 100  # rows of a bucket that a row is compared with: bounds the work for boilerplate
SKETCH_ERRORS = 4  # standard errors by which the sketches of candidates may agree less than the threshold
PAIRS_AT_ONCE = 1 << 16


class DropNearDuplicates(TextStep):
    """Drop rows whose texts have at least the `similarity` (Jaccard of word 5-grams) to another row."""

    similarity: Annotated[float, msgspec.Meta(ge=0.5, le=1)] = 0.8
    survey_count: ClassVar[int] = 2

    def survey_rows(self, number: int, rows: Rows, decision: Any) -> Any:
        full = (batch for batch in rows if batch.num_rows)
        if number == 0:
            return make_survey(self._sketch_batch(batch) for batch in full)
        candidates = decision.filter(decision.column("verify")) if len(decision) else decision
        return make_survey(self._collect_shingles(batch, candidates) for batch in full if len(candidates))

    def decide(self, number: int, surveys: Iterator[Any], decision: Any) -> Any:
        survey = join_surveys(surveys)
        if number == 0:
            return _find_candidates(survey, self.similarity) if len(survey) else survey
        return _Groups(decision, survey, self.similarity).decide() if len(decision) else decision

    def process_rows(self, rows: Rows, context: StepContext) -> Rows:
        return drop_decided(rows, context, self._choose_reason)

    def _choose_reason(self, similarity: float | None) -> str:
        direct = similarity is not None and similarity >= self.similarity
        return f"near duplicate (Jaccard {self.similarity:g} or more{'' if direct else ', by way of other rows'})"

    def _sketch_batch(self, batch: Any) -> dict[str, Any]:
        bands, rows = choose_bands(self.similarity)
        made = [
            (*_summarise_shingles(found), *_band_sketch(sketch_shingles(found), bands, rows))
            for found in hash_shingles(join_texts(batch, self.columns), WIDTH)
        ]
        digest, count, keys, sketches = (np.concatenate(parts) for parts in zip(*made, strict=True))
        return {
            **identify_rows(batch),
            "digest": pa.array(digest),
            "count": pa.array(count),
            "bands": pa.FixedSizeListArray.from_arrays(pa.array(keys.ravel()), bands),
            "sketch": pa.FixedSizeBinaryArray.from_buffers(pa.binary(BINS), len(batch), [None, pa.py_buffer(sketches)]),
        }

    def _collect_shingles(self, batch: Any, candidates: Any) -> dict[str, Any]:
        found, _ = find_ids(view_ids(candidates.column("record_id")), view_ids(id_column(batch)))
        chosen = batch.filter(pa.array(found))
        sets = [
            np.unique(part.hashes[start:end])
            for part in hash_shingles(join_texts(chosen, self.columns), WIDTH)
            for start, end in itertools.pairwise(part.offsets)
        ]
        offsets = np.cumsum([0, *map(len, sets)])
        values = pa.array(np.concatenate([np.zeros(0, np.uint64), *sets]))
        lists = pa.LargeListArray.from_arrays(pa.array(offsets), values)
        return {"record_id": id_column(chosen), "shingles": lists}


def choose_bands(similarity: float) -> tuple[int, int]:
    """(bands, bins per band): the longest bands that at most `MISSED` of pairs of this similarity have none of."""
    fitting = [rows for rows in range(1, 17) if (1 - similarity**rows) ** (BINS // rows) <= MISSED]
    return BINS // max(fitting), max(fitting)


def sketch_shingles(found: Shingles) -> Any:
    """The MinHash of each row: uint32 in `BINS` bins, the greatest number in those of a row without a shingle.

    The turn stands above the bits of the hash, so a later turn fills only bins that are empty.
    """
    counts = np.diff(found.offsets)
    bins = np.full((len(counts), BINS), EMPTY, np.uint32)
    hashes, owners = found.hashes, np.repeat(np.arange(len(counts)), counts)
    for turn in range(ROUNDS):
        values = (hashes & np.uint64(HASH_MASK)).astype(np.uint32) | np.uint32(turn << HASH_BITS)
        np.minimum.at(bins.reshape(-1), owners * BINS + (hashes >> np.uint64(57)).astype(np.int64), values)
        again = (bins == EMPTY).any(axis=1)[owners]
        if not again.any():
            return bins
        hashes, owners = mix_bits(hashes[again] + np.uint64(LETTER_BASE)), owners[again]
    order = np.lexsort((hashes, owners))  # a text may repeat one shingle a million times
    hashes, owners = hashes[order], owners[order]
    new = np.flatnonzero((np.diff(hashes, prepend=~hashes[:1]) != 0) | (np.diff(owners, prepend=-1) != 0))
    hashes, owners = hashes[new], owners[new]
    rows, starts = np.unique(owners, return_index=True)
    steps = np.arange(1, BINS + 1, dtype=np.uint64) * np.uint64(LETTER_BASE)
    least = np.minimum.reduceat(mix_bits(hashes[:, None] + steps) >> np.uint64(64 - HASH_BITS), starts)
    bins[rows] = np.minimum(bins[rows], least.astype(np.uint32) | np.uint32(ROUNDS << HASH_BITS))
    return bins


def _summarise_shingles(found: Shingles) -> tuple[Any, Any]:
    """Per row: a digest of its shingles with their counts, and how many they are."""
    counts = np.diff(found.offsets)
    sums = np.zeros(len(found.hashes) + 1, np.uint64)
    np.cumsum(mix_bits(found.hashes.copy()), out=sums[1:])
    return sums[found.offsets[1:]] - sums[found.offsets[:-1]], counts.astype(np.uint32)


def _band_sketch(bins: Any, bands: int, rows: int) -> tuple[Any, Any]:
    """A 32-bit key per band of bins, and the low 8 bits of each bin (Li, Koenig, "b-Bit Minwise Hashing", 2010)."""
    values = bins[:, : bands * rows].reshape(len(bins), bands, rows).astype(np.uint64)
    keys = values[:, :, 0]
    for place in range(1, rows):
        keys = mix_bits(keys * np.uint64(3) + values[:, :, place])
    return (mix_bits(keys.copy()) >> np.uint64(32)).astype(np.uint32), bins.astype(np.uint8)


class _Pairs(NamedTuple):
    """Pairs of rows, and in how many bins their sketches agree."""

    left: Any
    right: Any
    agreement: Any


def _find_candidates(survey: Any, similarity: float) -> Any:
    """A table of all rows that have an identical row or a candidate; `partners` are places in the table."""
    ranks = rank_rows(survey)
    digest, count = (survey.column(name).to_numpy() for name in ("digest", "count"))
    order = np.lexsort((ranks, digest, count))
    order = order[count[order] > 0]
    again = np.zeros(len(order), bool)
    again[1:] = (digest[order[1:]] == digest[order[:-1]]) & (count[order[1:]] == count[order[:-1]])
    firsts = order[np.maximum.accumulate(np.where(again, 0, np.arange(len(order))))] if len(order) else order
    twins = np.full(len(ranks), -1, np.int64)
    twins[order[again]] = firsts[again]
    pairs = _pair_rows(survey, np.sort(order[~again]), ranks, similarity)
    chosen = np.unique(np.concatenate((order[again], firsts[again], pairs.left, pairs.right)))
    ids = view_ids(survey.column("record_id"))[chosen]
    chosen = chosen[np.argsort(ids)]
    places = np.full(len(ranks) + 1, -1, np.int64)  # the last one is that of -1
    places[chosen] = np.arange(len(chosen))
    left, right = places[pairs.left], places[pairs.right]
    by_left = np.lexsort((right, left))
    offsets = pa.array(np.searchsorted(left[by_left], np.arange(len(chosen) + 1)))
    lists = (pa.array(values[by_left]) for values in (right, pairs.agreement))
    partners, agreement = (pa.LargeListArray.from_arrays(offsets, values) for values in lists)
    columns = {
        "record_id": survey.column("record_id").take(pa.array(chosen)),
        "rank": pa.array(ranks[chosen]),
        "twin": pa.array(places[twins[chosen]]),
        "verify": pa.array(np.isin(np.arange(len(chosen)), np.concatenate((left, right)))),
        "partners": partners,
        "agreement": agreement,
    }
    return pa.table(columns)


def _pair_rows(survey: Any, rows: Any, ranks: Any, similarity: float) -> _Pairs:
    """Candidates among the `rows`: in each band's bucket each row with its `NEIGHBOURS` next ones.

    A bucket is sorted by the next band, so in a large bucket the neighbours are rows that share two bands.
    """
    least = BINS * (similarity - SKETCH_ERRORS * (similarity * (1 - similarity) / BINS) ** 0.5)
    bands = survey.schema.field("bands").type.list_size
    stored = [chunk.flatten().to_numpy().reshape(-1, bands) for chunk in survey.column("bands").chunks]
    keys = [np.concatenate([part[:, band] for part in stored])[rows] for band in range(bands)]
    sketches = np.concatenate([view_sketches(chunk) for chunk in survey.column("sketch").chunks])
    found = [np.zeros((0, 3), np.int64)]
    for band in range(bands):
        order = np.lexsort((ranks[rows], keys[(band + 1) % bands], keys[band]))
        sorted_keys, members = keys[band][order], rows[order]
        starts = np.arange(len(members))
        for distance in range(1, NEIGHBOURS + 1):
            starts = starts[: np.searchsorted(starts, len(members) - distance)]
            starts = starts[sorted_keys[starts] == sorted_keys[starts + distance]]
            if not len(starts):
                break
            for first in range(0, len(starts), PAIRS_AT_ONCE):
                some = starts[first : first + PAIRS_AT_ONCE]
                left, right = members[some], members[some + distance]
                agreement = np.count_nonzero(sketches[left] == sketches[right], axis=1)
                near = agreement >= least
                found.append(np.stack((left[near], right[near], agreement[near]), axis=1))
    pairs = np.concatenate(found)
    pairs[:, :2].sort(axis=1)
    _, unique = np.unique(pairs[:, 0] * len(ranks) + pairs[:, 1], return_index=True)
    return _Pairs(*pairs[unique].T)


def view_sketches(chunk: Any) -> Any:
    """A column of sketches as rows of bytes."""
    raw = np.frombuffer(chunk.buffers()[1], np.uint8).reshape(-1, BINS)
    return raw[chunk.offset : chunk.offset + len(chunk)]


class _Groups:
    """The rows of a table of candidates, connected by verified pairs."""

    def __init__(self, candidates: Any, survey: Any, similarity: float) -> None:
        self._similarity = similarity
        self._candidates = candidates
        self._parents = list(range(len(candidates)))
        self._ranks = candidates.column("rank").to_numpy()
        self._twins = candidates.column("twin").to_numpy()
        self._shingles: dict[int, Any] = {}
        if len(survey):
            _, places = find_ids(view_ids(candidates.column("record_id")), view_ids(survey.column("record_id")))
            lists = (row for chunk in survey.column("shingles").chunks for row in _view_lists(chunk))
            self._shingles = dict(zip(places.tolist(), lists, strict=True))

    def decide(self) -> Any:
        """The table of dropped rows, sorted by record id, with the row that stays and the similarity to it."""
        self._connect()
        roots = np.array([self._find_root(place) for place in range(len(self._parents))], np.int64)
        order = np.lexsort((self._ranks, roots))
        starts = np.ones(len(order), bool)
        starts[1:] = roots[order[1:]] != roots[order[:-1]]
        first = np.empty(len(order), np.int64)
        first[order] = order[np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))]
        dropped = np.flatnonzero(first != np.arange(len(order)))
        similarity = list(map(self._compare, dropped.tolist(), first[dropped].tolist()))
        return make_decision(self._candidates.column("record_id"), dropped, first[dropped], np.array(similarity))

    def _connect(self) -> None:
        """Union of the verified pairs. The likeliest pairs come first, since pairs of one group are not compared."""
        for place in np.flatnonzero(self._twins >= 0).tolist():
            self._parents[place] = int(self._twins[place])
        partners = self._candidates.column("partners")
        counts = partners.combine_chunks().value_lengths().to_numpy() if len(partners) else np.zeros(0, np.int64)
        left = np.repeat(np.arange(len(counts)), counts)
        right = np.concatenate([np.zeros(0, np.int64), *(chunk.flatten().to_numpy() for chunk in partners.chunks)])
        agreements = [chunk.flatten().to_numpy() for chunk in self._candidates.column("agreement").chunks]
        agreement = np.concatenate([np.zeros(0, np.int64), *agreements])
        pair_ranks = np.sort(np.stack((self._ranks[left], self._ranks[right])), axis=0)
        for pair in np.lexsort((pair_ranks[1], pair_ranks[0], -agreement)).tolist():
            one, other = self._find_root(int(left[pair])), self._find_root(int(right[pair]))
            if one != other and self._compare(int(left[pair]), int(right[pair])) >= self._similarity:
                self._parents[max(one, other)] = min(one, other)

    def _find_root(self, place: int) -> int:
        parents = self._parents
        while parents[place] != place:
            parents[place] = place = parents[parents[place]]
        return place

    def _compare(self, place: int, other: int) -> float:
        """The Jaccard similarity of two rows of which each has shingles, or a twin that has."""
        one, two = (int(self._twins[row]) if self._twins[row] >= 0 else row for row in (place, other))
        if one == two:
            return 1.0
        left, right = self._shingles[one], self._shingles[two]
        both = np.concatenate((left, right))
        both.sort(kind="stable")  # merges two sorted runs in linear time
        shared = int(np.count_nonzero(both[1:] == both[:-1]))
        return shared / (len(both) - shared)


def _view_lists(chunk: Any) -> Iterator[Any]:
    values, offsets = chunk.values.to_numpy(), chunk.offsets.to_numpy().tolist()
    return (values[start:end] for start, end in itertools.pairwise(offsets))
