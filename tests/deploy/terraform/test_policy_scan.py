"""Waivers of the policy scan: each has a reason, an owner and an end, and covers one kind of resource only."""

from __future__ import annotations

from datetime import date, timedelta

from .policy_scan import Finding, list_open, read_waivers


def test_every_waiver_has_a_reason_an_owner_and_an_end() -> None:
    waivers = read_waivers()
    assert len({(one.check, one.resource) for one in waivers}) == len(waivers)
    for one in waivers:
        assert one.reason and one.owner
        assert date.today() < one.expires <= date.today() + timedelta(days=550), f"{one.check} ends {one.expires}"


def test_a_waiver_covers_its_resource_until_its_end() -> None:
    one = read_waivers()[0]
    finding = Finding(one.check, f"{one.resource}.site", "")
    assert list_open([finding], one.expires) == []
    assert list_open([finding], one.expires + timedelta(days=1)) == [finding]
    other = Finding(one.check, "another_kind.site", "")
    assert list_open([other], one.expires) == [other]
