"""From CSV columns to records: what owning, storing, moving, committing and managed platforms cost."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from archwright.catalog.tables import cost_records as rows
from archwright.catalog.tables.csv_table import CsvRow, read_rows

GIB = 2.0**30
GIGA = 1e9
# Per unit of the source, bytes: a price per GB or GiB becomes one per byte.
BYTES_PER_UNIT = {"GB": GIGA, "GiB": GIB, "GB-month": GIGA, "GiB-month": GIB}


def read_planning_parameters(folder: Path) -> list[rows.PlanningParameter]:
    return [
        row.to_record(rows.PlanningParameter, **read_band(row))
        for file in ("onprem.csv", "operating.csv")
        for row in read_rows(folder, file)
    ]


def read_band(row: CsvRow) -> dict[str, float]:
    """Without a low or a high, the typical stands in: the band is then that of the confidence alone."""
    typical = row.required_number("typical")
    low, high = row.number("low"), row.number("high")
    return {"low": typical if low is None else low, "typical": typical, "high": typical if high is None else high}


def read_servers(folder: Path) -> list[rows.ServerSpec]:
    return [
        row.to_record(
            rows.ServerSpec,
            accelerator=row.text("accelerator") or None,
            ram_bytes=round(row.required_number("ram_gib", GIB)),
            power_w=row.required_number("power_kw", 1e3),
            price_low_usd=row.required_number("price_usd_low"),
            price_usd=row.required_number("price_usd_typical"),
            price_high_usd=row.required_number("price_usd_high"),
            network_bytes_per_s=row.required_number("network_gbps", GIGA / 8),
        )
        for row in read_rows(folder, "nodes.csv")
    ]


def read_storage_prices(folder: Path) -> list[rows.StoragePrice]:
    found = []
    for row in read_rows(folder, "storage_network.csv"):
        size = BYTES_PER_UNIT.get(row.required_text("unit"))
        if size is None:
            raise row.cell_error("unit", "an unknown unit")
        made = row.to_record(
            rows.StoragePrice,
            region=row.text("region"),
            usd_per_byte=row.required_number("price_usd") / size,
            from_bytes=row.number("tier_from_gb", GIGA) or 0.0,
            to_bytes=row.number("tier_to_gb", GIGA),
        )
        found.append(made)
    return found


def read_commitment_discounts(folder: Path) -> list[rows.CommitmentDiscount]:
    return [
        row.to_record(
            rows.CommitmentDiscount, payment=row.text("payment"), discount=row.required_number("discount_vs_on_demand")
        )
        for row in read_rows(folder, "commitments.csv")
    ]


def read_surcharges(folder: Path) -> list[rows.PlatformSurcharge]:
    return [
        row.to_record(
            rows.PlatformSurcharge,
            low=row.number("surcharge_pct_low", 0.01),
            high=row.number("surcharge_pct_high", 0.01),
            basis=row.text("basis"),
        )
        for row in read_rows(folder, "managed_platforms.csv")
    ]


def join_network_rates(offers: Iterable[CsvRow], folder: Path) -> Iterable[tuple[CsvRow, tuple[float | None, str]]]:
    """Each offer with the bytes/s of its machine and what is said of them: the price list's own, else its vendor's."""
    tables = read_rows(folder, "networks.csv") if (folder / "networks.csv").exists() else []
    stated = {(row.required_text("provider"), row.required_text("instance_type")): row for row in tables}
    for offer in offers:
        own, said = offer.number("network_gbps", GIGA / 8), offer.text("network_note")
        told = stated.get((offer.required_text("provider"), offer.required_text("instance_type")))
        if own is None and told is not None:
            own, said = told.required_number("network_gbps", GIGA / 8), f"up to; {told.required_text('source')}"
        yield offer, (own, said)
