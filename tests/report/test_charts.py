"""Charts: every picture parses, says in words what it shows, and keeps its texts in their room."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archwright.contract.decision import Decision
from archwright.contract.estimate import exact_estimate
from archwright.contract.plan import Option, Plan, Purchase
from archwright.contract.record import replace
from archwright.report import charts, svg
from archwright.report.architecture_diagram import describe_machine, draw_architecture
from archwright.report.bill import sum_years
from archwright.report.cumulative_cost_chart import draw_cumulative_costs
from archwright.report.document import FigureBlock

from .conftest import HOSTILE, many
from .full_plan import BOARD, DECISION, HYBRID, pool

SVG = "{http://www.w3.org/2000/svg}"


def texts(figure: FigureBlock) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(figure.svg).iter(f"{SVG}text")]


def shapes(figure: FigureBlock, name: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(figure.svg).iter(f"{SVG}{name}"))


def compared(options: tuple[Option, ...], chosen: str | None) -> Plan:
    return replace(BOARD, options=options, chosen=chosen, decision=Decision())


def drawn(figure: FigureBlock | None) -> FigureBlock:
    assert figure is not None
    return figure


def paid_more(name: str, factor: float) -> Option:
    """The chosen option under another name, with payments that are `factor` times as high."""
    return replace(HYBRID, name=name, cumulative_cost=tuple(paid * factor for paid in HYBRID.cumulative_cost))


def test_options_stand_in_order_with_their_verdict() -> None:
    figure = drawn(charts.draw_option_costs(BOARD))
    names = [text for text in texts(figure) if text in {option.name for option in BOARD.options}]
    assert names == ["hybrid-own-base", "cloud-aws-commit-3y", "cloud-azure", "on-premises-only", "cloud-gcp"]
    assert sum("not feasible" in text for text in texts(figure)) == 1
    assert "hosted-openai" not in figure.alt
    assert "1 more option" in figure.note


def test_what_has_no_price_is_not_drawn() -> None:
    bare = compared(BOARD.options[-1:], None)
    assert charts.draw_option_costs(bare) is charts.draw_years(bare, ()) is draw_cumulative_costs(bare) is None


def test_what_does_not_fit_is_counted_below() -> None:
    plan = many()
    figure = drawn(charts.draw_option_costs(plan))
    assert len([text for text in texts(figure) if text.startswith(("cloud", "hybrid", "on-prem"))]) == 14
    assert f"{len(plan.options) - 14} more options" in figure.note


def test_years_are_stacked_and_a_plan_without_years_shows_the_totals() -> None:
    figure = drawn(charts.draw_years(BOARD, sum_years(BOARD, HYBRID)))
    assert [text for text in texts(figure) if text.startswith("Year")] == [f"Year {n}" for n in range(1, 6)]
    assert {"Purchases", "Running cost", "Staff"} <= set(texts(figure)) and "Resale" in figure.note
    old = tuple(replace(line, by_year=()) for line in HYBRID.cost_lines)
    plain = drawn(charts.draw_years(BOARD, sum_years(BOARD, replace(HYBRID, cost_lines=old))))
    assert "Staff" not in texts(plain) and len(shapes(plain, "rect")) == 5


def test_break_even_is_marked_where_the_lines_cross() -> None:
    figure = drawn(draw_cumulative_costs(BOARD))
    assert "month 48" in texts(figure)
    assert figure.note == "From month 48, the chosen option is cheaper in total than cloud-azure."
    lines = {line.get("stroke-dasharray") for line in shapes(figure, "polyline")}
    assert len(lines) == len(shapes(figure, "polyline")) == 4, "lines differ by more than their colour"


def test_a_break_even_beyond_the_line_is_not_drawn_and_one_month_is_a_line() -> None:
    rivals = tuple(replace(rival, break_even_month=61) for rival in DECISION.rivals)
    late = replace(BOARD, decision=replace(DECISION, rivals=rivals))
    assert drawn(draw_cumulative_costs(late)).note == ""
    assert drawn(draw_cumulative_costs(replace(BOARD, chosen=None))).note == ""
    short = tuple(replace(option, cumulative_cost=option.cumulative_cost[:1]) for option in BOARD.options)
    assert "0" in texts(drawn(draw_cumulative_costs(compared(short, BOARD.chosen))))


def test_labels_at_the_lines_ends_do_not_overlap() -> None:
    same = tuple(paid_more(f"option-{n}", 1 + n / 40) for n in range(5))
    labels = shapes(drawn(draw_cumulative_costs(compared(same, None))), "text")
    places = sorted(float(label.get("y", "0")) for label in labels if (label.text or "").startswith("option-"))
    assert all(below - above >= 18.9 for above, below in pairwise(places))


def test_options_that_are_paid_alike_share_a_line() -> None:
    options = (HYBRID, paid_more("twin", 1.009), paid_more("other", 1.05))
    figure = drawn(draw_cumulative_costs(compared(options, HYBRID.name)))
    assert len(shapes(figure, "polyline")) == 2
    assert f"{HYBRID.name} +1" in texts(figure) and "other" in texts(figure)
    assert figure.note == f"{HYBRID.name} and twin differ by less than 1 % and share one line."


@pytest.mark.parametrize(
    ("months", "labels"),
    [
        ((20, 22), ["months 20 to 22"]),
        ((20, 40), ["month 20", "month 40"]),
        ((20, 21, 58), ["months 20 to 21", "month 58"]),
    ],
)
def test_break_evens_close_together_share_a_label(months: tuple[int, ...], labels: list[str]) -> None:
    options = tuple(paid_more(f"rival-{month}", 1 + n / 20) for n, month in enumerate(months, 1))
    rivals = tuple(replace(DECISION.rivals[0], option=f"rival-{month}", break_even_month=month) for month in months)
    plan = replace(BOARD, options=(HYBRID, *options), decision=Decision(rivals=rivals))
    found = drawn(draw_cumulative_costs(plan))
    assert [text for text in texts(found) if text.startswith("month") and ";" not in text] == labels
    assert len(shapes(found, "circle")) == len(months) + len(options) + 1
    assert all(f"From month {month}," in found.note for month in months)


def test_facts_of_one_name_are_told_apart() -> None:
    first, second, other = (
        replace(DECISION.drivers[0], basis=basis) for basis in ("price.own.gpu", "price.rent.gpu", "x")
    )
    names = charts.name_drivers((first, second, replace(other, name="electricity")))
    assert names == {"price.own.gpu": "own.gpu", "price.rent.gpu": "rent.gpu", "x": "electricity"}


def test_places_are_framed_by_whose_they_are() -> None:
    figure = draw_architecture(BOARD, HYBRID)
    said = texts(figure)
    for title in (
        "Own machines, FR",
        "aws: rented machines, us-east-1",
        "aws: hosted models",
        "Data lake",
        "Entry (DMZ)",
    ):
        assert title in said
    assert "Delta tables (existing)" in said
    frames = [rect for rect in shapes(figure, "rect") if rect.get("stroke") == svg.CHOSEN]
    assert [rect.get("stroke-dasharray") is None for rect in frames] == [True, False, False, False]


def test_machines_that_work_shares_are_drawn_once_and_plants_apart() -> None:
    """One fleet of 14, with the pool it answers in, is not three; machines at plants are not in the house."""
    shared = ("chat", "nightly", "tuned")
    had = tuple(
        Purchase(pool=name, machine="big", kind="bought", machines=9, peak=14, shared_with=tuple(set(shared) - {name}))
        for name in shared
    )
    house = pool("chat", region="FR", placement="on-premises", provider="on-premises")
    plant = replace(house, name="wear-fr", region="FR plants")
    said = texts(draw_architecture(BOARD, replace(HYBRID, pools=(house, plant), purchases=had, models={"tuned": "m"})))
    assert [text for text in said if text.startswith("Own machines")] == ["Own machines, FR", "Own machines, FR plants"]
    assert said.count("on the same 14 x big") == 2 and "Batch runs, no endpoint" not in said
    alone = texts(draw_architecture(BOARD, replace(HYBRID, pools=(), purchases=had, models={})))
    assert alone.count("on 14 x big") == 1 and alone.count("on the same 14 x big") == 2


def test_sixty_pools_fit_the_picture() -> None:
    plan = many()
    figure = draw_architecture(plan, plan.options[0])
    height = float(ElementTree.fromstring(figure.svg).get("height", "0"))
    bottoms = [float(rect.get("y", "0")) + float(rect.get("height", "0")) for rect in shapes(figure, "rect")]
    assert max(bottoms) < height < 1150, "no taller than a page of this width"
    assert "listed under Sizing" in texts(figure)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "8x H100 SXM"),
        ({"machine": "p5.48xlarge"}, "8 x H100-SXM-80GB (p5.48xlarge)"),
        ({"accelerator_count": 1}, "1 x H100-SXM-80GB (8x H100 SXM)"),
        ({"accelerator_count": 0, "machine": "small"}, "small"),
    ],
)
def test_a_machine_says_once_what_it_holds(changes: dict[str, Any], text: str) -> None:
    one = pool("p", region="FR", placement="cloud", provider="aws")
    assert describe_machine(replace(one, **changes)) == text


def test_texts_are_escaped() -> None:
    canvas = svg.SvgCanvas(100)
    canvas.text((0, 0), HOSTILE.replace("\x07", ""))
    assert "<script" not in canvas.render(10)
    ElementTree.fromstring(canvas.render(10))


@given(st.text(max_size=80), st.floats(min_value=20, max_value=400))
@settings(max_examples=100)
def test_what_is_fitted_fits(text: str, room: float) -> None:
    assert svg.text_width(svg.fit_text(text, 13, room), 13) <= room


@given(st.floats(min_value=1e-6, max_value=1e15))
@settings(max_examples=100)
def test_ticks_are_few_even_and_reach_past_the_largest(largest: float) -> None:
    marks = svg.axis_ticks(largest)
    assert marks[0] == 0
    assert marks[-1] >= largest * (1 - 1e-6)
    assert 2 <= len(marks) <= 12


def test_nothing_to_draw_has_an_axis_and_an_exact_cost_has_no_whisker() -> None:
    assert svg.axis_ticks(0.0) == svg.axis_ticks(float("nan")) == (0.0, 1.0)
    sure = replace(HYBRID, total_cost=exact_estimate(1e6, "EUR"))
    lines = shapes(drawn(charts.draw_option_costs(compared((sure,), None))), "line")
    assert svg.INK not in {line.get("stroke") for line in lines}


def test_a_plan_without_pools_shows_whose_models_answer() -> None:
    stored = texts(draw_architecture(replace(BOARD, stack=()), HYBRID))
    assert "Data lake" not in stored
    hosted = replace(HYBRID, placement="hosted-api", provider="openai", pools=(), models={"assistant": "m"})
    assert "openai: hosted models" in texts(draw_architecture(BOARD, hosted))
    none = draw_architecture(replace(BOARD, stack=(), sections=()), replace(hosted, models={}, purchases=()))
    assert "Application: nothing" in none.alt and "to decide" in texts(none)


def test_more_than_nine_pools_of_a_place_are_counted() -> None:
    pools = tuple(pool(f"p{n}", region="FR", placement="cloud", provider="aws") for n in range(30))
    shown = texts(draw_architecture(BOARD, replace(HYBRID, pools=pools, purchases=(), models={})))
    assert "22 more pools" in shown and "p7" in shown and "p8" not in shown


@pytest.mark.parametrize(
    ("text", "lines"),
    [("", []), ("one", ["one"]), ("one two three four", ["one two", "three four"]), ("a b c d e f g h i j k l", 2)],
)
def test_a_text_wraps_in_so_many_lines(text: str, lines: list[str] | int) -> None:
    made = svg.wrap_text(text, 10, 62, 2)
    assert len(made) == lines if isinstance(lines, int) else made == lines
    assert all(svg.text_width(line, 10) <= 62 for line in made)


def test_what_does_not_fit_loses_whole_words_and_a_name_breaks_at_its_own_marks() -> None:
    assert svg.fit_text("machines of this type that are bought", 12, 150) == "machines of this type …"
    assert svg.fit_text("short", 12, 150) == "short"
    assert all(svg.text_width(line, 10) <= 50 for line in svg.wrap_text("Donaudampfschifffahrt " * 3, 10, 50, 2))
    assert svg.wrap_text("cloud-aws-other-accelerators", 12, 120, 2) == ["cloud-aws-other-", "accelerators"]
    long = replace(HYBRID, name="cloud-aws-other-accelerators-and-regions")
    said = texts(drawn(charts.draw_option_costs(compared((long,), None))))
    assert "cloud-aws-other-" in said and "accelerators-and-regions" in said
