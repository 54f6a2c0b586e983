"""The price list of `serve`: the hosted models of the catalog, which states the date and the source of each row."""

from archwright.catalog.load import load_catalog
from archwright.catalog.tables.records import HostedModel
from archwright.serving.settings.gateway_file import PriceList
from archwright.serving.settings.prices import MILLION, UpstreamPrice

USD_DIGITS = 9  # of a price per million tokens: removes errors of floats


def read_price_list() -> PriceList:
    """Return the prices of hosted models by PROVIDER/MODEL, with the user's rows and refreshed facts."""
    return {f"{row.provider}/{row.id}": _to_price(row) for row in load_catalog().hosted}


def _to_price(row: HostedModel) -> UpstreamPrice:
    def convert(usd_per_token: float) -> float:
        return round(usd_per_token * MILLION, USD_DIGITS)

    # A table of prices writes 0 for a kind that a provider does not charge apart.
    read, written = row.cache_read_usd_per_token, row.cache_write_usd_per_token
    return UpstreamPrice(
        input=convert(row.input_usd_per_token),
        output=convert(row.output_usd_per_token),
        cache_read=convert(read) if read else None,
        cache_write=convert(written) if written else None,
    )
