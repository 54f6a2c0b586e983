"""Shingles of texts: hashes of n words in a row, computed in bulk for many texts at once.

A word is a run of letters, digits and `_` (`\\w` of Python), without regard to case and to forms of one letter that
Unicode calls compatible. Some scripts put no spaces between words: Han, Kana, Thai, Lao, Burmese, Khmer. In a text
with at least half of its letters in them, each of these letters is a word, so its shingles are those of n letters.
A text with fewer than n words has one shingle: the words it has. A text without a word has none.

The hash of a word is a polynomial of its letters modulo 2^64, with an odd base, so one pass over all letters and one
product with the inverse power per word hash a whole batch. Hashes are the same on every machine and for every batch.
"""

import itertools
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from archwright.lake.lazy_modules import np, pa, pc

BATCH_BYTES = 1 << 17  # texts that are hashed at once: the arrays of a batch stay in the processor's cache
MAX_PIECE = 1 << 20  # letters; a longer text is hashed in pieces, which end words
LETTER_BASE, WORD_BASE = 0x9E3779B97F4A7C15, 0xD1342543DE82EF95
ALONE = 1 << 31  # marks a letter that is a word by itself
ALONE_RANGES = (
    *((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF), (0x31F0, 0x31FF)),
    *((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF)),
)


class Shingles(NamedTuple):
    """The shingles of the rows `first` and following: row n has hashes[offsets[n] : offsets[n + 1]]."""

    first: int
    hashes: Any
    offsets: Any


def join_texts(rows: Any, columns: tuple[str, ...]) -> Any:
    """The texts of the columns of each row as one array of large_string, a line each; null counts as empty."""
    texts = [pc.fill_null(rows.column(name).cast(pa.large_string()), "") for name in columns]
    return texts[0] if len(texts) == 1 else pc.binary_join_element_wise(*texts, pa.scalar("\n", pa.large_string()))


def hash_shingles(texts: Any, width: int) -> Iterator[Shingles]:
    """The shingles of `width` words of an array of large_string without nulls, in several batches of rows."""
    ends = np.frombuffer(texts.buffers()[1], np.int64)[texts.offset : texts.offset + len(texts) + 1]
    content, first = memoryview(texts.buffers()[2] or b""), 0
    while first < len(texts):
        last = max(first + 1, int(np.searchsorted(ends, ends[first] + BATCH_BYTES, "right")) - 1)
        words, counts = _hash_words(content, ends[first : last + 1])
        yield Shingles(first, *_combine_words(words, counts, width))
        first = last


def mix_bits(values: Any) -> Any:
    """Spread every bit over all bits (the finaliser of SplitMix64); changes the array of uint64 in place."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        values ^= values >> np.uint64(shift)
        values *= np.uint64(factor)
    values ^= values >> np.uint64(31)
    return values


def sort_unique(values: Any) -> Any:
    """The different values, sorted. For regular integers numpy.unique (2.4) takes 50 times as long: it hashes them."""
    ordered = np.sort(values)
    new = np.ones(len(ordered), bool)
    new[1:] = ordered[1:] != ordered[:-1]
    return ordered[new]


def _hash_words(content: memoryview, ends: Any) -> tuple[Any, Any]:
    """Hashes of the words of the texts between `ends`, and the number of words of each text."""
    letters, limits = _fold_letters(bytes(content[ends[0] : ends[-1]]), ends - ends[0])
    hashes, starts = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    for first in range(0, len(letters), MAX_PIECE):  # one turn, unless a text is longer than a piece
        last = first + MAX_PIECE
        found, at = _hash_piece(
            letters[first:last], limits[(limits > first) & (limits < min(last, len(letters)))] - first
        )
        hashes.append(found)
        starts.append(at + first)
    return np.concatenate(hashes), np.diff(np.searchsorted(np.concatenate(starts), limits))


def _hash_piece(letters: Any, limits: Any) -> tuple[Any, Any]:
    """Hashes of the words of a piece and where they start; a text starts at each of the `limits`."""
    within = letters != 0
    begins = within.copy()
    begins[1:] &= ~within[:-1]
    if letters.dtype == np.uint32:
        alone = letters >= ALONE
        begins |= alone
        begins[1:] |= alone[:-1] & within[1:]
    begins[limits] = within[limits]
    starts = np.flatnonzero(begins)
    if not len(starts):
        return np.zeros(0, np.uint64), starts
    powers, inverse = _compute_powers()
    sums = np.add.reduceat(letters * powers[: len(letters)], starts)  # letters outside words are 0
    return mix_bits(sums * inverse[starts]), starts


@lru_cache(1)
def _compute_powers() -> tuple[Any, Any]:
    """The powers of the base, and those of its inverse."""
    powers = np.full((2, MAX_PIECE), [[LETTER_BASE], [pow(LETTER_BASE, -1, 1 << 64)]], np.uint64)
    powers[:, 0] = 1
    np.multiply.accumulate(powers, axis=1, out=powers)
    return powers[0], powers[1]


def _fold_letters(raw: bytes, ends: Any) -> tuple[Any, Any]:
    """Folded letters, 0 outside words, and the ends of the texts counted in letters."""
    if raw.isascii():
        return np.frombuffer(raw.translate(_fold_table()[0]), np.uint8), ends
    text = raw.decode()
    if unicodedata.is_normalized("NFC", text):
        limits = _count_within((np.frombuffer(raw, np.uint8) & 0xC0) != 0x80, ends)
    else:
        texts = [unicodedata.normalize("NFC", raw[start:end].decode()) for start, end in itertools.pairwise(ends)]
        text, limits = "".join(texts), np.cumsum([0, *map(len, texts)])
    letters = _fold_table()[1][np.frombuffer(text.encode("utf-32-le"), np.uint32)]
    alone = letters >= ALONE
    if alone.any():
        share, whole = (np.diff(_count_within(mask, limits)) for mask in (alone, letters > 0))
        letters[alone & np.repeat(share * 2 < whole, np.diff(limits))] &= np.uint32(ALONE - 1)
    return letters, limits


def _count_within(mask: Any, limits: Any) -> Any:
    """How many places of the mask are set before each of the limits."""
    return np.cumsum([0, *(np.count_nonzero(mask[start:end]) for start, end in itertools.pairwise(limits))])


@lru_cache(1)
def _fold_table() -> tuple[bytes, Any]:
    """The folded letter of each code point, 0 outside words: of ASCII for bytes.translate, and of Unicode."""
    table = np.zeros(0x110000, np.uint32)
    for point in range(0x110000):
        letter = chr(point)
        if letter.isalnum() or letter == "_":
            folded = unicodedata.normalize("NFKC", letter).lower()
            table[point] = ord(folded if len(folded) == 1 else letter)
    for first, last in ALONE_RANGES:
        table[(table >= first) & (table <= last)] |= np.uint32(ALONE)
    return bytes(table[:128].astype(np.uint8)) + bytes(128), table


def _combine_words(words: Any, counts: Any, width: int) -> tuple[Any, Any]:
    """Hashes of `width` words in a row, and their offsets per text; each text is padded with `width` - 1 zeros."""
    offsets = np.concatenate(([0], np.cumsum(counts)))
    shingles = np.where(counts > 0, np.maximum(1, counts - width + 1), 0)
    places = np.arange(len(words))
    starts = places + np.repeat(np.arange(len(counts)) * (width - 1), counts)
    padded = np.zeros(len(words) + (width - 1) * (len(counts) + 1), np.uint64)
    padded[starts] = words
    starts = starts[places - np.repeat(offsets[:-1], counts) < np.repeat(shingles, counts)]
    sums = padded[starts]
    for place in range(1, width):
        sums = sums * np.uint64(WORD_BASE) + padded[starts + place]
    return mix_bits(sums), np.concatenate(([0], np.cumsum(shingles)))
