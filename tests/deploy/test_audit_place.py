"""The second place of the audit log on every target: standard output, which the platform of the gateway keeps."""

from __future__ import annotations

import re

import pytest
import yaml
from tests.deploy.conftest import EXAMPLES, MadeBundle, MadePlan, list_cases

from archwright.deploy.render import list_targets
from archwright.settings import load

GATEWAY = re.compile(r'"audit_checkpoints": ?"([^"]*)"')
TARGETS = [target.name for target in list_targets()]
# A file that a rotation replaces keeps at least this much of the gateway's output.
LEAST_BYTES = 10**9


@pytest.mark.parametrize("target", TARGETS)
def test_the_gateway_of_each_target_has_a_second_place(
    made_plan: MadePlan, made_bundle: MadeBundle, target: str
) -> None:
    plans = {name: made_plan(name) for name in EXAMPLES}
    names = [name for name, of_target in list_cases(plans) if of_target == target]
    assert names, "an example must have an option for the target"
    for name in names:
        texts = [file.text for file in made_bundle(name, target).files.values()]
        places = [place for text in texts for place in GATEWAY.findall(text)]
        assert places and set(places) == {"stdout"}, name
        assert load({"audit_checkpoints": places[0]}).audit_checkpoints == "stdout"


def test_the_collector_of_one_machine_drops_no_record(made_bundle: MadeBundle) -> None:
    journal = made_bundle("desk", "systemd").files["root/etc/systemd/journald@archwright.conf"].text
    settings = dict(line.split("=") for line in journal.splitlines() if "=" in line and not line.startswith("#"))
    assert settings["RateLimitIntervalSec"] == "0"
    assert settings["Storage"] == "persistent"

    services = yaml.safe_load(made_bundle("desk", "compose").files["compose.yaml"].text)["services"]
    options = services["gateway"]["logging"]["options"]
    assert int(options["max-size"].removesuffix("m")) * int(options["max-file"]) * 10**6 >= LEAST_BYTES
