"""The gateway of a deployment as a container: its resources, its time to end, and the text of its gateway.json.

Design: a container has no supervisor, so the configuration names every engine by URL. A pool at another site is reached
over TLS with the key of its site. A hosted model has a name under `invalid`, which never resolves: it fails closed
until somebody sets the address (`open_addresses`).
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from archwright.contract.listener import ListenerSettings
from archwright.contract.plan import Pool
from archwright.contract.record import Record, replace
from archwright.deploy.deployment import Deployment, DeploymentSite, PoolDeployment
from archwright.deploy.names import make_label
from archwright.deploy.rendering.bundle import encode_json
from archwright.deploy.single_machine import (
    AUDIT_PLACE,
    ExternalEndpoints,
    LocatedPools,
    ServedAdapter,
    build_gateway_config,
    list_text_pools,
)

PORT, ADMIN_PORT = 8470, 8471
TLS_CERTIFICATE, TLS_KEY = "/etc/archwright/tls/tls.crt", "/etc/archwright/tls/tls.key"
STORE_URL = "env:ARCHWRIGHT_DATABASE_URL"
# A worker holds 512 MiB of bodies, 2,048 TLS connections of 65 KB and its program; the master and the shared tables
# need less than one more worker.
WORKER_BYTES, MASTER_BYTES = 2**30, 2**29
# Settings that a running gateway applies when the file has another revision (serving.process.config_reload).
APPLIED_BY_REVISION = frozenset(("pools", "endpoints", "revision", "plan_digest"))
# A revision is a part of the digest of its configuration, as a number that JSON keeps exactly.
REVISION_BITS = 48
# The gateway ends its workers this long after they should have finished, and its records are written.
END_MARGIN_S = 10


class GatewayContainer(Record):
    """The needs of a gateway's container. Its probes are GET /healthz and /readyz on `port` over TLS.

    `cpu`: cores, one for each of the `workers`. `drain_s`: time to end, in which running responses finish. `config`:
    the text of gateway.json. `key_variables` hold the keys of hosted models. `open_addresses`: URLs in `config` that
    the plan cannot know, by pool. `site_keys`: the secret of each variable with the key of another site's engines.
    """

    workers: int
    cpu: int
    memory_bytes: int
    drain_s: int
    config: str
    key_variables: tuple[str, ...] = ()
    open_addresses: dict[str, str] = {}
    site_keys: dict[str, str] = {}
    port: int = PORT
    admin_port: int = ADMIN_PORT

    @property
    def restart_digest(self) -> str:
        """The digest of the settings that only a restart applies. A change of the others restarts nothing."""
        settings = json.loads(self.config)
        kept = {name: value for name, value in settings.items() if name not in APPLIED_BY_REVISION}
        return _digest(kept)[:12]

    @property
    def ray_config(self) -> str:
        """The configuration for engines behind Ray, whose router has no /health."""
        settings = json.loads(self.config)
        for pool in settings["pools"]:
            if pool["health_path"] == "/health":
                pool["health_path"] = "/v1/models"
        return _write_config(settings)


def build_gateway(deployment: Deployment, engine_url: str, addresses: Mapping[str, str]) -> GatewayContainer:
    """Return the gateway of the main site. `engine_url`: pattern of its engines' URLs; empty: by sockets.

    `addresses`: URLs that a user stated for pools outside the site.

    Raises PlanError AW-PLAN-21 if the residency of a workload's data excludes the country of its pool.
    """
    plan = deployment.served_plan
    sites = {pool.pool.name: (site, pool) for site in deployment.sites for pool in site.pools}
    served, open_ = list[tuple[Pool, ExternalEndpoints]](), dict[str, str]()
    for pool in list_text_pools(plan):
        at = locate_engines(pool, sites.get(pool.name), engine_url)
        if pool.name not in sites and pool.launch.url is None:
            at = at._replace(urls=(addresses.get(pool.name) or at.urls[0],))
            open_[pool.name] = at.urls[0]
        served.append((pool, at))
    remote = [site.name for site in deployment.sites if site.has_entrance and not site.is_main]
    site_keys = {name_site_key(name): name_site_secret(name) for name in remote}
    workers = plan.gateway_workers
    return GatewayContainer(
        workers=workers,
        cpu=workers,
        memory_bytes=MASTER_BYTES + workers * WORKER_BYTES,
        drain_s=deployment.grace_s + END_MARGIN_S,
        config=_build_config(deployment, tuple(served)),
        key_variables=tuple(
            name for name in dict.fromkeys(at.key_env for _, at in served) if name not in ("", *site_keys)
        ),
        open_addresses=open_,
        site_keys=site_keys,
    )


def _build_config(deployment: Deployment, served: LocatedPools) -> str:
    plain = ListenerSettings(host="0.0.0.0", port=PORT, admin_port=ADMIN_PORT)
    listener = replace(plain, tls_certificate=TLS_CERTIFICATE, tls_key=TLS_KEY, audit_checkpoints=AUDIT_PLACE)
    config: dict[str, Any] = build_gateway_config(deployment.served_plan, listener, STORE_URL, served)
    health = {pool.pool.name: pool.pool.launch.health_path for pool in deployment.pools}
    # The way to the engines of every site knows this path.
    pools = [{**one, "health_path": health.get(one["name"], one["health_path"])} for one in config["pools"]]
    more = {"plan_digest": deployment.plan.digest, "limits": deployment.gateway_limits}
    return _write_config({**config, "pools": pools, **more})


def _write_config(settings: dict[str, Any]) -> str:
    """Return the text with the revision of its own content: a running gateway applies a text with another revision."""
    content = {**settings, "revision": 0}
    revision = int(_digest(content), 16) % 2**REVISION_BITS
    return encode_json({**content, "revision": revision})


def _digest(settings: dict[str, Any]) -> str:
    return hashlib.sha256(encode_json(settings).encode()).hexdigest()


def name_site_secret(site: str) -> str:
    """Return the name of the secret that both sides have: the gateway sends its key, and the site demands it."""
    return f"engines-{site}"


def name_site_key(site: str) -> str:
    return f"{name_site_secret(site)}-key".replace("-", "_").upper()


def locate_engines(
    pool: Pool, found: tuple[DeploymentSite, PoolDeployment] | None, engine_url: str
) -> ExternalEndpoints:
    """Return the URLs of a pool: its launch URL, its site's engines, another site, or a provider of hosted models."""
    key = str(pool.launch.settings.get("key_env", ""))
    if pool.launch.url is not None:
        return ExternalEndpoints((pool.launch.url,), key)
    if found is None:
        key = key or f"{make_label(pool.provider).replace('-', '_').upper()}_API_KEY"
        return ExternalEndpoints((f"https://{make_label(pool.provider)}.invalid/v1",), key)
    site, at = found
    adapters = tuple[ServedAdapter, ...]()
    if at.container is not None:
        adapters = at.container.adapters
    if not site.is_main:
        return ExternalEndpoints((at.url,), key or name_site_key(site.name), kind=at.server, adapters=adapters)
    replicas = range(pool.replicas) if "{replica}" in engine_url else range(1)
    urls = tuple(engine_url.format(pool=at.name, replica=replica, port=at.port) for replica in replicas)
    return ExternalEndpoints(urls if engine_url else (), key, kind=at.server, adapters=adapters)
