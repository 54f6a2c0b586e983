"""The night of a site: when its services are closed, and what each of them keeps meanwhile."""

from __future__ import annotations

from zoneinfo import ZoneInfo

import pytest

from archwright.catalog.catalog import Catalog
from archwright.contract.job_window import JobWindow, format_hour
from archwright.contract.needs import SLO, Budget, Needs, Organisation, RequestRate, TokenLength, Traffic, Workload
from archwright.contract.plan import Parallelism
from archwright.plan.capacity.night_window import ENGINE_START_H, find_night_window, select_night_share
from archwright.plan.demand.forecast import Demand, forecast_demand
from archwright.sizing.hardware.machine import SteadyCapacity

RATE, TOKENS = RequestRate(mean=1.0, peak=2.0), TokenLength(mean=100.0, p95=200.0)


def serve(name: str, hours: float, *, availability: float | None = None, deadline_h: float | None = None) -> Workload:
    traffic = Traffic(
        requests_per_second=RATE,
        input_tokens=TOKENS,
        output_tokens=TOKENS,
        hours_per_day=hours,
        deadline_h=deadline_h,
    )
    return Workload(name=name, kind="chat", traffic=traffic, slo=SLO(availability=availability))


def state(*workloads: Workload) -> Needs:
    return Needs(
        version=1,
        organisation=Organisation(name="Kontor", country="DE"),
        workloads=workloads,
        budget=Budget(currency="EUR", horizon_months=12),
    )


def forecast(workload: Workload) -> Demand:
    demand = forecast_demand(workload, 12)
    assert demand is not None
    return demand


def capacity(devices: int) -> SteadyCapacity:
    return SteadyCapacity("m", None, None, None, None, "vllm", "bf16", 1, devices, Parallelism(), 1, 1, 1.0, ())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("workloads", "starts_h", "lasts_h"),
    [
        ((serve("chat", 10),), 18.0, 14 - ENGINE_START_H),
        # The longest opening hours bound the night; a load without any bounds nothing.
        ((serve("chat", 10), serve("search", 12), serve("sensors", 24)), 19.0, 12 - ENGINE_START_H),
        ((serve("chat", 10), serve("manuals", 20, deadline_h=4.0)), 18.0, 14 - ENGINE_START_H),
    ],
)
def test_the_night_is_what_all_services_leave(
    catalog: Catalog, workloads: tuple[Workload, ...], starts_h: float, lasts_h: float
) -> None:
    assert find_night_window(state(*workloads), catalog) == (starts_h, lasts_h, "Europe/Berlin")


@pytest.mark.parametrize("hours", [24, 23.8])
def test_without_closed_hours_there_is_no_night(catalog: Catalog, hours: float) -> None:
    assert find_night_window(state(serve("chat", hours)), catalog) is None


def test_the_zone_of_a_country_is_a_zone_of_the_tz_database(catalog: Catalog) -> None:
    zones = {one.country: one.time_zone for one in catalog.countries.values()}
    assert all(ZoneInfo(zone).key for zone in zones.values())
    assert (zones["DE"], zones["JP"]) == ("Europe/Berlin", "Asia/Tokyo")


@pytest.mark.parametrize(
    ("workload", "devices", "kept"),
    [
        (serve("chat", 10), 1, 0.0),
        (serve("chat", 10), 0, 0.1),  # on processors, it has nothing to free
        (serve("chat", 10, availability=0.99), 1, 0.1),
        (serve("chat", 24), 1, 0.5),
        (serve("manuals", 10, deadline_h=4.0), 1, 0.5),
    ],
)
def test_a_load_keeps_what_it_may_not_give_up(workload: Workload, devices: int, kept: float) -> None:
    assert select_night_share(forecast(workload), capacity(devices), (1.0, 0.5, 0.1)) == kept


def test_a_window_says_when_a_job_runs_and_what_stops() -> None:
    window = JobWindow(
        job="index",
        workload="index",
        every="week",
        starts_h=18.0,
        lasts_h=13.5,
        run_h=0.37,
        pauses=("assistant",),
        time_zone="Europe/Berlin",
    )
    assert window.ends_h == 7.5
    assert window.summary == (
        "index runs each week, from 18:00 to 07:30 (Europe/Berlin), on machines that serve by day; "
        "assistant stops meanwhile, at most 0.4 h"
    )
    assert [format_hour(hour) for hour in (0.7293, 23.999, 24.5)] == ["00:44", "00:00", "00:30"]
