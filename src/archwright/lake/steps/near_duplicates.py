"""Drop near duplicates: rows whose sets of word 5-grams have at least a given Jaccard similarity.

1. A survey computes a MinHash sketch of each row, and a key per band of its bins. One hash serves all bins; empty bins
   are filled in further rounds (Dahlgaard, Knudsen, Thorup, "Fast Similarity Sketching", FOCS 2017).
2. Rows that share a band, and whose sketches agree enough, are candidates. A second survey collects their shingles.
3. Candidates are verified by exact Jaccard similarity. Verified pairs connect rows to groups; each group keeps its
   first row by source file and source row.

Design: the result depends on the rows alone, not on the order of parts, the size of batches or the number of workers.
Rows with the same shingles, equally often, are one row for steps 2 and 3. A row without a word is never a duplicate.
Memory of `decide`: 650 bytes per row (272 of them pages of the mapped surveys), 100 bytes per pair of candidates while
they are listed and 9 afterwards, and 8 bytes per shingle of a candidate (pages of the mapped surveys).
"""

import itertools
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

import msgspec

from archwright.lake.lazy_modules import np, pa
from archwright.lake.steps import row_decisions
from archwright.lake.steps.row_decisions import view_ids
from archwright.lake.steps.shingles import LETTER_BASE, Shingles, hash_shingles, join_texts, mix_bits, sort_unique
from archwright.lake.steps.step import Rows, StepContext
from archwright.lake.steps.text_columns import TextStep

WIDTH = 5  # words of a shingle
BINS = 128
ROUNDS = 12  # of hashing to fill the bins; bins that stay empty take the least hash of all shingles
HASH_BITS = 27  # of a bin; the number of the round stands above them
EMPTY = 0xFFFFFFFF
MISSED = 0.0005  # greatest share of pairs of the threshold's similarity that have no band in common
NEIGHBOURS = 100  # rows of a bucket that a row is compared with: bounds the work for boilerplate
SKETCH_ERRORS = 4  # standard errors by which the sketches of candidates may agree less than the threshold
PAIRS_AT_ONCE = 1 << 16
IDENTICAL = BINS + 1  # the agreement of rows with the same shingles


class DropNearDuplicates(TextStep):
    """Drop rows whose texts have at least the `similarity` (Jaccard of word 5-grams) to another row."""

    similarity: Annotated[float, msgspec.Meta(ge=0.5, le=1)] = 0.8
    survey_count: ClassVar[int] = 2

    def survey_rows(self, number: int, rows: Rows, decision: Any) -> Any:
        full = (batch for batch in rows if batch.num_rows)
        if number == 0:
            return row_decisions.make_survey(map(self._sketch_rows, full))
        candidates = _list_candidates(decision) if len(decision) else ()
        return row_decisions.make_survey(self._collect_shingles(batch, candidates) for batch in full if len(candidates))

    def decide(self, number: int, surveys: Iterator[Any], decision: Any) -> Any:
        """First the pairs of candidates, then the rows to drop."""
        survey = row_decisions.join_surveys(surveys)
        if number == 0:
            return _find_pairs(survey, self.similarity) if len(survey) else survey
        return _group_rows(decision, survey, self.similarity) if len(decision) else decision

    def process_rows(self, rows: Rows, context: StepContext) -> Rows:
        direct = f"near duplicate (Jaccard {self.similarity:g} or more"
        return row_decisions.drop_decided(
            rows, context, lambda share: direct + (")" if share >= self.similarity else ", by way of other rows)")
        )

    def _sketch_rows(self, batch: Any) -> dict[str, Any]:
        bands, rows = choose_bands(self.similarity)
        made = [_sketch_texts(found, bands, rows) for found in hash_shingles(join_texts(batch, self.columns), WIDTH)]
        digest, count, keys, sketches = (np.concatenate(parts) for parts in zip(*made, strict=True))
        return {
            **row_decisions.identify_rows(batch),
            "digest": pa.array(digest),
            "count": pa.array(count),
            "bands": pa.FixedSizeListArray.from_arrays(pa.array(keys.ravel()), bands),
            "sketch": pa.FixedSizeListArray.from_arrays(pa.array(sketches.ravel()), BINS),
        }

    def _collect_shingles(self, batch: Any, candidates: Any) -> dict[str, Any]:
        ids = batch.column("record_id")
        found = pa.array(row_decisions.find_ids(candidates, view_ids(ids))[0])
        sets = [
            sort_unique(part.hashes[start:end])
            for part in hash_shingles(join_texts(batch.filter(found), self.columns), WIDTH)
            for start, end in itertools.pairwise(part.offsets)
        ]
        values = pa.array(np.concatenate([np.zeros(0, np.uint64), *sets]))
        lists = pa.LargeListArray.from_arrays(pa.array(np.cumsum([0, *map(len, sets)])), values)
        return {"record_id": ids.filter(found), "shingles": lists}


def choose_bands(similarity: float) -> tuple[int, int]:
    """(bands, bins per band): the longest bands of which at most `MISSED` of pairs of this similarity share none."""
    fitting = [rows for rows in range(1, 17) if (1 - similarity**rows) ** (BINS // rows) <= MISSED]
    return BINS // max(fitting), max(fitting)


def _sketch_texts(found: Shingles, bands: int, rows: int) -> tuple[Any, Any, Any, Any]:
    """Per text: a digest of its shingles and their number, a key per band of bins, and the low 8 bits of each bin.

    The 8 bits estimate the similarity as well as whole hashes do (Li, Koenig, "b-Bit Minwise Hashing", 2010).
    """
    sums = np.zeros(len(found.hashes) + 1, np.uint64)
    np.cumsum(mix_bits(found.hashes.copy()), out=sums[1:])
    bins = _fill_bins(found)
    values = bins[:, : bands * rows].reshape(len(bins), bands, rows).astype(np.uint64)
    keys = values[:, :, 0]
    for place in range(1, rows):
        keys = mix_bits(keys * np.uint64(3) + values[:, :, place])
    return (
        np.diff(sums[found.offsets]),
        np.diff(found.offsets),
        (keys >> np.uint64(32)).astype(np.uint32),
        bins.astype(np.uint8),
    )


def _fill_bins(found: Shingles) -> Any:
    """The least hash in each of `BINS` bins of each text; `EMPTY` for a text without shingles."""
    counts = np.diff(found.offsets)
    bins = np.full((len(counts), BINS), EMPTY, np.uint32)
    hashes, owners = found.hashes, np.repeat(np.arange(len(counts)), counts)
    for number in range(ROUNDS):
        # The number stands above the hash, so a round fills only bins that are empty.
        values = (hashes & np.uint64((1 << HASH_BITS) - 1)).astype(np.uint32) | np.uint32(number << HASH_BITS)
        np.minimum.at(bins.reshape(-1), owners * BINS + (hashes >> np.uint64(57)).astype(np.int64), values)
        again = (bins == EMPTY).any(axis=1)[owners]
        if not again.any():
            return bins
        hashes, owners = mix_bits(hashes[again] + np.uint64(LETTER_BASE)), owners[again]
    order = np.lexsort((hashes, owners))
    new, _ = row_decisions.mark_first(order, hashes, owners)  # a text may repeat one shingle a million times
    hashes, owners = hashes[order[new]], owners[order[new]]
    texts, starts = np.unique(owners, return_index=True)
    steps = np.arange(1, BINS + 1, dtype=np.uint64) * np.uint64(LETTER_BASE)
    least = np.minimum.reduceat(mix_bits(hashes[:, None] + steps) >> np.uint64(64 - HASH_BITS), starts)
    bins[texts] = np.minimum(bins[texts], least.astype(np.uint32) | np.uint32(ROUNDS << HASH_BITS))
    return bins


def _find_pairs(survey: Any, similarity: float) -> Any:
    """Pairs of rows with the same shingles and pairs of candidates, in a table of one row with lists.

    `ids` are the rows of all pairs in order; `left` and `right` are places there.
    """
    ranks = row_decisions.rank_rows(survey)
    digest, count = (survey.column(name).to_numpy() for name in ("digest", "count"))
    order = np.lexsort((ranks, digest, count))
    order = order[count[order] > 0]
    new, firsts = row_decisions.mark_first(order, digest, count)
    same = np.stack((firsts[~new], order[~new], np.full(np.count_nonzero(~new), IDENTICAL)), axis=1)
    pairs = np.concatenate((same, _pair_rows(survey, order[new], ranks, similarity)))
    _, rows, places = np.unique(ranks[pairs[:, :2]], return_index=True, return_inverse=True)
    left, right = np.sort(places.reshape(-1, 2), axis=1).T.astype(np.uint32)
    ids = row_decisions.make_ids(view_ids(survey.column("record_id"))[pairs[:, :2].ravel()[rows]])
    columns = {"ids": ids, "left": left, "right": right, "agreement": pairs[:, 2].astype(np.uint8)}
    return pa.table({name: pa.LargeListArray.from_arrays([0, len(part)], part) for name, part in columns.items()})


def _pair_rows(survey: Any, rows: Any, ranks: Any, similarity: float) -> Any:
    """Candidates among the `rows` (left, right, agreement): each row with its next ones in the bucket of a band.

    A bucket is sorted by the next band, so in a large bucket the neighbours are rows that share two bands.
    """
    least = BINS * (similarity - SKETCH_ERRORS * (similarity * (1 - similarity) / BINS) ** 0.5)
    stored, sketches = (_stack_lists(survey.column(name)) for name in ("bands", "sketch"))
    packed = np.zeros(0, np.int64)  # pairs with their agreement, each once
    bands = stored.shape[1]
    for band in range(bands):
        keys = stored[rows, band]
        order = np.lexsort((ranks[rows], stored[rows, (band + 1) % bands], keys))
        keys, members = keys[order], rows[order]
        starts, found = np.arange(len(members)), [packed]
        for distance in range(1, NEIGHBOURS + 1):
            starts = starts[starts + distance < len(members)]
            starts = starts[keys[starts] == keys[starts + distance]]
            for some in np.split(starts, range(PAIRS_AT_ONCE, len(starts), PAIRS_AT_ONCE)):
                left, right = members[some], members[some + distance]
                agreement = np.count_nonzero(sketches[left] == sketches[right], axis=1)
                pairs = np.minimum(left, right) * len(ranks) + np.maximum(left, right)
                found.append((pairs * (BINS + 1) + agreement)[agreement >= least])
        packed = sort_unique(np.concatenate(found))
    pairs, agreement = np.divmod(packed, BINS + 1)
    return np.stack((*np.divmod(pairs, len(ranks)), agreement), axis=1)


def _stack_lists(column: Any) -> Any:
    """A column of lists of one length as an array of two dimensions."""
    return np.concatenate([chunk.flatten().to_numpy().reshape(len(chunk), -1) for chunk in column.chunks])


def _read_pairs(decision: Any) -> tuple[Any, Any, Any, Any]:
    """The lists of `_find_pairs`."""
    ids, *numbers = (decision.column(name)[0].values for name in ("ids", "left", "right", "agreement"))
    left, right, agreement = (values.to_numpy() for values in numbers)
    return view_ids(ids), left, right, agreement


def _list_candidates(decision: Any) -> Any:
    ids, left, right, agreement = _read_pairs(decision)
    return np.sort(ids[sort_unique(np.stack((left, right))[:, agreement < IDENTICAL].ravel())])


def _group_rows(decision: Any, survey: Any, similarity: float) -> Any:
    """Verify the pairs and connect their rows. The likeliest come first: pairs within a group are not compared."""
    ids, left, right, agreement = _read_pairs(decision)
    shingles: list[Any] = [None] * len(ids)
    order = np.argsort(ids)
    for chunk in survey.to_batches() if survey.num_columns else ():
        rows = order[np.searchsorted(ids, view_ids(chunk.column("record_id")), sorter=order)]
        lists, values = chunk.column("shingles"), chunk.column("shingles").values.to_numpy()
        for row, (start, end) in zip(rows.tolist(), itertools.pairwise(lists.offsets.to_numpy()), strict=True):
            shingles[row] = values[start:end]
    parents = list(range(len(ids)))

    def find_first(row: int) -> int:
        while parents[row] != row:
            parents[row] = row = parents[parents[row]]
        return row

    for pair in np.lexsort((right, left, ~agreement)).tolist():
        row, other = int(left[pair]), int(right[pair])
        one, two = find_first(row), find_first(other)
        if agreement[pair] == IDENTICAL:
            shingles[other] = shingles[row]
        if one != two and _compute_jaccard(shingles[row], shingles[other]) >= similarity:
            parents[max(one, two)] = min(one, two)
    kept = np.array([find_first(row) for row in range(len(ids))], np.int64)
    dropped = np.flatnonzero(kept != np.arange(len(ids)))
    shares = [_compute_jaccard(shingles[row], shingles[kept[row]]) for row in dropped.tolist()]
    return row_decisions.make_decision(ids, dropped, kept[dropped], np.array(shares))


def _compute_jaccard(left: Any, right: Any) -> float:
    if left is right:
        return 1.0
    both = np.concatenate((left, right))
    both.sort(kind="stable")  # merges two sorted arrays in linear time
    shared = int(np.count_nonzero(both[1:] == both[:-1]))
    return shared / (len(both) - shared)
