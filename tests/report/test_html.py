"""The HTML: whole, inert, reachable by keyboard and screen reader, the same bytes twice."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from archwright.report.document import Document
from archwright.report.html import render_html

VOID = {"meta", "col", "link", "img", "br", "rect", "line", "circle", "polyline", "polygon"}


class Page(HTMLParser):
    """Elements with their attributes; complains about tags that do not close in order."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(data.decode())
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def test_nothing_is_fetched_and_nothing_runs(any_document: Document) -> None:
    page = Page(render_html(any_document))
    names = {name for name, _ in page.elements}
    assert not names & {"script", "link", "img", "iframe", "object", "form", "input", "base"}
    attributes = {name for _, found in page.elements for name in found}
    assert not {name for name in attributes if name.startswith("on") or name in ("src", "srcset", "xlink:href")}
    addresses = [a["href"] for a in page.all("a")]
    assert all(address.startswith(("#", "https://", "http://")) for address in addresses)
    style = re.search(r"<style>(.*?)</style>", render_html(any_document).decode(), re.DOTALL)
    assert style is not None
    assert not re.search(r"url\(|@import", style.group(1))


def test_contents_lead_to_every_chapter(any_document: Document) -> None:
    page = Page(render_html(any_document))
    ids = [found["id"] for _, found in page.elements if "id" in found]
    assert len(ids) == len(set(ids))
    targets = [a["href"][1:] for a in page.all("a") if a["href"].startswith("#")]
    assert set(targets) <= set(ids)
    assert [found["id"] for found in page.all("section")] == targets[1:]


def test_tables_and_pictures_speak(board: Document) -> None:
    page = Page(render_html(board))
    assert all(found.get("scope") in ("row", "col") for found in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    drawn = [found for _, found in page.elements if found.get("role") == "img"]
    assert len(drawn) == len(page.all("svg")) == 4
    assert all(len(found["aria-label"]) > 60 for found in drawn)
    assert page.all("html") == [{"lang": "en"}]


def test_a_hostile_name_is_text(hostile: Document) -> None:
    made = render_html(hostile)
    page = Page(made)
    assert page.all("script") == []
    assert b"<script" not in made
    assert any("<script>alert(1)</script>" in text for text in page.text)
    assert made.count(b"</style>") == 1
    assert "\u202e" not in made.decode()


def test_only_web_addresses_become_links(board: Document) -> None:
    page = Page(render_html(board))
    outside = {a["href"] for a in page.all("a") if not a["href"].startswith("#")}
    assert "https://example.org/price-list?region=eu-central-1" in outside
    assert "https://example.org/guide" in outside


def test_the_same_plan_gives_the_same_bytes(board: Document) -> None:
    assert render_html(board) == render_html(board)


def test_a_report_is_small(any_document: Document) -> None:
    assert len(render_html(any_document)) < 500_000


def contrast(one: str, other: str) -> float:
    """WCAG 2: ratio of the relative luminances."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_every_ink_can_be_read_on_every_ground(board: Document, scheme: int) -> None:
    found = re.findall(r":root\{(.*?)\}", render_html(board).decode())[scheme]
    colours = dict(pair.split(":") for pair in found.replace("--", "").split(";"))
    full = {name: "#" + value[1:] * 2 if len(value) == 4 else value for name, value in colours.items()}
    for ground in ("paper", "soft", "marked"):
        for ink in ("ink", "quiet", "accent", "good", "warn", "bad"):
            assert contrast(full[ink], full[ground]) >= 4.5, (ink, ground)
