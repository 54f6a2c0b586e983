"""From what adapters found to rows of the refreshed layer: names joined to this catalog's, gates passed, two sources
held against each other. What does not pass is set aside with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from archwright.catalog import names
from archwright.catalog.brought import Aside, Brought
from archwright.catalog.cost_rows import StoragePrice
from archwright.catalog.facts import Catalog
from archwright.catalog.intake_machines import MachineIntake
from archwright.catalog.intake_models import ModelIntake
from archwright.catalog.refreshed import GridCarbon, Prices
from archwright.catalog.rows import HostedModel
from archwright.catalog.sources.found import BytePrice

GRAMS = (0.0, 2000.0)


class Intake:
    """Collects what is set aside while rows are taken in; sources come in the order of their priority."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self.aside = Aside()

    def prices(self, brought: Iterable[Brought]) -> dict[str, Prices]:
        return MachineIntake(self._catalog, self.aside).prices(brought)

    def hosted(self, brought: Iterable[Brought]) -> tuple[HostedModel, ...]:
        return ModelIntake(self._catalog, self.aside).hosted(brought)

    def storage(self, brought: Iterable[Brought]) -> tuple[StoragePrice, ...]:
        """Under the item's name in this catalog where it has one."""
        found = []
        for file in brought:
            for price in file.found.stored:
                if price.provider not in self._catalog.providers:
                    self.aside.put(
                        file.source.id, "a provider this catalog does not know", f"{price.provider}: {price.item}"
                    )
                elif not (math.isfinite(price.usd_per_byte) and price.usd_per_byte >= 0):
                    self.aside.put(file.source.id, "its price is no number", f"{price.provider}: {price.item}")
                else:
                    found.append(self._stored(file, price))
        return tuple(found)

    def _stored(self, file: Brought, price: BytePrice) -> StoragePrice:
        alike = (
            row.item
            for row in self._catalog.shipped_storage_prices
            if (row.provider, row.kind) == (price.provider, price.kind)
            and names.squashed(row.item).startswith(names.squashed(price.item))
        )
        return StoragePrice(
            provider=price.provider,
            region=price.region,
            item=next(alike, price.item),
            kind=price.kind,
            usd_per_byte=price.usd_per_byte,
            from_bytes=price.from_bytes,
            to_bytes=price.to_bytes,
            source=file.words,
            as_of=file.as_of,
            confidence="medium" if file.as_of else "recalled",
        )

    def grid(self, brought: Iterable[Brought]) -> tuple[GridCarbon, ...]:
        """By the country's code where this catalog has it, else by its name."""
        known = self._catalog.countries.values()
        codes = {names.squashed(row.name): row.country for row in known}
        codes |= {row.alpha3: row.country for row in known if row.alpha3}
        found = []
        for file in brought:
            for carbon in file.found.carbon:
                country = codes.get(carbon.country) or codes.get(names.squashed(carbon.name))
                if country is None:
                    self.aside.put(
                        file.source.id, "a country this catalog does not know", carbon.name or carbon.country
                    )
                elif not GRAMS[0] <= carbon.gco2_per_kwh <= GRAMS[1]:
                    self.aside.put(file.source.id, "no carbon a grid can have", carbon.country)
                else:
                    row = GridCarbon(
                        country=country, gco2_per_kwh=carbon.gco2_per_kwh, year=carbon.year, source=file.words
                    )
                    found.append(row)
        return tuple(found)
