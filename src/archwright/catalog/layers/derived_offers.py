"""Offers that are derived from other rows by a rule: the lowest layer.

A machine that a provider states for a region with a list price is an offer if its build is known from the same type
elsewhere. Without a list price, the home region's price times the family's ratio is used.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain

from archwright.catalog.layers.refreshed_layer import DISCOUNTED
from archwright.catalog.tables.metadata_records import RegionAvailability, RegionRatio
from archwright.catalog.tables.records import Offer
from archwright.contract.record import replace

# One machine of a family shows the ratio of all; the list prices of a provider keep it.
DERIVED_CONFIDENCE = "medium"
# Provider and region -> `geo` of an offer; None for an unknown region.
RegionGeography = Callable[[str, str], str | None]


class OfferDeriver:
    def __init__(self, shipped: Iterable[Offer], stated: Iterable[RegionAvailability], geo: RegionGeography) -> None:
        self._known = {offer.id: offer for offer in shipped}
        self._builds = {(offer.provider, offer.instance_type): offer for offer in self._known.values()}
        self._stated, self._geo = tuple(stated), geo
        self._listed = {(row.provider, row.instance_type) for row in self._stated}
        self._here = {(row.provider, row.region, row.instance_type) for row in self._stated}

    def offers(self, ratios: Iterable[RegionRatio]) -> dict[str, Offer]:
        """Return the derived offers by id, without known ones; a stated list price comes before a ratio."""
        found: dict[str, Offer] = {}
        for offer in chain(self._from_list_prices(), *map(self._from_ratio, ratios)):
            if offer is not None and offer.id not in self._known:
                found.setdefault(offer.id, offer)
        return found

    def _from_list_prices(self) -> Iterator[Offer | None]:
        for row in self._stated:
            build, price = self._builds.get((row.provider, row.instance_type)), row.on_demand_usd_per_hour
            if build is not None and price is not None:
                notes = f"build as in {build.region}"
                yield self._in_region(build, row, price, price_kind="list", source=row.source, notes=notes)

    def _from_ratio(self, ratio: RegionRatio) -> Iterator[Offer | None]:
        """Derive the sizes of the family that the home region offers and the ratio's region sells."""
        source = f"{ratio.home} list price x {ratio.ratio:g} (ratio read from {ratio.read_from} in {ratio.source})"
        notes = "derived; check with catalog refresh before use"
        for offer in self._known.values():
            family = (offer.provider, offer.region, offer.instance_type.partition(".")[0])
            is_family = family == (ratio.provider, ratio.home, ratio.family)
            if is_family and offer.on_demand_usd_per_hour is not None and self._is_sold(offer, ratio):
                price = offer.on_demand_usd_per_hour * ratio.ratio
                # The ratio of a family does not age; the home price does.
                aged = {"as_of": offer.as_of, "confidence": DERIVED_CONFIDENCE}
                yield self._in_region(offer, ratio, price, price_kind="derived", source=source, notes=notes, **aged)

    def _is_sold(self, offer: Offer, ratio: RegionRatio) -> bool:
        """True for the ratio's own type, a stated type, and a processor whose regions are not stated."""
        if offer.instance_type == ratio.read_from or (offer.provider, ratio.region, offer.instance_type) in self._here:
            return True
        return offer.accelerator is None and (offer.provider, offer.instance_type) not in self._listed

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
            **{"as_of": row.as_of, "confidence": row.confidence, **changes},
        )
