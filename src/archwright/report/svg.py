"""SVG drawing: shapes in a colour-blind safe palette, and text that fits a given width.

Colours are attributes, so every viewer and the PDF can draw them; class names let a dark page replace them. All texts
are escaped here.

Design: no plotting library. Importing matplotlib and drawing the charts would take 2 s, twice the time of a report.
"""

import math
import re
import unicodedata
from html import escape

INK, QUIET, RULE, PAPER, SOFT = "#1b2733", "#566270", "#dbe1e7", "#ffffff", "#f3f6f9"
CHOSEN, OTHER = "#0072b2", "#7a8ca0"
# Palette of Okabe and Ito, dark enough on white. Colour is never the only distinction.
PALETTE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8a8f98")
FONT = "Inter,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif"
NARROW, WIDE = frozenset("iljtfrI.,:;'|!()[] "), frozenset("mwMW@%&")
CLASSES = {INK: "i", QUIET: "q", RULE: "r", PAPER: "p", SOFT: "s"}


def text_width(text: str, size: float) -> float:
    """Approximate width of `text` in a sans-serif font of `size`; rather too wide than too narrow."""

    def measure(letter: str) -> float:
        if unicodedata.east_asian_width(letter) in "WF":
            return 1.0
        return 0.34 if letter in NARROW else 0.9 if letter in WIDE else 0.68 if letter.isupper() else 0.57

    return size * sum(map(measure, text))


def fit_text(text: str, size: float, room: float) -> str:
    """`text` without its last words if it is wider than `room`; a single word that is too wide is cut."""
    found = text.split()
    text = " ".join(found)
    if text_width(text, size) <= room:
        return text
    while len(found) > 1:
        found.pop()
        shorter = f"{' '.join(found).rstrip(',;:')} …"
        if text_width(shorter, size) <= room:
            return shorter
    kept = list("".join(found))
    while kept and text_width("".join(kept) + "…", size) > room:
        kept.pop()
    return "".join(kept).rstrip() + "…"


def wrap_text(text: str, size: float, room: float, lines: int) -> list[str]:
    """`text` in at most `lines` lines of width `room`; the last line is shortened if necessary."""
    words, made = [piece for word in text.split() for piece in _split_word(word, size, room)], list[str]()
    while words and len(made) < lines - 1:
        taken = 1
        while taken < len(words) and text_width(" ".join(words[: taken + 1]), size) <= room:
            taken += 1
        made.append(fit_text(" ".join(words[:taken]), size, room))
        words = words[taken:]
    return [*made, fit_text(" ".join(words), size, room)] if words else made


def _split_word(word: str, size: float, room: float) -> list[str]:
    """A name wider than `room`, split at its punctuation into as few pieces as possible."""
    made = [""]
    for part in re.split(r"(?<=[-._:/])", word) if text_width(word, size) > room else [word]:
        if made[-1] and text_width(made[-1] + part, size) > room:
            made.append("")
        made[-1] += part
    return made


def axis_ticks(largest: float, wanted: int = 5) -> tuple[float, ...]:
    """Round numbers from 0 to at least `largest`."""
    if largest <= 0 or not math.isfinite(largest):
        return (0.0, 1.0)
    rough = largest / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    return tuple(step * n for n in range(math.ceil(largest / step - 1e-9) + 1))


Point = tuple[float, float]


class SvgCanvas:
    """A canvas; later shapes cover earlier ones."""

    def __init__(self, width: float) -> None:
        self.width = width
        self._parts: list[str] = []

    def rect(self, at: Point, size: Point, fill: str, **attributes: object) -> None:
        (x, y), (width, height) = at, size
        box = f'x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.0):.1f}" height="{height:.1f}"'
        self._add(f"<rect {box}", fill, attributes)

    def line(self, start: Point, end: Point, stroke: str = RULE, **more: object) -> None:
        (x1, y1), (x2, y2) = start, end
        ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
        self._add(f"<line {ends}", "none", {"stroke": stroke, "stroke_width": 1, **more})

    def path(self, points: list[Point], stroke: str, **more: object) -> None:
        drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._add(f'<polyline points="{drawn}"', "none", {"stroke": stroke, "stroke_width": 2.2, **more})

    def polygon(self, points: list[Point], fill: str, **more: object) -> None:
        self._add('<polygon points="' + " ".join(f"{x:.1f},{y:.1f}" for x, y in points) + '"', fill, more)

    def dot(self, at: Point, radius: float, fill: str, **more: object) -> None:
        self._add(f'<circle cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="{radius:.1f}"', fill, more)

    def text(
        self, at: Point, text: str, *, size: float = 13.0, fill: str = INK, anchor: str = "start", bold: bool = False
    ) -> None:
        weight = ' font-weight="600"' if bold else ""
        place = f'x="{at[0]:.1f}" y="{at[1]:.1f}" font-size="{size:g}" text-anchor="{anchor}"{weight}'
        marked = f' class="{CLASSES[fill]}f"' if fill in CLASSES else ""
        self._parts.append(f'<text {place} fill="{fill}"{marked}>{escape(text)}</text>')

    def _add(self, start: str, fill: str, attributes: dict[str, object]) -> None:
        named = "".join(f' {key.replace("_", "-")}="{value}"' for key, value in attributes.items())
        stroke = str(attributes.get("stroke", ""))
        classes = [f"{CLASSES[fill]}f"] if fill in CLASSES else []
        classes += [f"{CLASSES[stroke]}s"] if stroke in CLASSES else []
        marked = f' class="{" ".join(classes)}"' if classes else ""
        self._parts.append(f'{start} fill="{fill}"{named}{marked}/>')

    def render(self, height: float) -> str:
        """The SVG text. The document holds the alternative text."""
        head = f'xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width:g} {height:.0f}"'
        size = f'width="{self.width:g}" height="{height:.0f}" font-family="{escape(FONT)}"'
        return f"<svg {head} {size}>{''.join(self._parts)}</svg>"
