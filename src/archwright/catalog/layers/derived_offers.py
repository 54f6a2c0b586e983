"""Offers that follow from other rows by a rule: the lowest layer.

A machine that a provider states to have in a region, with its list price there, is an offer once its build is known
from the same type elsewhere. Without a price there, the home region's price times the family's ratio stands in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain

from archwright.catalog.layers.refreshed_layer import DISCOUNTED
from archwright.catalog.tables.metadata_records import RegionAvailability, RegionRatio
from archwright.catalog.tables.records import Offer
from archwright.contract.record import replace

# Provider and region to the part of the world in an offer's words; None for a region nobody knows.
RegionGeography = Callable[[str, str], str | None]


class OfferDeriver:
    def __init__(self, shipped: Iterable[Offer], stated: Iterable[RegionAvailability], geo: RegionGeography) -> None:
        self._known = {offer.id: offer for offer in shipped}
        self._builds = {(offer.provider, offer.instance_type): offer for offer in self._known.values()}
        self._stated, self._geo = tuple(stated), geo
        self._listed = {(row.provider, row.instance_type) for row in self._stated}
        self._here = {(row.provider, row.region, row.instance_type) for row in self._stated}

    def offers(self, ratios: Iterable[RegionRatio]) -> dict[str, Offer]:
        """The derived offers by id; none that the known ones hold already."""
        found: dict[str, Offer] = {}
        stated = (self._from_stated_price(row) for row in self._stated)
        by_ratio = (self._from_region_ratio(offer, ratio) for ratio in ratios for offer in self._family_offers(ratio))
        for offer in chain(stated, by_ratio):
            if offer is not None and offer.id not in self._known:
                found.setdefault(offer.id, offer)
        return found

    def _from_stated_price(self, row: RegionAvailability) -> Offer | None:
        build = self._builds.get((row.provider, row.instance_type))
        if build is None or row.on_demand_usd_per_hour is None:
            return None
        notes = f"build as in {build.region}"
        return self._in_region(
            build, row, row.on_demand_usd_per_hour, price_kind="list", source=row.source, notes=notes
        )

    def _family_offers(self, ratio: RegionRatio) -> Iterable[Offer]:
        """The sizes of the family at home that can be had in the ratio's region."""
        at_home = (row for row in self._known.values() if (row.provider, row.region) == (ratio.provider, ratio.home))
        family = (row for row in at_home if row.instance_type.partition(".")[0] == ratio.family)
        return [row for row in family if self._is_sold(row, ratio)]

    def _is_sold(self, offer: Offer, ratio: RegionRatio) -> bool:
        """True for the type of the ratio, for a stated type, and for processors whose regions are not stated."""
        if offer.instance_type == ratio.read_from or (offer.provider, ratio.region, offer.instance_type) in self._here:
            return True
        return offer.accelerator is None and (offer.provider, offer.instance_type) not in self._listed

    def _from_region_ratio(self, offer: Offer, ratio: RegionRatio) -> Offer | None:
        if offer.on_demand_usd_per_hour is None:
            return None
        price, notes = offer.on_demand_usd_per_hour * ratio.ratio, "derived; check with catalog refresh before use"
        source = f"{ratio.home} list price x {ratio.ratio:g} (ratio read from {ratio.read_from} in {ratio.source})"
        return self._in_region(offer, ratio, price, price_kind="derived", source=source, notes=notes)

    def _in_region(
        self, build: Offer, row: RegionAvailability | RegionRatio, price: float, **changes: object
    ) -> Offer | None:
        geo = self._geo(build.provider, row.region)
        if geo is None:
            return None
        return replace(
            build,
            id=f"{build.provider}:{row.region}:{build.instance_type}",
            region=row.region,
            geo=geo,
            on_demand_usd_per_hour=price,
            **dict.fromkeys(DISCOUNTED),
            as_of=row.as_of,
            confidence=row.confidence,
            **changes,
        )
