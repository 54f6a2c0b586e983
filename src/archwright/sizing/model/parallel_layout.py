"""Parallel layout of a serving deployment, parsed from the text that a benchmark row or a user states.

Examples: `TP8 PP1 DP1 MoE-TP1 EP8`, `TP2PP2`, `disagg P:1x(TP4 DP1) D:4x(TP8 DP1)`. An empty or zero rank means 1.
A worker is one engine on tp x dp x pp devices, or on as many as its expert ranks need. Copies share the load.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from archwright.catalog.tables.records import ModelSpec

_PAIR = re.compile(r"\b([PD]):\s*(\d+)x\(\s*TP\s*(\d+)\s+DP\s*(\d*)\s*\)", re.IGNORECASE)
# Tables of disaggregated runs write wide expert parallelism as TP; such a deployment runs attention data parallel.
WIDEST_TENSOR = 8
_RANK = re.compile(r"(MoE-?TP|TP|PP|DP|EP)\s*(\d+)", re.IGNORECASE)
MOST_RANKS = 4096


class ParallelLayout(NamedTuple):
    """Ranks of one worker and the number of workers; `prefill` is the prefill pool of a disaggregated layout."""

    tp: int = 1
    pp: int = 1
    dp: int = 1
    moe_tp: int = 0
    ep: int = 0
    copies: int = 1
    prefill: ParallelLayout | None = None

    @property
    def devices(self) -> int:
        return max(self.tp * self.dp, self.moe_tp * self.ep, 1) * self.pp

    @property
    def total(self) -> int:
        return self.devices * self.copies + (self.prefill.total if self.prefill is not None else 0)


def _parse_rank(text: str) -> int:
    return min(max(int(text or 0), 1), MOST_RANKS)


def parse_layout(text: str) -> ParallelLayout | None:
    """Return the stated layout, or None if the text states no ranks."""
    pools = {kind.upper(): tuple(map(_parse_rank, sizes)) for kind, *sizes in _PAIR.findall(text)}
    if "P" in pools and "D" in pools:
        return _pool_layout(*pools["D"])._replace(prefill=_pool_layout(*pools["P"]))
    ranks: dict[str, int] = {}
    for name, size in _RANK.findall(text):
        ranks.setdefault(name.upper().replace("-", ""), _parse_rank(size))
    if not ranks:
        return None
    tp, dp, moe_tp, ep = (ranks.get(name, 1) for name in ("TP", "DP", "MOETP", "EP"))
    attention = tp * dp
    if moe_tp * ep != attention:
        # The expert ranks contradict the attention ranks: keep the EP degree if it divides the attention ranks.
        ep = ep if attention % ep == 0 else 1
        moe_tp = attention // ep
    return ParallelLayout(tp=tp, pp=ranks.get("PP", 1), dp=dp, moe_tp=moe_tp, ep=ep)


def _pool_layout(copies: int, tp: int, dp: int) -> ParallelLayout:
    if tp > WIDEST_TENSOR:
        tp, dp = 1, tp * dp
    return ParallelLayout(tp=tp, dp=dp, moe_tp=1, ep=tp * dp, copies=copies)


def replicate_layout(layout: ParallelLayout, devices: int) -> ParallelLayout:
    """Return `layout` with as many whole copies as `devices` hold, at least one."""
    if layout.prefill is not None or devices <= layout.devices:
        return layout
    return layout._replace(copies=max(1, devices // layout.devices))


def can_split_heads(model: ModelSpec, count: int) -> bool:
    """True if the TP degree `count` divides the heads, so that each device takes an equal share of them."""
    return count == 1 or model.heads % count == 0
