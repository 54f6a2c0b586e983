"""Accuracy and speed of language identification on translated documentation.

    python -m bench.data.language ROOTS [--misses]

ROOTS has the unpacked Debian packages of bench/data/README.md. The language of a document is that of its package. Code
is left out, and so are paragraphs that a translation has in English. The reference of the same run is py3langid.
"""

from __future__ import annotations

import argparse
import gzip
import html
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import py3langid  # type: ignore[import-not-found]
import pyarrow as pa

from archwright.lake.text_steps.language_identification import DetectLanguage

HANDBOOK = "debian-handbook/usr/share/doc/debian-handbook/html/"
PACKAGES = {
    "en": (
        "debian-reference-en",
        "gimp-help-en",
        "developers-reference",
        HANDBOOK + "en-US",
        "manpages",
        "manpages-dev",
    ),
    "de": ("debian-reference-de", "gimp-help-de", "manpages-de", HANDBOOK + "de-DE", "libreoffice-help-de"),
    "fr": ("debian-reference-fr", "gimp-help-fr", "manpages-fr", HANDBOOK + "fr-FR"),
    "es": ("gimp-help-es", HANDBOOK + "es-ES"),
    "ru": ("gimp-help-ru", HANDBOOK + "ru-RU"),
    "ja": ("debian-reference-ja", HANDBOOK + "ja-JP"),
    "pt": (HANDBOOK + "pt-BR",),
    "it": (HANDBOOK + "it-IT",),
}
CODE = re.compile(r"<(pre|code|script|style|head|tt|kbd|samp)\b.*?</\1>", re.DOTALL | re.IGNORECASE)
PARAGRAPH = re.compile(r"<(?:p|dd|div class=\"para)\b[^>]*>(.*?)</(?:p|dd|div)>", re.DOTALL | re.IGNORECASE)
ROFF_PARAGRAPH = re.compile(r"^[.'](?:SH|SS|PP|P|TP|IP|LP|sp|HP)\b.*$", re.MULTILINE)
ROFF = re.compile(r"^[.'][A-Za-z\\\"]+ ?|\\f\(..|\\f.|\\-|\\&|\\\(..|\\\[[^\]]*\]|\\%|\\\"", re.MULTILINE)
ENGLISH = {"the", "of", "and", "is", "to", "that", "this", "with", "for", "it"}
MIN_CHARACTERS, PER_PACKAGE = 200, 600


def read_paragraphs(path: Path) -> Iterator[str]:
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        text = file.read().decode("utf-8", "replace")
    if "/man/" in str(path):
        parts = re.split(r"\n\s*\n", ROFF.sub("", ROFF_PARAGRAPH.sub("\n\n", text)))
    else:
        parts = [html.unescape(re.sub(r"<[^>]+>", " ", part)) for part in PARAGRAPH.findall(CODE.sub(" ", text))]
    for part in (" ".join(part.split()) for part in parts):
        if len(part) >= 40 and sum(sign.isalpha() or sign == " " for sign in part) > 0.8 * len(part):
            yield part


def list_files(folder: Path) -> list[Path]:
    found = (path for path in folder.rglob("*") if path.suffix in (".html", ".htm") or "/man/" in str(path))
    return sorted(path for path in found if path.is_file() and not path.is_symlink())


def make_documents(root: Path) -> Iterator[tuple[str, str]]:
    """(language, text) of documents of 200 to 3,000 characters."""
    chosen, english = random.Random(7), set[str]()
    for language, packages in PACKAGES.items():
        for package in packages:
            files = list_files(root / package)
            chosen.shuffle(files)
            documents, text = [], ""
            for part in dict.fromkeys(part for path in files[:900] for part in read_paragraphs(path)):
                words = re.findall(r"\w+", part.lower())
                if language == "en":
                    english.add(part)
                elif part in english or sum(word in ENGLISH for word in words) > 0.06 * len(words):
                    continue
                text += " " + part
                if len(text) > chosen.choice((MIN_CHARACTERS, 300, 500, 1000, 2000)):
                    documents.append(text.strip()[:3000])
                    text = ""
            chosen.shuffle(documents)
            yield from ((language, text) for text in documents[:PER_PACKAGE] if len(text) > MIN_CHARACTERS)


def find_ours(texts: list[str]) -> list[str | None]:
    rows: Any = iter([pa.record_batch({"text": pa.array(texts, pa.large_string())})])
    context: Any = None  # no row is dropped
    [batch] = DetectLanguage(column="text").process_rows(rows, context)
    found: list[str | None] = batch["language"].to_pylist()
    return found


def find_reference(texts: list[str]) -> list[str | None]:
    return [py3langid.classify(text)[0] for text in texts]


def measure(
    name: str, find: Callable[[list[str]], list[str | None]], rows: list[tuple[str, str]], misses: bool
) -> float:
    texts = [text for _, text in rows]
    find(texts[:50])
    began = time.process_time()
    found = find(texts)
    speed = sum(len(text.encode()) for text in texts) / 1e6 / (time.process_time() - began)
    right = Counter(language for (language, _), other in zip(rows, found, strict=True) if language == other)
    each = Counter(language for language, _ in rows)
    print(f"{name}: {right.total() / len(rows):.4f} of {len(rows)} documents, {speed:.1f} MB/s per second of CPU")
    print("  " + ", ".join(f"{language} {right[language] / number:.4f}" for language, number in each.items()))
    for (language, text), other in zip(rows, found, strict=True):
        if misses and language != other:
            print(f"  {language} as {other}: {text[:100]}")
    return speed


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("roots", type=Path)
    parser.add_argument("--misses", action="store_true")
    given: Any = parser.parse_args()
    rows = list(make_documents(given.roots))
    speed = measure("archwright (fastText lid.176)", find_ours, rows, given.misses)
    print(f"ratio to py3langid: {speed / measure('py3langid', find_reference, rows, False):.1f}")


if __name__ == "__main__":
    main()
