"""Dashboards of Grafana (classic JSON) from the documents in templates/monitoring/panels.

A document is a dashboard: `file` is its title, `object` lists its panels with `title`, `reason`, `unit`, `queries`
(legend -> PromQL), and perhaps `kind` (stat) and `width` of 24 columns. The data source is a variable.
"""

from typing import Any, NamedTuple

from archwright.deploy.rendering.bundle import encode_json
from archwright.deploy.rendering.templating import TemplateContext, expand_templates

SCHEMA_VERSION = 39  # of Grafana 11; newer ones migrate it on load
COLUMNS, SIZES = 24, {"stat": (6, 4), "timeseries": (12, 8)}
# The longest uid of Grafana.
UID_CHARACTERS = 40
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
DASHED = {"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [8, 6]}}


class Dashboard(NamedTuple):
    """`uid` is stable, so a link to a dashboard stays valid. `model` is the classic JSON."""

    uid: str
    title: str
    model: dict[str, Any]

    @property
    def text(self) -> str:
        return encode_json(self.model)


def build_dashboards(context: TemplateContext, name: str) -> tuple[Dashboard, ...]:
    """Return the dashboards that have panels. `name`: label of the deployment, part of each uid."""
    found = [(one.file, one.value) for one in expand_templates("monitoring/panels", context) if one.value]
    return tuple(_build_dashboard(title, panels, name) for title, panels in found)


def _build_dashboard(title: str, values: list[dict[str, Any]], name: str) -> Dashboard:
    # The name ends with the environment, so the title gives way; its start tells dashboards apart.
    start = title.lower().replace(" ", "-")[: max(UID_CHARACTERS - len(name) - 1, 15)]
    uid = f"{start}-{name}"[:UID_CHARACTERS].rstrip("-")
    panels, x, y, height = list[dict[str, Any]](), 0, 0, 0
    for number, value in enumerate(values, 1):
        width, tall = SIZES[value.get("kind", "timeseries")]
        width = value.get("width", width)
        if x + width > COLUMNS:
            x, y, height = 0, y + height, 0
        panels.append(_build_panel(number, value, {"x": x, "y": y, "w": width, "h": tall}))
        x, height = x + width, max(height, tall)
    source = {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    model = {
        "uid": uid,
        "title": f"{title} ({name})",
        "tags": ["archwright", name],
        "schemaVersion": SCHEMA_VERSION,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [source]},
        "panels": panels,
    }
    return Dashboard(uid, title, model)


def _build_panel(number: int, value: dict[str, Any], place: dict[str, int]) -> dict[str, Any]:
    defaults = {"unit": value["unit"], "min": 0}
    overrides = [{"matcher": {"id": "byRegexp", "options": "/^plan/"}, "properties": [DASHED]}]
    return {
        "id": number,
        "type": value.get("kind", "timeseries"),
        "title": value["title"],
        "description": value["reason"],
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": overrides},
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "reduceOptions": {"calcs": ["lastNotNull"]},
        },
        "targets": [
            {"refId": chr(65 + index), "datasource": SOURCE, "expr": " ".join(expr.split()), "legendFormat": legend}
            for index, (legend, expr) in enumerate(value["queries"].items())
        ],
    }
