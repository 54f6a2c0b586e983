"""Dashboards: the classic JSON that Grafana loads, with stable ids, a data source by variable, units and full rows."""

from __future__ import annotations

import json
import re

import pytest
from tests.deploy.conftest import MadeBundle
from tests.deploy.monitoring.conftest import MadeMonitoring
from tests.deploy.monitoring.test_monitored_rules import CASES

UNITS = {"percentunit", "none", "s", "reqps", "short", "bytes", "watt", "currencyUSD"}  # of Grafana, grafana/data
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


@pytest.mark.parametrize(("example", "target"), CASES)
def test_panels_have_ids_units_places_and_the_data_source_of_the_variable(
    monitored: MadeMonitoring, example: str, target: str
) -> None:
    made = monitored(example, target)
    uids = [one.uid for one in made.monitoring.dashboards]
    assert len(set(uids)) == len(uids) >= 4 and all(re.fullmatch(r"[a-z0-9-]{1,40}", uid) for uid in uids)
    for one in made.monitoring.dashboards:
        model = json.loads(one.text)
        assert model["uid"] == one.uid and model["schemaVersion"] == 39
        assert [(v["name"], v["type"], v["query"]) for v in model["templating"]["list"]] == [
            ("datasource", "datasource", "prometheus")
        ]
        panels = model["panels"]
        assert [panel["id"] for panel in panels] == list(range(1, len(panels) + 1))
        cells = set[tuple[int, int]]()
        for panel in panels:
            assert panel["type"] in ("stat", "timeseries") and panel["title"] and panel["description"]
            assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, panel["title"]
            assert panel["datasource"] == SOURCE and panel["targets"]
            assert {json.dumps(target["datasource"]) for target in panel["targets"]} == {json.dumps(SOURCE)}
            references = [target["refId"] for target in panel["targets"]]
            assert len(set(references)) == len(references)
            place = panel["gridPos"]
            assert place["x"] + place["w"] <= 24
            taken = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert not cells & taken, panel["title"]
            cells |= taken


def test_each_prediction_of_the_plan_has_a_panel_with_its_band(monitored: MadeMonitoring) -> None:
    made = monitored("clinic", "onprem")
    panels = {panel["title"]: panel for panel in made.panels}
    for band in made.monitoring.watched.bands:
        legends = [target["legendFormat"] for target in panels[band.prediction.id]["targets"]]
        assert legends == ["measured", "plan low", "plan value", "plan high"]


def test_a_cluster_has_each_dashboard_as_a_config_map(made_bundle: MadeBundle, monitored: MadeMonitoring) -> None:
    text = made_bundle("startup", "kubernetes").files["base/dashboards.yaml"].text
    found = monitored("startup", "kubernetes").monitoring.dashboards
    assert text.count("grafana_dashboard: '1'") == text.count("kind: ConfigMap") == len(found)
