"""The gateways that `serve` started are found by their locks."""

from __future__ import annotations

import os

from archwright.home import Home, write_json
from archwright.operate.gateway_record import ServedGateway, list_gateways, read_models, record_gateway
from archwright.serving.settings.gateway_file import GatewayTables, ModelEntry, UpstreamEntry


def test_a_gateway_is_found_whatever_its_configuration_says(home: Home) -> None:
    """So `down` of another release stops it too."""
    gateway = ServedGateway(name="serve-1", pid=os.getpid(), url="http://127.0.0.1:1")
    with record_gateway(home, gateway):
        home.config("serve-1").write_text('{"pools": 1}')
        assert list_gateways(home) == read_models(home, list_gateways(home)) == (gateway,)
        entry = ModelEntry(upstreams=(UpstreamEntry(url="http://h/v1"),), aliases=("a",))
        pools, endpoints = GatewayTables().build({"m": entry}, "off")
        write_json(home.config("serve-1"), {"pools": pools, "endpoints": endpoints})
        assert [one.models for one in read_models(home, list_gateways(home))] == [("m", "a")]
    assert list_gateways(home) == ()
