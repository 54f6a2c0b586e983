"""Numbers and records of a plan as text for people."""

from archwright.contract.decision import BindingLimit, CostDriver, ReturnOnInvestment, Rival
from archwright.contract.estimate import Estimate
from archwright.contract.needs import Workload
from archwright.contract.plan import PART_TIME_FTE, ConstraintViolation, LimitProbability, Pool, Purchase, StaffNeed

UNIT_SCALES = {
    "bytes": ((2.0**40, "TiB"), (2.0**30, "GiB"), (2.0**20, "MiB")),
    "s": ((1.0, "s"), (1e-3, "ms")),
}
BIT_RATES = ((1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s"), (1.0, "bit/s"))
# Longest first; a duration is told in the first unit that it holds twice.
DURATIONS = ((86400.0, "days"), (3600.0, "h"), (60.0, "min"))


def format_number(number: float) -> str:
    """Three significant digits, whole numbers from 100 on; all digits of a share close to 1."""
    if 0.99 < number < 1:
        return f"{number:.12g}"
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"


def format_precise_number(number: float) -> str:
    """Four significant digits: for two numbers that may lie close to each other."""
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.4g}"


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
    """ "43 % 76 % 0 %": share of the workload's requests by year; "" if no other pool serves the workload."""
    return " ".join(f"{share:.0%}" for share in pool.shares)


def describe_purchase(bought: Purchase) -> str:
    """ "letters: 2 x MACHINE bought, peak 2 (the same machines as xray)"."""
    same = f" (the same machines as {', '.join(bought.shared_with)})" if bought.shared_with else ""
    return f"{bought.pool}: {format_number(bought.machines)} x {bought.machine} {bought.kind}, peak {bought.peak}{same}"


def format_estimate(estimate: Estimate) -> str:
    """ "0.21 s (0.15 .. 0.30)": value and band in a readable unit."""
    scale, unit = _choose_scale(estimate)
    low, value, high = (format_number(x / scale) for x in (estimate.low, estimate.value, estimate.high))
    return f"{value} {unit}" if low == high else f"{value} {unit} ({low} .. {high})"


def format_duration(seconds: float) -> str:
    """ "45 s", "12 min", "22.4 h"."""
    scale, unit = next((one for one in DURATIONS if abs(seconds) >= 2 * one[0]), (1.0, "s"))
    return f"{format_number(seconds / scale)} {unit}"


def format_bit_rate(bytes_per_s: float) -> str:
    """ "57.8 kbit/s"."""
    bits = 8 * bytes_per_s
    scale, unit = next((one for one in BIT_RATES if bits >= one[0]), BIT_RATES[-1])
    return f"{format_number(bits / scale)} {unit}"


def _choose_scale(estimate: Estimate) -> tuple[float, str]:
    steps = UNIT_SCALES.get(estimate.unit, ())
    return next(((scale, unit) for scale, unit in steps if abs(estimate.value) >= scale), (1.0, estimate.unit))


def format_miss(miss: ConstraintViolation) -> str:
    """ "per_month: 4,100, limit 3,500"; "chat.ttft_p95_s: at best 0.065, limit 0.001"."""
    limit = f", limit {_format_value(miss.limit)}" if miss.limit is not None else ""
    return f"{miss.constraint}: {'at best ' if miss.at_best else ''}{_format_value(miss.value)}{limit}"


def describe_limit(one: LimitProbability) -> str:
    """ "chat.ttft_p95_s <= 0.5 s holds with 84%"; with the required certainty if it is more."""
    sign, unit = ">=" if one.at_least else "<=", one.predicted.unit.removesuffix("share")
    less = "" if one.holds else f", less than the required {one.certainty:.0%}"
    return f"{one.limit} {sign} {f'{format_number(one.stated)} {unit}'.strip()} holds with {one.chance}{less}"


def _format_value(value: float | str | None) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else format_number(value)


def describe_rival(rival: Rival) -> str:
    """ "cloud-x is cheaper in 41 % of the samples: a tie. The chosen option is cheaper in total from month 14"."""
    tie = f": {rival.closeness}" if rival.tie else ""
    if rival.equal:
        return f"{rival.option} costs the same in every sample"
    month = rival.break_even_month
    paid = f"is cheaper in total from month {month}" if month else "is never cheaper in total"
    return f"{rival.option} is cheaper in {rival.cheaper:.0%} of the samples{tie}. The chosen option {paid}"


def describe_staff(need: StaffNeed) -> str:
    """ "platform: 1.2 FTE (0.6 .. 2.1), 172 hours per month; the team has time for 0.5 FTE"."""
    hours = f"{format_number(need.hours)} hours a month"
    whole = f"{format_estimate(need.needed)}, {hours}" if need.needed.value >= PART_TIME_FTE else hours
    return f"{need.role}: {whole}; the team has time for {need.format_time(need.team)}"


def describe_binding_limit(limit: BindingLimit, currency: str) -> str:
    """ "letters.tpot_p95_s 0.05 (relaxed to 0.1) costs 120,000 EUR over the horizon, compared with cloud-x"."""
    saves = f"{format_number(limit.saves)} {currency}"
    return f"{limit.change} costs {saves} over the horizon, compared with {limit.option}"


def describe_switch_point(driver: CostDriver) -> str:
    """ "price of ... is 4.2 USD/h (3.1 .. 5.6); at 3.4, inside its interval, cloud-x would be chosen"."""
    if driver.flips_at is None:
        return f"{driver.name}: no value within a factor of ten changes the choice"
    place = "inside" if driver.inside else "outside"
    scale, unit = _choose_scale(driver.estimate)
    at = format_precise_number(driver.flips_at / scale) + (f" {unit}" if scale != 1.0 else "")
    figure = format_estimate(driver.estimate)
    return f"{driver.name} ({driver.basis}) is {figure}; at {at}, {place} its interval, {driver.consequence}"


def describe_return(returns: ReturnOnInvestment) -> str:
    payback = f"paid back by month {returns.payback_month}" if returns.payback_month else "not paid back in the horizon"
    unit = returns.cost.unit
    return (
        f"the goals bring {format_number(returns.value)} {unit} over the horizon, net {format_estimate(returns.net)}; "
        f"{payback}. The value covers the cost within the horizon in {returns.pays:.0%} of the samples"
    )
