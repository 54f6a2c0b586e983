"""Section lines from rows of guidance: advice selected by the plan's traits, and templates of computed lines."""

import functools
import shlex
from collections.abc import Mapping
from typing import Any

from archwright.catalog.tables.csv_table import DATA
from archwright.catalog.tables.guidance_rows import Advice, Theme, read_advice
from archwright.catalog.tables.yaml_documents import read_document
from archwright.contract.decision import SectionLine
from archwright.contract.evidence import Query, Statistic
from archwright.contract.needs import ExistingComponent
from archwright.contract.number_format import format_quantity, format_share
from archwright.contract.record import Record, as_dict
from archwright.plan.accounting.fleet import ChosenOption
from archwright.plan.sections.plan_traits import build_template_values, derive_traits

# The date of rows whose source is the plan itself.
PLAN_DATE = "plan"
WINDOW_S = 3600.0
# The command that measures a kept tool, by its kind; other kinds are not measured.
EXISTING_TOOL_PROOFS = {
    "gateway": "archwright bench {url} --against plan.json",
    "engine": "archwright bench {url} --against plan.json",
    "monitoring": "archwright reconcile plan.json --prometheus {url}",
}


class LineTemplate(Record):
    """Texts of a computed line: `{name}` stands for a value, as in `str.format`."""

    topic: str
    choice: str
    why: str
    alternative: str = ""
    why_not: str = ""
    proof: str = ""
    source: str = ""


@functools.cache
def read_line_templates() -> Mapping[str, LineTemplate]:
    """Raises CatalogError: AW-CAT-03 without the file, AW-CAT-04 for a wrong row."""
    return read_document(DATA / "texts" / "computed_lines.yaml", dict[str, LineTemplate])


class TemplateNumber(float):
    """A number in a template: `{name}`, `{name:share}` in whole percent, `{name:percent}` with its digits."""

    def __format__(self, form: str) -> str:
        if form == "share":
            return format_share(self)
        return format_quantity(self, "share" if form == "percent" else "")


def fill_line(template: str, values: Mapping[str, object], **fields: Any) -> SectionLine:
    """A line from a template; `fields` replace the texts of the template or add to them."""
    shown = {name: TemplateNumber(value) if isinstance(value, float | int) else value for name, value in values.items()}
    texts = {name: text.format_map(shown) for name, text in as_dict(read_line_templates()[template]).items()}
    return SectionLine(**{**texts, **fields})


def write_proof(metric: str, statistic: Statistic, **labels: str) -> str:
    return Query(metric=metric, labels=labels, statistic=statistic, window_s=WINDOW_S).promql()


def select_guidance(chosen: ChosenOption, theme: Theme) -> tuple[SectionLine, ...]:
    """One line per topic, from the first row that fits. A tool of the user replaces the rows of its kind."""
    traits, values = derive_traits(chosen), build_template_values(chosen)
    kept = {own.kind for own in chosen.needs.existing}
    lines: dict[str, SectionLine] = {}
    for row in read_advice(theme):
        fits = traits.issuperset(row.when) and traits.isdisjoint(row.unless)
        if row.topic not in lines and fits and row.kept not in kept:
            lines[row.topic] = _build_advice_line(row, values, chosen)
    return tuple(lines.values())


def _build_advice_line(row: Advice, values: dict[str, str], chosen: ChosenOption) -> SectionLine:
    """High confidence and the date of the plan itself are not stated in the source."""
    dated = "" if row.as_of == PLAN_DATE else f", {row.as_of}"
    unsure = "" if row.confidence == "high" or not dated else f" ({row.confidence})"
    return SectionLine(
        topic=row.topic,
        choice=row.choice.format_map(values),
        why=row.why.format_map(values),
        demanded_by=tuple(name for name in row.clauses if name.partition(" ")[0] in chosen.needs.regulations),
        proof=row.proof,
        alternative=row.alternative.format_map(values),
        why_not=row.why_not.format_map(values),
        estimate=getattr(chosen.option, row.figure) if row.figure and chosen.option is not None else None,
        source=f"{row.source}{dated}{unsure}",
    )


def list_existing_tools(chosen: ChosenOption) -> tuple[SectionLine, ...]:
    """Tools that the organisation runs already, with their addresses; they are not priced."""
    return tuple(map(_build_existing_line, chosen.needs.existing))


def _build_existing_line(own: ExistingComponent) -> SectionLine:
    proof = EXISTING_TOOL_PROOFS.get(own.kind, "") if own.url else ""
    unproved = "" if proof else ". To do: measure it" + ("" if own.url else ", and state its url in the needs")
    values = {"kind": own.kind.capitalize(), "product": own.product, "unproved": unproved}
    values["place"] = f" at {own.url}" if own.url else ""
    return fill_line("stack.existing", values, proof=proof.format(url=shlex.quote(own.url or "")))
