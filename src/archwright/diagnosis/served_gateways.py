"""The gateways of a home that run, with the settings that they run with.

Design: a service has its settings from its unit or its shell. A person or a timer that calls `doctor` has others, so
checks read the configurations that the running gateways wrote."""

from collections.abc import Mapping, Sequence
from contextlib import suppress

import msgspec

from archwright.contract.record import Record
from archwright.errors import OperateError
from archwright.home import Home
from archwright.operate.gateway_record import PLATFORM_GATEWAY, list_gateways
from archwright.operate.platform_control import read_status
from archwright.serving.settings.config import GatewayConfig
from archwright.serving.settings.engine_secrets import read_store_url
from archwright.settings import PREFIX, Settings


class RunningGateway(Record):
    """`url`: where it listens, with the port that it has."""

    name: str
    url: str
    config: GatewayConfig


class SettingsInForce(Record):
    """The settings that decide what a check reads: those of a running gateway, else those of the caller.

    `database_url`: empty for the database of the home. `problem`: why the database of the gateway is not known."""

    database_url: str = ""
    problem: str = ""
    audit_checkpoints: str = ""
    gateways: tuple[RunningGateway, ...] = ()

    def list_variables(self) -> Mapping[str, str]:
        """The environment of a command that shall see the same database and second place."""
        return {
            f"{PREFIX}DATABASE_URL": self.database_url,
            f"{PREFIX}AUDIT_CHECKPOINTS": self.audit_checkpoints,
        }


def join_urls(gateways: Sequence[RunningGateway]) -> str:
    return ", ".join(gateway.url for gateway in gateways)


def read_settings_in_force(home: Home, chosen: Settings) -> SettingsInForce:
    gateways = list_running_gateways(home)
    if not gateways:
        return SettingsInForce(database_url=chosen.database_url, audit_checkpoints=chosen.audit_checkpoints)
    config = gateways[0].config
    url, problem = "", ""
    try:
        url = read_store_url(config.store_url)
    except OperateError as error:
        problem = error.message
    # The configuration of a platform names the database of the home by its path.
    is_own = url == f"sqlite:///{home.root / 'archwright.db'}"
    return SettingsInForce(
        database_url="" if is_own else url,
        problem=problem,
        audit_checkpoints=config.audit_checkpoints,
        gateways=gateways,
    )


def list_running_gateways(home: Home) -> tuple[RunningGateway, ...]:
    urls = {gateway.name: gateway.url for gateway in list_gateways(home)}
    platform_url = read_status(home).url
    if platform_url:
        urls = {PLATFORM_GATEWAY: platform_url, **urls}
    found = []
    for name, url in urls.items():
        with suppress(OSError, msgspec.MsgspecError):  # not written yet, or just removed
            config = msgspec.json.decode(home.config(name).read_bytes(), type=GatewayConfig)
            found.append(RunningGateway(name=name, url=url, config=config))
    return tuple(found)
