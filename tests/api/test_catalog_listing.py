"""`catalog list`: filters, sorting, freshness, and what is said if nothing fits or a name is unknown."""

from __future__ import annotations

from typing import Any

import pytest

from archwright import api
from archwright.api.catalog import CatalogFilters
from archwright.catalog.load import load_catalog
from archwright.errors import UsageError

from ..command_line import CommandLine

pytestmark = pytest.mark.usefixtures("home")


def listed(table: str, **filters: Any) -> dict[str, Any]:
    found = api.catalog.list(table, filters=CatalogFilters(limit=5000, **filters))
    assert found.total == len(found.rows) and not (found.rows and found.removed_by)
    return {row.id: row for row in found.rows}


def test_filters_narrow_the_rows_they_name() -> None:
    catalog = load_catalog()
    every, inside = listed("offers"), listed("offers", place="EEA", accelerator="h100")
    assert len(every) == len(catalog.offers) and 0 < len(inside) < len(every)
    assert {row.country for row in inside.values()} <= {
        name for name, row in catalog.countries.items() if "EEA" in row.places
    }
    assert all("H100" in row.accelerators for row in inside.values())
    assert all(row.usd_per_hour <= 10 for row in listed("offers", place="EEA", accelerator="h100", max_usd=10).values())
    assert {row.vendor for row in listed("accelerators", vendor="amd").values()} == {"AMD"}
    assert all(row.memory_gib >= 100 for row in listed("nodes", min_memory_gib=100).values())
    assert all(row.licence == "mit" for row in listed("models", licence="MIT").values())


def test_an_offer_without_a_region_is_in_no_place() -> None:
    somewhere = {name for name, row in listed("offers").items() if not row.country}
    assert any(name.startswith("coreweave:") for name in somewhere)
    for place in ("EEA", "US", "any"):
        assert not somewhere & set(listed("offers", place=place)), place


def test_freshness_says_which_prices_decide() -> None:
    nodes = listed("nodes")
    assert nodes["dgx-spark"].decides and not nodes["8x-gaudi3"].decides
    assert set(listed("nodes", fresh=True)) == {name for name, row in nodes.items() if row.decides}
    assert not listed("offers")["scaleway:fr-par:H100-1-80G"].decides
    accelerators = listed("accelerators")
    assert (
        accelerators["GB10"].planned
        and not accelerators["Apple-M3-Ultra"].planned
        and not accelerators["TPUv6e"].planned
    )
    assert accelerators["TPUv6e"].from_usd_per_hour is None, "its price has expired"


def test_devices_are_listed_by_kind() -> None:
    devices = listed("devices")
    kinds = {row.kind for row in devices.values()}
    assert {"server", "desktop", "laptop", "board", "instance", "mac", "laptop-gpu", "gpu"} <= kinds
    assert set(listed("accelerators")) <= set(devices)
    server = listed("devices", kind="server")["epyc 9xx4"]
    assert (server.vendor, server.cores, server.memory_gib) == ("AMD", 96, None)
    assert "c4-standard-SIZE" in listed("devices", kind="instance")
    macs = listed("devices", kind="Mac")
    assert macs and {(row.vendor, row.cores) for row in macs.values()} == {("Apple", None)}
    assert {row.vendor for row in listed("devices", kind="laptop", vendor="intel").values()} == {"Intel"}
    assert not set(listed("devices", fresh=True)) & {name for name, row in devices.items() if row.freshness == "stale"}


def test_a_numbering_is_spelled_without_the_signs_of_its_pattern() -> None:
    for name in listed("devices"):
        assert name and not set(name) & set("\\[]()*?|^$"), name


def test_an_unknown_kind_is_refused_with_the_known_ones(cli: CommandLine) -> None:
    assert "laptop" in cli.error("catalog list devices --kind phone", 2)
    assert "AW-USE-75" in cli.error("catalog list nodes --kind laptop", 2)
    assert "cores" in cli.text("catalog list devices --kind server")


def test_rows_are_sorted_and_cut() -> None:
    found = api.catalog.list("nodes", filters=CatalogFilters(limit=3))
    prices = [row.usd for row in listed("nodes").values()]
    assert len(found.rows) == 3 < found.total and prices == sorted(prices)


def test_an_empty_list_names_the_filter_that_empties_it(cli: CommandLine) -> None:
    found = api.catalog.list("offers", filters=CatalogFilters(provider="aws", max_usd=0.001))
    assert found.rows == () and found.removed_by == ("max_usd",)
    assert "without --max-usd some would" in cli.text("catalog list offers --provider aws --max-usd 0.001")
    assert "dgx-spark" in cli.text("catalog list nodes --max-usd 6000")


@pytest.mark.parametrize(
    ("table", "filters", "code", "near"),
    [
        ("machine", {}, "AW-USE-74", ()),
        ("offers", {"provider": "azurre"}, "AW-USE-74", ("azure",)),
        ("offers", {"place": "EAA"}, "AW-USE-74", ("EEA",)),
        ("nodes", {"accelerator": "h1000"}, "AW-USE-74", ("H100-SXM-80GB",)),
        ("nodes", {"licence": "mit"}, "AW-USE-75", ()),
    ],
)
def test_unknown_names_and_filters_of_other_tables(
    table: str, filters: dict[str, Any], code: str, near: tuple[str, ...]
) -> None:
    with pytest.raises(UsageError) as caught:
        api.catalog.list(table, filters=CatalogFilters(**filters))
    assert caught.value.code == code and set(near) <= set(caught.value.nearest)
