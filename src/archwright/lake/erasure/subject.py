"""The person to erase: the identifiers, and the searches that find them in Arrow data, in text and in raw bytes.

The search of rows is `governance.subject_search`, which also serves the access export. Here it also gets other case,
the escapes of JSON and URLs, nested columns, and the ends of texts that were shortened.
"""

import base64
import hashlib
import hmac
import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from archwright.errors import DataError, ErrorLocation
from archwright.lake.governance.subject_search import SubjectMatcher
from archwright.lake.lazy_modules import np, pa, pc

LEAST_CHARACTERS, MOST_CHARACTERS = 5, 256
LEAST_BOUND = 8  # characters of a cut bound that identify an identifier
LEAST_CUT = 4  # characters of an identifier that identify it at the end of a shortened text
MASK = "<subject>"
# An address with one of these behind it is the name of a file; with another word, it is a longer address.
FILE_SUFFIXES = (
    *("csv", "docx", "eml", "gz", "htm", "html", "jpeg", "jpg", "json", "jsonl", "md", "parquet", "pdf", "png"),
    *("pptx", "txt", "xls", "xlsx", "xml", "zip"),
)
# Bytes before and after an identifier that make it a part of a longer word or address.
_LONGER_WORD = re.compile(rb"[0-9a-z]$"), re.compile(rb"[0-9a-z]")
_FILE_SUFFIX = rf"\.(?:{'|'.join(FILE_SUFFIXES)})(?:$|[^0-9a-z])"
_LONGER_ADDRESS = (
    re.compile(rb"[0-9a-z][._%+-]?$"),
    re.compile(rf"(?!{_FILE_SUFFIX})[.-]?[0-9a-z]".encode()),
)


class RawForm(NamedTuple):
    """An encoded identifier; `exact`: case matters; `plain`: text, so a letter beside it makes another word."""

    data: bytes
    exact: bool = False
    plain: bool = False


class Subject:
    """A person by `identifiers`; `pseudonyms` replace them in refined data; `record_ids` are the person's rows."""

    def __init__(self, identifiers: Iterable[str], pseudonyms: Iterable[str] = ()) -> None:
        """Raises DataError AW-DATA-56 for identifiers that are missing, too short or too long."""
        self.identifiers = tuple(sorted({_check_identifier(text) for text in identifiers}))
        if not self.identifiers:
            raise _identifier_error("no identifier was given")
        known = sorted(pseudonyms)
        cases = {case for term in self.identifiers for case in (term, _fold_case(term), term.upper())}
        self._folded = tuple(sorted({_fold_case(term) for term in (*self.identifiers, *known)}))
        # The matcher ignores the case of addresses and of several words.
        words = {case for case in cases if not case.isascii() or not ("@" in case or " " in case)}
        texts = {form for term in (*self.identifiers, *words) for form in _list_text_forms(term)}
        self._matcher = SubjectMatcher(sorted({*texts, *known}))
        self._outline = f"(?is:{'|'.join(sorted({_outline_term(term) for term in (*cases, *known)}))})"
        self._find_outline = re.compile(self._outline).search
        self._raw_forms = tuple(sorted({form for case in (*cases, *known) for form in _list_raw_forms(case)}))
        self.record_ids: frozenset[bytes] = frozenset()
        self.hex_ids: frozenset[str] = frozenset()

    def add_records(self, ids: Iterable[bytes]) -> None:
        self.record_ids |= set(ids)
        self.hex_ids = frozenset(one.hex() for one in self.record_ids)

    def digest(self, key: bytes) -> str:
        """Return the keyed digest of all identifiers, which recognises them without storing them."""
        text = "\0".join(sorted({*map(_fold_case, self.identifiers)}))
        return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()

    def match_values(self, values: Any) -> Any:
        """Return the mask of the values of an Arrow array, of any type, that name the person."""
        kind = values.type
        if pa.types.is_dictionary(kind):
            return pc.fill_null(self.match_values(values.dictionary).take(values.indices), False)
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            return self.match_values(_decode_bytes(values))
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            return self._matcher.match_array(values)
        places = pc.indices_nonzero(self.match_loosely(values))
        mask = np.zeros(len(values), bool)
        mask[places.filter(self._matcher.match_array(values.take(places))).to_numpy()] = True
        return pa.array(mask)

    def match_loosely(self, texts: Any) -> Any:
        """Return the mask of the texts that may name the person. The exact pattern takes 1,000 times longer."""
        return pc.fill_null(pc.match_substring_regex(texts, self._outline), False)

    def match_rows(self, batch: Any) -> Any:
        """Return the mask of the rows of a batch that name the person in any column."""
        mask = pa.repeat(False, batch.num_rows)
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if name == "source_file":
                column = pc.replace_substring_regex(column, f"(?i){_FILE_SUFFIX}", " ")
            mask = pc.or_(mask, self.match_values(column))
        return mask

    def match_text(self, text: str) -> bool:
        """True if a text names the person; an address may also be the name of a file."""
        if not self._find_outline(text):
            return False
        texts = [text, re.sub(_FILE_SUFFIX, " ", text, flags=re.IGNORECASE)]
        return bool(pc.any(self.match_values(pa.array(texts, pa.large_string()))).as_py())

    def match_cut(self, text: str) -> bool:
        """True if a text that was shortened ends with the beginning of an identifier."""
        folded = _fold_case(text)
        return any(
            re.search(rf"(?<![^\W_]){re.escape(term[:length])}$", folded)
            for term in self._folded
            for length in range(LEAST_CUT, len(term))
        )

    def match_bound(self, text: str) -> bool:
        """True for a lower or upper bound of a column that was cut from an identifier; an upper one ends higher."""
        folded = _fold_case(text)
        return len(folded) >= LEAST_BOUND and any(term.startswith(folded[:-1]) for term in self._folded)

    def mask_path(self, path: str) -> str:
        """Replace the parts of a path that name the person, so that a receipt can name the place."""
        parts = [MASK if self.match_text(part) else part for part in path.split("/")]
        return MASK if self.match_text("/".join(parts)) else "/".join(parts)

    def find_raw(self, data: bytes, *, decoded: bool) -> int:
        """Count the encoded identifiers in bytes of any format.

        `decoded`: the content was searched as what it is, so a number in the structure of the file is no identifier."""
        lowered = data.lower()
        return sum(
            _count_form(data if form.exact else lowered, form)
            for form in self._raw_forms
            if not (decoded and form.plain and form.data.isdigit())
        )


def _check_identifier(text: str) -> str:
    """Return the identifier composed (NFC), with single spaces."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _identifier_error("an identifier is not valid Unicode") from None
    made = " ".join(unicodedata.normalize("NFC", text[: 4 * MOST_CHARACTERS]).split())
    letters = sum(character.isalnum() for character in made)
    if letters < LEAST_CHARACTERS or len(made) > MOST_CHARACTERS or not made.isprintable():
        problem = "too short" if letters < LEAST_CHARACTERS else "too long or not printable"
        raise _identifier_error(f"an identifier is {problem}")
    return made


def _identifier_error(message: str) -> DataError:
    hint = (
        f"give an e-mail address, a full name or a number: {LEAST_CHARACTERS} letters or digits at least, and at most "
    )
    hint += f"{MOST_CHARACTERS} characters; shorter ones name other people too"
    return DataError("AW-DATA-56", message, where=ErrorLocation(field="subject"), hint=hint)


def _fold_case(text: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def _list_text_forms(text: str) -> set[str]:
    """The text as it is, and as JSON, HTML and URLs escape it."""
    escaped = "".join(one if one.isascii() else _escape_json(one) for one in text)
    return {text, escaped, *(text.replace("@", sign) for sign in ("%40", "&#64;", "\\u0040"))}


def _outline_term(term: str) -> str:
    """A pattern of the ASCII parts of a term, which every spelling has, or of the whole term without such parts."""
    if re.fullmatch(r"\+?[\d\s()./-]+", term):  # the digits of a telephone number, however they are separated
        return ".{0,3}".join(re.findall(r"\d", term))
    runs = re.findall(r"[0-9a-z]+", term.lower())
    parts = [run for run in runs if len(run) > 1] or runs
    whole = {unicodedata.normalize(form, text) for form in ("NFC", "NFD") for text in _list_text_forms(term)}
    return ".{0,40}".join(parts) or "|".join(sorted(map(re.escape, whole)))


def _escape_json(character: str) -> str:
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[place : place + 2].hex()}" for place in range(0, len(units), 2))


def _list_raw_forms(text: str) -> Iterator[RawForm]:
    for form in {unicodedata.normalize(form, text) for form in ("NFC", "NFD")}:
        yield RawForm(form.encode().lower(), plain=True)
        yield from (RawForm(form.encode(name).lower()) for name in ("utf-16-le", "utf-16-be"))
        yield RawForm(form.encode().hex().encode())
        for offset in range(3):  # the three alignments of base64, without the characters that share bytes
            coded = base64.b64encode(b"\0" * offset + form.encode()).rstrip(b"=")
            whole = (offset + len(form.encode())) % 3 == 0
            yield RawForm(coded[-(-offset * 8 // 6) : None if whole else -1], exact=True)


def _count_form(data: bytes, form: RawForm) -> int:
    found, start = 0, data.find(form.data)
    while start >= 0:
        end = start + len(form.data)
        before, after = _LONGER_ADDRESS if b"@" in form.data else _LONGER_WORD
        longer = before.search(data[max(0, start - 2) : start]) or after.match(data[end : end + 10])
        found += not (form.plain and longer)
        start = data.find(form.data, end)
    return found


def _decode_bytes(values: Any) -> Any:
    try:
        return values.cast(pa.large_string())
    except pa.ArrowInvalid:
        texts = [None if value is None else value.decode(errors="replace") for value in values.to_pylist()]
        return pa.array(texts, pa.large_string())
