"""Values of the sites of a cluster that only their owners know; they stand in pins.json until the next rendering."""

import csv
import functools
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


@functools.cache
def _read_secret_vaults() -> tuple[SecretVault, ...]:
    with Path(__file__).with_name("secret_vaults.csv").open(encoding="utf-8", newline="") as file:
        return tuple(SecretVault(**row) for row in csv.DictReader(file))


def find_secret_vault(provider: str) -> SecretVault | None:
    """Return the vault of a provider whose place a user must state, if it has one."""
    return next((vault for vault in _read_secret_vaults() if vault.provider == provider), None)


def list_site_values(deployment: Deployment, pins: Pins) -> Pins:
    """Return pins with the values of these sites only: what `pins` states, else empty."""
    main_site = deployment.main_site.name
    has_vault = find_secret_vault(deployment.main_site.place) is not None
    return replace(
        Pins(),
        load_balancers={site: pins.load_balancers.get(site, "") for site in list_own_entrances(deployment)},
        hosts={main_site: pins.hosts.get(main_site, "")},
        issuers={main_site: pins.issuers.get(main_site, "")},
        vaults={main_site: pins.vaults.get(main_site, "")} if has_vault else {},
        backups={main_site: pins.find_backup_place(main_site)},
    )
