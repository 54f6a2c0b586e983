"""Records of a plan as text for people."""

from archwright.contract.decision import BindingLimit, CostDriver, ReturnOnInvestment, Rival
from archwright.contract.needs import Workload
from archwright.contract.number_format import (
    format_apart,
    format_compared,
    format_estimate,
    format_money,
    format_number,
    format_quantity,
    format_share,
)
from archwright.contract.plan import PART_TIME_FTE, ConstraintViolation, LimitProbability, Pool, Purchase, StaffNeed


def describe_load(workload: Workload) -> str:
    """ "60 hours of audio a day in 90 files, within 6 h": the work that the machines are sized for; "" without one."""
    traffic, parts = workload.traffic, list[str]()
    if traffic is None:
        amount = workload.tokens or 0.0
        every = f" each {workload.every}" if workload.every else ""
        return f"{format_number(amount / 1e6)} M tokens in a run{every}" if amount else ""
    pages, audio_s = traffic.pages_per_document, traffic.audio_s
    if traffic.documents is not None and audio_s:
        hours = format_number(traffic.documents * audio_s / 3600)
        parts.append(f"{hours} hours of audio in {format_number(traffic.documents)} files")
    elif traffic.documents is not None:
        each = f" of {format_number(pages)} pages" if pages else ""
        parts.append(f"{format_number(traffic.documents)} documents{each}")
    elif traffic.gib_per_day is not None:
        parts.append(f"{format_number(traffic.gib_per_day)} GiB a day")
    elif workload.rate is not None:
        each = f" of {format_number(audio_s)} s of audio" if audio_s else ""
        parts.append(f"{format_number(workload.rate.peak)} requests/s at today's peak{each}")
    if traffic.documents is not None and traffic.refresh:
        parts[0] += f" each {traffic.refresh}"
    return ", ".join([*parts, *([f"done within {format_number(traffic.deadline_h)} h"] if traffic.deadline_h else [])])


def describe_engines(pool: Pool) -> str:
    """ "29 engines of 1 x DEVICE, on MACHINE": engines, not machines."""
    device = f" of {pool.accelerator_count} x {pool.accelerator}" if pool.accelerator_count else ""
    return f"{pool.replicas} engine{'s' if pool.replicas != 1 else ''}{device}, on {pool.machine}"


def format_shares(pool: Pool) -> str:
    """ "43 %, 76 %, 0 %": share of the workload's requests by year; "" if no other pool serves the workload."""
    return ", ".join(map(format_share, pool.shares))


def describe_purchase(bought: Purchase) -> str:
    """ "letters: 2 x MACHINE bought, peak 2 (the same machines as xray)"."""
    same = f" (the same machines as {', '.join(bought.shared_with)})" if bought.shared_with else ""
    return f"{bought.pool}: {format_number(bought.machines)} x {bought.machine} {bought.kind}, peak {bought.peak}{same}"


def format_miss(miss: ConstraintViolation) -> str:
    """ "per_month: 4,100, limit 3,500"; "chat.ttft_p95_s: at best 0.065, limit 0.001"."""
    value = format_compared(miss.value, miss.limit) or "none"
    best = "at best " if miss.at_best else ""
    text = f"{miss.constraint}: {best}{value}"
    if miss.limit is None:
        return text
    return f"{text}, limit {format_compared(miss.limit, miss.value)}"


def describe_limit(one: LimitProbability) -> str:
    """ "chat.ttft_p95_s <= 500 ms holds with 84 %"; with the required certainty if it is more."""
    text = f"{one.limit} {one.sign} {format_quantity(one.stated, one.predicted.unit)} holds with {one.chance}"
    if one.holds:
        return text
    return f"{text}, less than the required {format_share(one.certainty)}"


def describe_rival(rival: Rival) -> str:
    """ "cloud-x is cheaper in 41 % of the samples: a tie. The chosen option is cheaper in total from month 14"."""
    tie = f": {rival.closeness}" if rival.tie else ""
    if rival.equal:
        return f"{rival.option} costs the same in every sample"
    month = rival.break_even_month
    paid = f"is cheaper in total from month {month}" if month else "is never cheaper in total"
    return f"{rival.option} is cheaper in {format_share(rival.cheaper)} of the samples{tie}. The chosen option {paid}"


def describe_staff(need: StaffNeed) -> str:
    """ "platform: 1.2 FTE (0.6 to 2.1), 172 hours per month; the team has time for 0.5 FTE"."""
    hours = f"{format_number(need.hours)} hours a month"
    whole = f"{format_estimate(need.needed)}, {hours}" if need.needed.value >= PART_TIME_FTE else hours
    return f"{need.role}: {whole}; the team has time for {need.format_time(need.team)}"


def describe_binding_limit(limit: BindingLimit, currency: str) -> str:
    """ "letters.tpot_p95_s 0.05 (relaxed to 0.1) costs 120,000 EUR over the horizon, compared with cloud-x"."""
    saves = format_money(limit.saves, currency)
    return f"{limit.change} costs {saves} over the horizon, compared with {limit.option}"


def describe_switch_point(driver: CostDriver) -> str:
    """ "price of ... is 4.2 USD/h (3.1 to 5.6); at 3.4 USD/h, inside its interval, cloud-x would be chosen"."""
    if driver.flips_at is None:
        return f"{driver.name}: no value within a factor of ten changes the choice"
    place = "inside" if driver.inside else "outside"
    at = format_apart(driver.flips_at, driver.estimate.value, driver.estimate.unit)
    figure = format_estimate(driver.estimate)
    return f"{driver.name} ({driver.basis}) is {figure}; at {at}, {place} its interval, {driver.consequence}"


def describe_return(returns: ReturnOnInvestment) -> str:
    payback = f"paid back by month {returns.payback_month}" if returns.payback_month else "not paid back in the horizon"
    unit = returns.cost.unit
    return (
        f"the goals bring {format_money(returns.value, unit)} over the horizon, net {format_estimate(returns.net)}; "
        f"{payback}. The value covers the cost within the horizon in {format_share(returns.pays)} of the samples"
    )
