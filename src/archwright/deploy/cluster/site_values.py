"""Values of the sites of a cluster that only their owners know; they stand in pins.json until the next rendering."""

import csv
from pathlib import Path

from archwright.contract.record import Record, replace
from archwright.deploy.cluster.load_balancer import list_own_entrances
from archwright.deploy.deployment import Deployment
from archwright.deploy.rendering.components import Pins


class SecretVault(Record):
    """A row of secret_vaults.csv: `value` says what users state for the vault of a provider, `example` is one."""

    provider: str
    value: str
    example: str


def find_secret_vault(provider: str) -> SecretVault | None:
    """Return the vault of a provider whose place a user must state, if it has one."""
    with Path(__file__).with_name("secret_vaults.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["provider"] == provider:
                return SecretVault(**row)
    return None


def list_site_values(deployment: Deployment, pins: Pins) -> Pins:
    """Return pins with the values of these sites only: what `pins` states, else empty."""
    main_site = deployment.main_site
    site = main_site.name
    values = Pins(
        load_balancers={own: pins.load_balancers.get(own, "") for own in list_own_entrances(deployment)},
        hosts={site: pins.hosts.get(site, "")},
        issuers={site: pins.issuers.get(site, "")},
        backups={site: pins.find_backup_place(site)},
    )
    if find_secret_vault(main_site.place) is None:
        return values
    return replace(values, vaults={site: pins.vaults.get(site, "")})
