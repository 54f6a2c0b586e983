"""A page that draws the panels of dashboards from a Prometheus, since Grafana itself cannot run in the tests."""

from __future__ import annotations

import json
import math
import urllib.parse
import urllib.request
from html import escape
from typing import Any

from tests.deploy.monitoring.promtool import fill_variables
from tests.tools.checks import WAIT_S

from archwright.report.svg import PALETTE, QUIET, RULE, SvgCanvas, axis_ticks, fit_text, text_width

WIDTH, HEIGHT, LEFT, BOTTOM = 620.0, 250.0, 70.0, 60.0
Line = tuple[str, list[tuple[float, float]]]


def query(url: str, path: str, **fields: object) -> Any:
    with urllib.request.urlopen(f"{url}/api/v1/{path}?{urllib.parse.urlencode(fields)}", timeout=WAIT_S) as reply:
        return json.load(reply)["data"]


def read_lines(url: str, panel: dict[str, Any], start: float, end: float) -> list[Line]:
    """Return the lines of a panel: legend and points, without values that are no number."""
    found = []
    for target in panel["targets"]:
        expression = fill_variables(target["expr"])
        for series in query(url, "query_range", query=expression, start=start, end=end, step=2)["result"]:
            legend = target["legendFormat"]
            for label, text in series["metric"].items():
                legend = legend.replace(f"{{{{{label}}}}}", text)
            points = [(float(at), float(value)) for at, value in series["values"]]
            points = [(at, value) for at, value in points if math.isfinite(value)]
            found += [(legend, points)] if points else []
    return found


def format_value(value: float, unit: str) -> str:
    """Write a value as Grafana does for the units that the panels use."""
    if unit == "percentunit":
        return f"{100 * value:.4g} %"
    if unit == "bytes":
        power = min(4, max(0, int(math.log(value, 1024)))) if value >= 1 else 0
        return f"{value / 1024**power:.3g} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"
    if unit == "s":
        return f"{1000 * value:.3g} ms" if 0 < value < 1 else f"{value:.3g} s"
    suffix = {"reqps": " req/s", "watt": " W", "celsius": " C", "currencyUSD": " USD", "none": "", "short": ""}[unit]
    return f"{value:.3g}{suffix}"


def draw_panel(panel: dict[str, Any], lines: list[Line], start: float, end: float) -> str:
    """Return the SVG of a panel: a number for a stat, else lines, dashed if they are of the plan."""
    canvas, unit = SvgCanvas(WIDTH), panel["fieldConfig"]["defaults"]["unit"]
    canvas.text((12, 22), fit_text(panel["title"], 15, WIDTH - 24), size=15, bold=True)
    canvas.text((12, 40), fit_text(panel["description"], 11, WIDTH - 24), size=11, fill=QUIET)
    if not lines:
        canvas.text((WIDTH / 2, 130), "no data", size=18, fill=QUIET, anchor="middle")
    elif panel["type"] == "stat":
        canvas.text((WIDTH / 2, 130), format_value(lines[0][1][-1][1], unit), size=40, anchor="middle", bold=True)
    else:
        _draw_lines(canvas, lines, unit, (start, end))
    return canvas.render(HEIGHT)


def _draw_lines(canvas: SvgCanvas, lines: list[Line], unit: str, span: tuple[float, float]) -> None:
    ticks = axis_ticks(max(value for _, points in lines for _, value in points))
    top, base = 55.0, HEIGHT - BOTTOM
    for tick in ticks:
        y = base - (base - top) * tick / ticks[-1]
        canvas.line((LEFT, y), (WIDTH - 12, y), RULE)
        canvas.text((LEFT - 6, y + 4), format_value(tick, unit), size=10, fill=QUIET, anchor="end")
    x, y = LEFT, HEIGHT - 30
    for number, (legend, points) in enumerate(lines):
        colour = PALETTE[number % len(PALETTE)]
        more = {"stroke_dasharray": "8 6"} if legend.startswith("plan") else {}
        placed = [
            (LEFT + (WIDTH - 12 - LEFT) * (at - span[0]) / (span[1] - span[0]), base - (base - top) * value / ticks[-1])
            for at, value in points
        ]
        canvas.path(placed, colour, **more)
        text = f"{legend}: {format_value(points[-1][1], unit)}"
        if x + 22 + text_width(text, 11) > WIDTH:
            x, y = LEFT, y + 16
        canvas.line((x, y), (x + 18, y), colour, stroke_width=3)
        canvas.text((x + 22, y + 4), text, size=11)
        x += 40 + text_width(text, 11)


def draw_page(url: str, dashboards: list[dict[str, Any]], start: float, end: float) -> tuple[str, list[str]]:
    """Return the HTML of all panels, and the titles of panels without data."""
    parts, empty = [], []
    for model in dashboards:
        parts.append(f"<h1>{escape(model['title'])}</h1>")
        for panel in model["panels"]:
            lines = read_lines(url, panel, start, end)
            empty += [] if lines else [panel["title"]]
            parts.append(f"<div>{draw_panel(panel, lines, start, end)}</div>")
    style = "body{font-family:sans-serif;width:1290px}div{display:inline-block;border:1px solid #ccc;margin:4px}"
    return f"<!doctype html><meta charset=utf-8><style>{style}</style>{''.join(parts)}", empty
