"""Files of good form that break a rule: numbers, names, facts of the catalog, fields of another kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest

from archwright.errors import NeedsError
from archwright.needs.template import read_template

DESK, STARTUP, CLINIC, PLANT = (read_template(name) for name in ("desk", "startup", "clinic", "manufacturer"))
RATE = "workloads[0].traffic.requests_per_second.mean"


class Broken(NamedTuple):
    """A file, and the answer that is due."""

    data: bytes
    code: int
    line: int | None
    field: str | None
    part: str
    nearest: str = ""


def edit(old: str, new: str, answer: tuple[int, int, str, str], nearest: str = "", file: str = DESK) -> Broken:
    """A good file with one place changed."""
    assert old in file, old
    code, line, field, part = answer
    return Broken(file.replace(old, new, 1).encode(), code, line, field, part, nearest)


NUMBERS: dict[str, Broken] = {
    "negative": edit("per_month: 60", "per_month: -60", (12, 20, "budget.per_month", "per_month cannot be -60")),
    "negative size": edit("size_gib: 0.1", "size_gib: -1", (12, 17, "data[0].size_gib", "cannot be")),
    "huge size": edit("size_gib: 0.1", "size_gib: 2.0e+9", (12, 17, "data[0].size_gib", "cannot be")),
    "not a number": edit("per_month: 60", "per_month: .nan", (12, 20, "budget.per_month", "cannot be nan")),
    "infinite": edit("size_gib: 0.1", "size_gib: .inf", (12, 17, "data[0].size_gib", "cannot be inf")),
    "infinite whole number": edit(
        "horizon_months: 36", "horizon_months: -.inf", (12, 20, "budget.horizon_months", "cannot be -inf")
    ),
    "overflow": edit("size_gib: 0.1", "size_gib: 1e999", (12, 17, "data[0].size_gib", "cannot be inf")),
    "90 digits": edit("per_month: 60", f"per_month: {'9' * 90}", (12, 20, "budget.per_month", "cannot be 999")),
    "9,000 digits": edit("per_month: 60", f"per_month: {'9' * 9000}", (10, 20, "budget.per_month", "must be a number")),
    "availability 1": edit(
        "availability: 0.99", "availability: 1", (12, 14, "workloads[0].slo.availability", "cannot be")
    ),
    "availability in per cent": edit(
        "availability: 0.99", "availability: 99.9", (12, 14, "workloads[0].slo.availability", "cannot be")
    ),
    "quality 0": edit(
        "mmlu_pro: 0.45", "mmlu_pro: 0", (12, 9, "workloads[0].quality.mmlu_pro", "cannot be"), "", STARTUP
    ),
    "time of 0 s": edit("ttft_p95_s: 8.0", "ttft_p95_s: 0", (12, 14, "workloads[0].slo.ttft_p95_s", "cannot be 0")),
    "25 hours": edit(
        "hours_per_day: 16",
        "hours_per_day: 25",
        (12, 15, "workloads[0].traffic.hours_per_day", "cannot be"),
        "",
        STARTUP,
    ),
    "shrinks to nothing": edit(
        "growth_per_year: 0.8",
        "growth_per_year: -1",
        (12, 14, "workloads[0].traffic.growth_per_year", "cannot be"),
        "",
        STARTUP,
    ),
    "no months": edit("horizon_months: 36", "horizon_months: 0", (12, 20, "budget.horizon_months", "cannot be 0")),
    "a thousand years": edit(
        "horizon_months: 36", "horizon_months: 12000", (12, 20, "budget.horizon_months", "cannot be 12000")
    ),
    "mean of 0": edit("mean: 0.1", "mean: 0", (12, 11, RATE, "cannot be 0")),
    "no sites": edit("count: 14", "count: 0", (12, 44, "sites.plants.count", "cannot be 0"), "", PLANT),
    "peak below mean": edit("peak: 0.3", "peak: 0.01", (18, 11, RATE.replace("mean", "peak"), "below the mean")),
    "p95 below mean": edit("p95: 400", "p95: 100", (18, 12, "workloads[0].traffic.input_tokens.p95", "below the mean")),
    "shares over 1": edit("APAC: 0.2", "APAC: 0.3", (18, 25, "workloads[1].traffic.regions", "sum to 1.1"), "", PLANT),
    "negative share": edit(
        "APAC: 0.2", "APAC: -0.2", (12, 25, "workloads[1].traffic.regions.APAC", "cannot be"), "", PLANT
    ),
}
LONG = "x" * 5000
NAMES: dict[str, Broken] = {
    "no workload": edit(
        DESK[DESK.index("workloads:") : DESK.index("data:\n")], "workloads: []\n", (9, 6, "workloads", "no workload")
    ),
    "capital in a name": edit("name: assistant", "name: Assistant", (13, 7, "workloads[0].name", '"Assistant"')),
    "41 characters": edit("name: assistant", f"name: {'a' * 41}", (13, 7, "workloads[0].name", "cannot be a name")),
    "line end in a name": edit("name: assistant", 'name: "a\\n"', (13, 7, "workloads[0].name", "\\u000a")),
    "blank text": edit("name: Desk", 'name: " "', (13, 3, "organisation.name", "empty")),
    "long goal": edit("a private assistant on this machine", LONG, (13, 5, "goals[0].text", "5,000 characters")),
    "dot in a site's name": edit(
        "sites: {plants:", "sites: {a.b: {count: 1}, plants:", (13, 44, "sites.a.b", '"a.b"'), "", PLANT
    ),
    "two workloads of one name": edit("name: index", "name: tone", (14, 26, "workloads[2].name", "twice"), "", STARTUP),
    "two data sets of one name": edit(
        "  - {name: handbook",
        "  - {name: handbook, size_gib: 1}\n  - {name: handbook",
        (14, 33, "data[2].name", "twice"),
        "",
        STARTUP,
    ),
    "bases in a circle": edit(
        "base: assistant",
        "base: b\n  - {name: b, kind: finetune, base: house-model, method: lora, tokens: 1}\n"
        "  - name: c\n    kind: finetune\n    base: assistant",
        (18, 30, "workloads[2].base", "circle"),
        "",
        PLANT,
    ),
    "a regulation twice": edit("[gdpr]", "[gdpr, gdpr]", (14, 18, "regulations[1]", "twice")),
    "unknown data": edit("data: [notes]", "data: [note]", (15, 15, "workloads[0].data[0]", '"note"'), "notes"),
    "unknown data, and a name that would act on a terminal": edit(
        "{name: notes", '{name: "a\\nb"', (15, 15, "workloads[0].data[0]", '"notes"')
    ),
    "unknown site": edit(
        "sites: [plants]", "sites: [plant]", (15, 14, "workloads[0].sites[0]", '"plant"'), "plants", PLANT
    ),
    "no sites at all": edit(
        "data: [notes]", "data: [notes]\n    sites: [here]", (15, 16, "workloads[0].sites[0]", '"here"')
    ),
    "unknown base": edit(
        "base: support-chat", "base: suport-chat", (16, 20, "workloads[1].base", "suport-chat"), "support-chat", STARTUP
    ),
    "its own base": edit(
        "base: support-chat", "base: tone", (18, 20, "workloads[1].base", "its own base"), "", STARTUP
    ),
    "base without a model": edit(
        "base: assistant", "base: telemetry", (18, 30, "workloads[2].base", "data-processing"), "", PLANT
    ),
    "nothing allowed": edit("[this-machine]", "[]", (18, 19, "placement.allow", "allows nothing")),
    "preferred, not allowed": edit(
        "prefer: on-premises", "prefer: serverless", (18, 34, "placement.prefer", "not allowed"), "", CLINIC
    ),
}
FACTS: dict[str, Broken] = {
    "unknown country": edit("country: DE", "country: XX", (16, 3, "organisation.country", '"XX"')),
    "country by name": edit("country: DE", "country: Germany", (16, 3, "organisation.country", "Germany"), "DE"),
    "country in small letters": edit("country: DE", "country: no", (16, 3, "organisation.country", '"no"'), "NO"),
    "country of three letters": edit("country: DE", "country: DEU", (16, 3, "organisation.country", '"DEU"'), "DE"),
    "the kingdom": edit("country: DE", "country: UK", (16, 3, "organisation.country", '"UK"'), "GB"),
    "country of the site": edit(
        "site: {country: DE", "site: {country: GER", (16, 35, "placement.site.country", '"GER"'), "", CLINIC
    ),
    "country of a plant": edit(
        "[FR, US, CN]", "[FR, USA, CN]", (16, 44, "sites.plants.countries[1]", '"USA"'), "US", PLANT
    ),
    "unknown residency": edit("[DE]", "[EAA]", (16, 17, "data[0].residency[0]", '"EAA"'), "EEA"),
    "unknown region": edit(
        "regions: [US]", "regions: [us-eest-1]", (16, 34, "placement.regions[0]", "us-eest-1"), "us-east-1", STARTUP
    ),
    "unknown place of traffic": edit(
        "APAC: 0.2", "APEC: 0.2", (16, 25, "workloads[1].traffic.regions.APEC", "APEC"), "APAC", PLANT
    ),
    "unknown provider": edit("[aws,", "[awz,", (16, 34, "placement.clouds[0]", '"awz"'), "aws", STARTUP),
    "unknown regulation": edit("[gdpr]", "[gdrp]", (16, 18, "regulations[0]", '"gdrp"'), "gdpr"),
    "unknown currency": edit("currency: EUR", "currency: EURO", (16, 20, "budget.currency", '"EURO"'), "EUR"),
    "unknown model": edit(
        "SmolLM2-135M-Instruct ",
        "SmolLN2-135M-Instruct ",
        (16, 9, "workloads[0].model", "SmolLN2"),
        "SmolLM2-135M-Instruct",
    ),
    "unknown benchmark": edit(
        "mmlu_pro: 0.45", "mmlu_por: 0.45", (16, 9, "workloads[0].quality.mmlu_por", "mmlu_por"), "mmlu_pro", STARTUP
    ),
    "unknown accelerator": edit(
        "spot: true", "spot: true\n  accelerators: [Z9]", (16, 49, "placement.accelerators[0]", '"Z9"'), "", PLANT
    ),
    "unknown machine": edit(
        "8x H100 SXM", "8x H900 QXM", (16, 50, "placement.owned[0].machine", "H900 QXM"), "", PLANT
    ),
    "machine without a count": edit(
        "8x H100 SXM", "H100 SXM", (19, 50, "placement.owned[0].machine", "is not a machine"), "", PLANT
    ),
    "none of a machine": edit(
        "8x H100 SXM", "0x H100 SXM", (19, 50, "placement.owned[0].machine", "is not a machine"), "", PLANT
    ),
}
EXISTING = "regulations: [gdpr]\nexisting: [{kind: gateway, product: own, url: URL}]"
KINDS: dict[str, Broken] = {
    "chat with tokens": edit("data: [notes]", "tokens: 5", (17, 15, "workloads[0].tokens", "kind chat has no field")),
    "chat with features": edit(
        "      input", "      features: 3\n      input", (17, 12, "workloads[0].traffic.features", "has no field")
    ),
    "fine-tune with traffic": edit(
        "every: month", "traffic: {documents: 1}", (17, 23, "workloads[1].traffic", "finetune"), "", STARTUP
    ),
    "embedding with ttft": edit(
        "data: [handbook]\ndata",
        "slo: {ttft_p95_s: 1}\ndata",
        (17, 29, "workloads[2].slo.ttft_p95_s", "embedding"),
        "",
        STARTUP,
    ),
    "chat without traffic": edit(
        DESK[DESK.index("    traffic") : DESK.index("    slo")],
        "",
        (9, 7, "workloads[0].traffic", "traffic is missing"),
    ),
    "chat without output": edit(
        "      output_tokens: {mean: 60, p95: 128}\n", "", (9, 10, "workloads[0].traffic.output_tokens", "missing")
    ),
    "fine-tune without base": edit(
        "    base: support-chat ", "    #", (9, 18, "workloads[1].base", "base is missing"), "", STARTUP
    ),
    "fine-tune with empty base": edit(
        "base: support-chat", "base: ~", (9, 20, "workloads[1].base", "base is missing"), "", STARTUP
    ),
    "images without parameters": edit(
        "      parameters: 25.0e+6\n", "", (9, 22, "workloads[1].traffic.parameters", "missing"), "", CLINIC
    ),
    "prediction without features": edit(
        "      features: 140\n", "", (9, 10, "workloads[0].traffic.features", "missing"), "", PLANT
    ),
    "processing without a deadline": edit(
        ", deadline_h: 3", "", (9, 38, "workloads[3].traffic.deadline_h", "missing"), "", PLANT
    ),
    "embedding of nothing": edit(
        "documents: 220000, tokens_per_document: 700, refresh: week",
        "hours_per_day: 2",
        (9, 28, "workloads[2].traffic.documents", "neither"),
        "",
        STARTUP,
    ),
    "documents of no length": edit(
        "tokens_per_document: 700, ", "", (9, 28, "workloads[2].traffic.tokens_per_document", "missing"), "", STARTUP
    ),
    "requests of no length": edit(
        "documents: 220000, tokens_per_document: 700, refresh: week",
        "requests_per_second: {mean: 1, peak: 2}",
        (9, 28, "workloads[2].traffic.input_tokens", "missing"),
        "",
        STARTUP,
    ),
    "pre-training now and then": edit(
        "kind: finetune\n    base: assistant\n    method: full",
        "kind: pretrain\n    parameters: 7.0e+9",
        (17, 32, "workloads[2].every", "pretrain"),
        "",
        PLANT,
    ),
    "address of another scheme": edit(
        "regulations: [gdpr]", EXISTING.replace("URL", "ftp://h"), (19, 19, "existing[0].url", "ftp://h")
    ),
    "address without a host": edit(
        "regulations: [gdpr]", EXISTING.replace("URL", "'https://'"), (19, 19, "existing[0].url", "is not a URL")
    ),
    "address with a bad port": edit(
        "regulations: [gdpr]", EXISTING.replace("URL", "'http://h:99999'"), (19, 19, "existing[0].url", "is not a URL")
    ),
    "address with a password": edit(
        "regulations: [gdpr]", EXISTING.replace("URL", "'https://a:b@h'"), (19, 19, "existing[0].url", "password")
    ),
}
BROKEN = {**NUMBERS, **NAMES, **FACTS, **KINDS}


@pytest.mark.parametrize("name", list(BROKEN))
def test_broken_file(name: str, refused: Callable[[bytes], NeedsError]) -> None:
    case = BROKEN[name]
    error = refused(case.data)
    found = (error.code, error.where.line, error.where.field)
    assert found == (f"AW-NEEDS-{case.code:02d}", case.line, case.field), error.lines()
    assert case.part in error.message
    assert not case.nearest or case.nearest in error.nearest
