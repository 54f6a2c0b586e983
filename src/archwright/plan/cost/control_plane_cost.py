"""What the platform's own machines cost: rented by the month, or servers of one's own with support and renewal."""

from __future__ import annotations

from collections.abc import Iterable

from archwright.contract.estimate import Estimate
from archwright.contract.plan import OWN
from archwright.plan.accounting.cash_flow import Term, following
from archwright.plan.cost.control_plane import SERVER, Seat, parts_of
from archwright.plan.cost.data_placement import Case, answering
from archwright.plan.cost.hardware_lifecycle import MONTHS_PER_YEAR, SERVER_LIFE, Bought, renewed
from archwright.plan.cost.prices import Price
from archwright.plan.demand.forecast import HOURS_PER_MONTH

DRAW = "platform.server-draw"
# Rack units of such a server.
UNITS = 1


def host_terms(case: Case) -> list[Term]:
    """None where the platform shares machines, or is all there already."""
    seat = case.seat
    if seat is None:
        bought = case.where and all(place.placement == "hosted-api" for place in case.where)
        if bought and answering(case.needs) and parts_of(case.needs):
            case.ledger.assume(
                "the gateway of a hosted model runs on a machine that is there: no machine may be rented"
            )
        return []
    if seat.shared:
        return []
    name = f"host of {', '.join(seat.parts)}: {_counted(seat)} x "
    if seat.offer is None:
        return list(_own(case, seat, f"{name}small server in {seat.where.region}"))
    price = case.quotes.offer(seat.offer)
    flow = [count * price.usd * HOURS_PER_MONTH for count in seat.counts]
    line = f"{name}{seat.offer.instance_type} in {seat.offer.region}"
    return [following(line, "platform", flow, (*price.drivers, seat.machines))]


def _counted(seat: Seat) -> str:
    low, high = min(seat.counts), max(seat.counts)
    return f"{low}" if low == high else f"{low} to {high}"


def _own(case: Case, seat: Seat, line: str) -> Iterable[Term]:
    """Bought; where nothing may be bought, the house charges for them month by month over their life."""
    price, support = case.quotes.part(SERVER), case.quotes.part("support")
    unit = Price(price.usd, (*price.drivers, seat.machines))
    month = price.usd * support.usd / MONTHS_PER_YEAR
    paid = [month * count for count in seat.counts]
    yield following(f"support of {line}", "support", paid, (*unit.drivers, *support.drivers))
    if case.needs.budget.capex > 0:
        yield from renewed(case.quotes, Bought(line, "platform", unit, seat.counts, SERVER_LIFE))
        return
    rent = price.usd / (MONTHS_PER_YEAR * case.quotes.years(SERVER_LIFE))
    case.ledger.assume("budget.capex 0: servers of the platform are charged by the month, their price spread over life")
    yield following(line, "platform", [rent * count for count in seat.counts], unit.drivers)


def own_servers(case: Case) -> Seat | None:
    """The seat, where it is servers of one's own."""
    seat = case.seat
    own = seat is not None and seat.offer is None and not seat.shared and seat.where.placement in OWN
    return seat if own else None


def drawn(case: Case, count: float) -> Estimate:
    """kW of so many such servers."""
    return case.catalog.part(DRAW).scaled(count, unit="kW")


def host_energy(case: Case, seat: Seat, kwh: Price) -> Term:
    """On all the time; `kwh`: USD of one at the plug."""
    one = case.quotes.part(DRAW)
    flow = [count * one.usd * HOURS_PER_MONTH * kwh.usd for count in seat.counts]
    return following(
        f"electricity of the platform's servers in {seat.where.region}",
        "energy",
        flow,
        (*kwh.drivers, *one.drivers, seat.machines),
    )
