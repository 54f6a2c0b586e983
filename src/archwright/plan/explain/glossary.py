"""What the words of a plan mean: those that head its tables, and the categories of its cost lines."""

from __future__ import annotations

from archwright.contract.plan import CostCategory

CATEGORY_MEANINGS: dict[CostCategory, str] = {
    "compute": "machines that are rented, by the hour or committed",
    "tokens": "tokens of models that somebody else hosts",
    "platform": "what a managed platform charges on top of its machines",
    "purchase": "machines, disks and switches that are bought, in the month they are paid",
    "refresh": "machines bought again when their life ends inside the horizon",
    "residual": "what bought machines still sell for at the end of the horizon; it lowers the total",
    "support": "support contracts and spare parts of bought machines",
    "licence": "licences that are paid for",
    "energy": "electricity at the plug, cooling included",
    "facility": "space for racks",
    "network": "switches, links and traffic inside",
    "egress": "traffic that leaves to the internet, between regions or between zones",
    "storage": "what is kept, by the month",
    "staff": "people the platform takes; in the total, outside the budget's limit per month",
}
TERM_MEANINGS = {
    "band": "The truth lies between its ends with the stated probability, 90 % where nothing else is said.",
    "stratum": "How near the measured configurations a number is; a band is as wide as its stratum earns.",
    "basis": "Where a number comes from: formula, vendor, simulated, calibrated, measured, quoted or assumed.",
    "capex": "What is paid to buy, over the horizon, renewals included; what is sold at the end is not taken off.",
    "a month": "What recurs, without staff, as the mean over the horizon: the sum the budget's limit per month is for.",
    "total": "Every cost line over the horizon, staff included, less what bought machines still sell for.",
    "cheaper": "In which share of the draws of all facts an option costs less than the chosen one; equals count half.",
    "tie": "Two options whose costs cannot be told apart by the facts, drawn together.",
    "pareto": "The options that no other one beats or equals in every respect compared.",
    "break-even": "The first month by whose end less has been paid for the chosen option than for another one.",
    "payback": "The first month by whose end the goals have brought what the plan has cost until then.",
    "at risk": "A limit that the value keeps and that lies inside the value's band.",
    "TTFT": "Time to first token: request received to first content.",
    "TPOT": "Time per output token: (last token - first token) / (tokens - 1) of a finished request.",
    "residual value": "What bought machines are still worth at the end of the horizon; it lowers the total.",
    "present value": "All payments, each divided by (1 + the price of money a year) for the time until it is made.",
}
