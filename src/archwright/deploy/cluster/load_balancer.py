"""The load balancer of a cloud before its gateway or engines: internal, and patient enough for the longest response.

Envoy asks its cloud for a load balancer by the annotations of a Service. Without any, clouds open a public address, and
end a connection that is silent for one to four minutes. A response without a stream is silent until it ends.
"""

import functools
import math
from pathlib import Path

import msgspec
import yaml

from archwright.contract.record import Record
from archwright.deploy.deployment import Deployment, DeploymentSite

# The gateway answers with its own error before Envoy or the cloud ends the connection.
PATH_MARGIN_S = 30
# Envoy proves that a silent connection is alive; the shortest memory of a cloud's load balancer is 240 s.
KEEPALIVE_S = 60


class IdleSetting(Record):
    """How a cloud is told how long a connection may be silent: a number of units of `unit_s` seconds."""

    annotation: str
    unit_s: int
    least: int
    most: int
    text: str = "{}"

    def format_value(self, limit_s: int) -> str:
        units = math.ceil(limit_s / self.unit_s)
        return self.text.format(min(self.most, max(self.least, units)))


class CloudLoadBalancer(Record):
    """A row of load_balancers.yaml."""

    provider: str
    annotations: dict[str, str]
    public: dict[str, str]
    idle: IdleSetting | None = None
    implementation: str = ""


class LoadBalancer(Record):
    """`annotations` of the Service of Envoy, none at own sites; `public`: those that differ if users come from outside.

    `limit_s`: time that a request may take on the path, and that a connection may be silent.
    """

    limit_s: int
    annotations: dict[str, str] = {}
    public: dict[str, str] = {}
    implementation: str = ""
    keepalive_s: int = KEEPALIVE_S


class Entrance(Record):
    """The place where a cluster takes requests: of users for the gateway, or of the gateway for engines at its site.

    Its objects are in `namespace`, beside what answers. `hosts`: the names of its certificate.
    """

    site: DeploymentSite
    namespace: str
    hosts: tuple[str, ...]
    load_balancer: LoadBalancer


@functools.cache
def list_load_balancers() -> tuple[CloudLoadBalancer, ...]:
    rows = yaml.load(Path(__file__).with_name("load_balancers.yaml").read_bytes(), yaml.CSafeLoader)
    return msgspec.convert(rows, tuple[CloudLoadBalancer, ...])


def list_entrances(deployment: Deployment, host: str) -> tuple[Entrance, ...]:
    """Return the entrance of each cluster that has one. `host`: the name by which users call the gateway."""
    return tuple(_build_entrance(deployment, site, host) for site in deployment.sites if site.has_entrance)


def list_own_entrances(deployment: Deployment) -> tuple[str, ...]:
    """Return the own sites with an entrance: no provider gives their load balancers an address."""
    return tuple(site.name for site in deployment.sites if site.has_entrance and site.is_own)


def _build_entrance(deployment: Deployment, site: DeploymentSite, host: str) -> Entrance:
    engine_hosts = tuple(dict.fromkeys(pool.host for pool in site.pools if pool.container is not None))
    return Entrance(
        site=site,
        namespace="archwright" if site.is_main else "archwright-engines",
        hosts=(host,) if site.is_main else engine_hosts,
        load_balancer=build_load_balancer(deployment, site),
    )


def build_load_balancer(deployment: Deployment, site: DeploymentSite) -> LoadBalancer:
    """Return the load balancer of a site."""
    limit_s = deployment.gateway_limits["request_s"] + PATH_MARGIN_S
    row = next((one for one in list_load_balancers() if one.provider == site.place), None)
    if row is None:
        return LoadBalancer(limit_s=limit_s)

    annotations = dict(row.annotations)
    if row.idle is not None:
        annotations[row.idle.annotation] = row.idle.format_value(limit_s)
    return LoadBalancer(limit_s=limit_s, annotations=annotations, public=row.public, implementation=row.implementation)
