"""What limits cost: each saving is the difference of two plans."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from archwright.catalog.catalog import Catalog
from archwright.contract.decision import BindingLimit
from archwright.contract.plan import ConstraintViolation, Plan
from archwright.plan.accounting.budget import OptionDraft
from archwright.plan.capacity.candidates import SizingCache
from archwright.plan.capacity.quotas import QUOTA_MISS
from archwright.plan.decision.binding_limits import BindingLimitFinder
from archwright.plan.decision.comparison import compare_options
from archwright.plan.options.option_builder import BuiltOption

from ..conftest import edit, keep_workloads, only, option_of
from ..option_samples import MONTHS, doubtful, draft, needs, rent, world


def miss(constraint: str, value: float | str, limit: float | str = 1.0) -> ConstraintViolation:
    return ConstraintViolation(constraint=constraint, value=value, limit=limit)


def limits(catalog: Catalog, *drafts: OptionDraft, prefer: str | None = None) -> tuple[BindingLimit, ...]:
    wanted = needs(prefer=prefer)  # type: ignore[arg-type]
    made = world(catalog, wanted, {}, *drafts)
    compared = compare_options(wanted, made.options, made.drafts, made.purse)
    chosen = next(option for option in compared.options if option.name == compared.chosen)
    best = BuiltOption(next(one for one in drafts if one.name == chosen.name))
    finder = BindingLimitFinder(wanted, catalog, SizingCache(catalog), made.purse, lambda *_: None)
    return finder.find_limits(best, chosen, compared.options)


def test_a_cheaper_option_that_misses_one_limit_alone_is_the_price_of_this_limit(catalog: Catalog) -> None:
    found = limits(
        catalog,
        draft("chosen", rent(100)),
        draft("slow", rent(70), misses=(miss("chat.ttft_p95_s", 2.504),)),
        draft("slower", rent(60), misses=(miss("chat.ttft_p95_s", 4.0), miss("chat.tpot_p95_s", 3.0))),
        draft("abroad", rent(50), misses=(miss("residency", "CN", "EEA"),)),
        draft("dear", rent(130), misses=(miss("chat.latency_p95_s", 2.0),)),
        draft("old", rent(10), misses=(miss("stale_facts", "node x", "new"),)),
        draft("odd", rent(10), misses=(miss("chat.model", "none", "an accelerator that holds it"),)),
        draft("same", rent(99.9), misses=(miss("capex", 2.0),)),
    )
    assert [(one.constraint, one.option, one.relaxed_to) for one in found] == [
        ("residency", "abroad", "CN"),
        ("chat.ttft_p95_s", "slow", "2.51"),
    ]
    assert [one.saves for one in found] == pytest.approx([50 * MONTHS, 30 * MONTHS])
    assert found[1].change == "chat.ttft_p95_s 1 (relaxed to 2.51)"


def test_a_limit_that_a_cheaper_option_holds_with_less_certainty_is_the_price_of_this_limit(catalog: Catalog) -> None:
    """Found: a limit cost 11,236 EUR, and the plan said that no limit costs anything."""

    def uncertain(name: str, usd: float, *limits: tuple[str, float, float]) -> OptionDraft:
        return draft(name, rent(usd), placement="hosted-api", limits=tuple(doubtful(*limit) for limit in limits))

    fast = uncertain("fast", 70, ("chat.ttft_p95_s", 1.0, 2.0))
    both = uncertain("both", 60, ("chat.ttft_p95_s", 1.0, 4.0), ("chat.tpot_p95_s", 0.02, 0.03))
    quota = uncertain("quota", 10, (f"{QUOTA_MISS}p, accelerators", 1.0, 2.0))
    found = limits(catalog, draft("chosen", rent(100)), fast, both, quota)
    # Relaxed to the 70 % quantile of the prediction, a factor of 1.25 above its value.
    assert [(one.change, one.option) for one in found] == [
        ("chat.ttft_p95_s, chat.tpot_p95_s 1, 0.02 (relaxed to 4.99, 0.0375)", "both"),
        ("chat.ttft_p95_s 1 (relaxed to 2.5)", "fast"),
    ]
    assert [one.saves for one in found] == pytest.approx([40 * MONTHS, 30 * MONTHS])
    assert limits(catalog, draft("chosen", rent(60)), fast) == ()


def test_a_preference_costs_what_the_cheapest_option_would_save(catalog: Catalog) -> None:
    drafts = (draft("own", rent(100), placement="on-premises"), draft("rented", rent(80)))
    (found,) = limits(catalog, *drafts, prefer="on-premises")
    assert (found.constraint, found.option) == ("placement.prefer", "rented")
    assert found.saves == pytest.approx(20 * MONTHS)
    assert limits(catalog, *drafts) == (), "without the preference the cheapest is chosen"


def test_the_saving_of_a_relaxed_limit_is_the_difference_of_two_plans(plan_of: Callable[..., Plan]) -> None:
    """Letters at one cloud within a tight limit: planned again by the finder, and planned from the changed file."""
    tight = keep_workloads("letters", first=only("cloud"))
    model = plan_of("clinic", tight).chosen_option.models["letters"]  # type: ignore[union-attr]
    # The model is fixed, as the finder fixes it.
    fixed = edit({"workloads.0.model": model, "workloads.0.slo.tpot_p95_s": 0.03}, tight)
    plan = plan_of("clinic", fixed)
    limit = next(one for one in plan.decision.binding if one.constraint == "letters.tpot_p95_s")
    assert limit.limit == 0.03 and float(limit.relaxed_to) > 0.03
    again = plan_of("clinic", edit({"workloads.0.slo.tpot_p95_s": limit.relaxed_to}, fixed))
    before, after = (option_of(one, limit.option).total_cost for one in (plan, again))
    assert before is not None and after is not None
    assert limit.saves == pytest.approx(before.value - after.value) and limit.saves > 0
