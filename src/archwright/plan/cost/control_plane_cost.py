"""What the platform's own machines cost: rented by the month, or servers of one's own with support and renewal."""

from __future__ import annotations

from collections.abc import Iterable

from archwright.contract.estimate import Estimate
from archwright.contract.plan import OWN_PLACEMENTS
from archwright.plan.accounting.cash_flow import CashFlow, make_varying_flow
from archwright.plan.cost.control_plane import SERVER_PART, ControlPlaneHosting, list_platform_parts
from archwright.plan.cost.data_placement import OptionContext, list_online_workloads
from archwright.plan.cost.hardware_lifecycle import MONTHS_PER_YEAR, SERVER_LIFE, HardwarePurchase, price_lifecycle
from archwright.plan.cost.prices import UnitPrice
from archwright.plan.demand.forecast import HOURS_PER_MONTH

SERVER_DRAW_PART = "platform.server-draw"
# Rack units of such a server.
SERVER_RACK_UNITS = 1


def price_control_plane(case: OptionContext) -> list[CashFlow]:
    """None where the platform shares machines, or is all there already."""
    seat = case.seat
    if seat is not None and seat.is_shared:
        return []
    if seat is None:
        bought = case.where and all(place.placement == "hosted-api" for place in case.where)
        if bought and list_online_workloads(case.needs) and list_platform_parts(case.needs):
            case.ledger.add_assumptions(
                "the gateway of a hosted model runs on a machine that is there: no machine may be rented"
            )
        return []
    low, high = min(seat.counts), max(seat.counts)
    name = f"host of {', '.join(seat.parts)}: {low if low == high else f'{low} to {high}'} x "
    if seat.offer is None:
        return list(_price_own_servers(case, seat, f"{name}small server in {seat.where.region}"))
    price = case.quotes.offer(seat.offer)
    flow = [count * price.usd * HOURS_PER_MONTH for count in seat.counts]
    line = f"{name}{seat.offer.instance_type} in {seat.offer.region}"
    return [make_varying_flow(line, "platform", flow, (*price.drivers, seat.machines))]


def _price_own_servers(case: OptionContext, seat: ControlPlaneHosting, line: str) -> Iterable[CashFlow]:
    """Bought; where nothing may be bought, the house charges for them month by month over their life."""
    price, support = case.quotes.part(SERVER_PART), case.quotes.part("support")
    unit = UnitPrice(price.usd, (*price.drivers, seat.machines))
    month = price.usd * support.usd / MONTHS_PER_YEAR
    paid = [month * count for count in seat.counts]
    yield make_varying_flow(f"support of {line}", "support", paid, (*unit.drivers, *support.drivers))
    if case.needs.budget.capex > 0:
        bought = HardwarePurchase(line, "platform", unit, seat.counts, SERVER_LIFE)
        yield from price_lifecycle(case.quotes, bought)
        return
    rent = price.usd / (MONTHS_PER_YEAR * case.quotes.lifetime_years(SERVER_LIFE))
    case.ledger.add_assumptions(
        "budget.capex 0: servers of the platform are charged by the month, their price spread over life"
    )
    yield make_varying_flow(line, "platform", [rent * count for count in seat.counts], unit.drivers)


def get_own_servers(case: OptionContext) -> ControlPlaneHosting | None:
    seat = case.seat
    own = seat is not None and seat.offer is None and not seat.is_shared and seat.where.placement in OWN_PLACEMENTS
    return seat if own else None


def estimate_server_draw(case: OptionContext, count: float) -> Estimate:
    return case.catalog.parameter(SERVER_DRAW_PART).scaled(count, unit="kW")


def price_server_energy(case: OptionContext, seat: ControlPlaneHosting, kwh: UnitPrice) -> CashFlow:
    """On all the time; `kwh`: USD of one at the plug."""
    one = case.quotes.part(SERVER_DRAW_PART)
    flow = [count * one.usd * HOURS_PER_MONTH * kwh.usd for count in seat.counts]
    line = f"electricity of the platform's servers in {seat.where.region}"
    return make_varying_flow(line, "energy", flow, (*kwh.drivers, *one.drivers, seat.machines))
