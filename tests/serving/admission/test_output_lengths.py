"""The usual output of a tenant and model: unknown at first, then the 95 % quantile of recent requests."""

from __future__ import annotations

from archwright.serving.admission.output_lengths import LEAST_SEEN, MAX_LEARNED, RECENT, OutputLengths


def test_the_usual_output_is_known_after_enough_requests() -> None:
    lengths = OutputLengths()
    for tokens in range(1, LEAST_SEEN):
        lengths.add("t", "m", tokens)
        assert lengths.find_usual("t", "m") is None
    lengths.add("t", "m", 1_000)
    assert lengths.find_usual("t", "m") == LEAST_SEEN - 1, "95 % of the requests are not longer"
    assert lengths.find_usual("t", "other") is lengths.find_usual("u", "m") is None


def test_old_requests_are_forgotten() -> None:
    lengths = OutputLengths()
    for tokens in [1_000] * RECENT + [0] * RECENT:
        lengths.add("t", "m", tokens)
    assert lengths.find_usual("t", "m") == 1, "at least one token"


def test_many_tenants_need_bounded_memory() -> None:
    lengths = OutputLengths()
    for number in range(MAX_LEARNED + 5):
        lengths.add(f"t{number}", "m", 1)
    assert len(lengths._learned) == 5
