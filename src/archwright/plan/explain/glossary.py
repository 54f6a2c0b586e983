"""Glossary: the terms of a plan's tables, and the categories of its cost lines."""

from archwright.contract.plan import CostCategory

CATEGORY_MEANINGS: dict[CostCategory, str] = {
    "compute": "rented machines, on demand or committed",
    "tokens": "tokens of hosted models",
    "platform": "control-plane machines (gateway, database, monitoring) and fees of a managed platform",
    "purchase": "purchased machines, disks and switches, in the month of payment",
    "refresh": "replacement of machines whose life ends inside the horizon",
    "residual": "resale value of purchased machines at the end of the horizon; it lowers the total",
    "support": "support contracts and spare parts of purchased machines",
    "licence": "software licences",
    "energy": "electricity at the plug, cooling included",
    "facility": "space for racks",
    "network": "switches, links and internal traffic",
    "egress": "traffic to the internet, between regions or between zones",
    "storage": "stored data, per month",
    "staff": "staff beyond the team that operates the platform; in the total, outside the budget's monthly limit",
}
TERM_MEANINGS = {
    "interval": "The range that contains the true value with the stated probability, 90 % by default.",
    "stratum": "How similar this configuration is to measured ones. Less similar means a wider interval.",
    "basis": "Origin of a number: formula, vendor, simulated, calibrated, measured, quoted or assumed.",
    "capex": "All purchases over the horizon, replacements included. The resale value is not deducted.",
    "a month": "Mean recurring cost over the horizon, without staff. The budget's monthly limit applies to this sum.",
    "total": "All cost lines over the horizon, staff beyond the team included, less the resale value of machines.",
    "staff beyond the team": "Work that the people of organisation.team have no time for. Only this work costs money.",
    "binding limits": "Limits of the needs that make the plan dearer, with their costs. Another option may save more.",
    "cheaper": "Share of the samples in which an option costs less than the chosen one. Equal samples count half.",
    "tie": "Two options with totals within 5 %, each of them cheaper in 40 to 60 % of the samples.",
    "pareto": "The options that no other option matches or beats in every criterion.",
    "break-even": "The first month by whose end the chosen option has cost less than another option.",
    "payback": "The first month by whose end the value of the goals has covered the cost of the plan.",
    "certainty": "The probability with which each limit must hold: slo.certainty and budget.certainty of the needs.",
    "holds with": "The probability that the plan keeps a limit, by the interval of the predicted value.",
    "TTFT": "Time to first token: from the request to the first content.",
    "TPOT": "Time per output token: (last - first token) / (tokens - 1) of a finished request.",
    "residual value": "Resale value of purchased machines at the end of the horizon. It lowers the total.",
    "present value": "All payments, each divided by (1 + discount rate) for each year until it is due.",
}
