"""The options `--engine`, `--key-env` and `--allow-field` of `up`: engines that serve a plan's pools already."""

import sys
from collections.abc import Collection, Sequence

from archwright.api.serving import check_engine_url, check_key_variable, collect_values, parse_pairs, require_unique
from archwright.catalog.load import load_catalog
from archwright.contract.plan import Plan
from archwright.contract.record import Record
from archwright.deploy.single_machine import ExternalEndpoints, list_text_pools
from archwright.errors import argument_error


class ExternalEngines(Record):
    """Engines that run already. `engine`: POOL=URL (several share a pool's requests); `key_env`: POOL=NAME, the
    variable of their key; `allow_field`: POOL=FIELD, a request field that they get too."""

    engine: Sequence[str] | None = None
    key_env: Sequence[str] | None = None
    allow_field: Sequence[str] | None = None


NO_EXTERNAL_ENGINES = ExternalEngines()


def parse_external_engines(plan: Plan, given: ExternalEngines) -> dict[str, ExternalEndpoints]:
    """Return the endpoints of each pool.

    An engine is `URL`, `KIND:URL`, or the kind of a server on this machine, at its usual port. `#NAME` after it is the
    server's own name of the model.
    Raises UsageError AW-USE-70, AW-USE-71 (malformed text), AW-USE-72 (unknown pool, variable not set).
    """
    named, urls = {pool.name: pool for pool in list_text_pools(plan)}, dict[str, tuple[str, ...]]()
    kinds, models = dict[str, str](), dict[str, str]()
    installed = {name: row for name, row in load_catalog().engines.items() if row.port}
    for pool, text in parse_pairs(given.engine, "engine", "POOL=URL"):
        _refuse_unknown(pool, named, "engine")
        url, _, models[pool] = text.partition("#")
        kind, _, rest = url.partition(":")
        if (row := installed.get(kind)) is not None:
            url, kinds[pool] = rest or f"http://127.0.0.1:{row.port}/v1", kind
            setting = row.parallel_setting.format(slots=named[pool].slots)
            sys.stderr.write(f"note: {row.product} must run {named[pool].slots} requests at once: {setting}\n")
        elif "/" not in url:
            hint = f"use one of {', '.join(installed)}, or a URL such as http://host:8000/v1"
            raise argument_error("AW-USE-71", f"{url!r} is no server that this release knows", "engine", hint)
        urls[pool] = (*urls.get(pool, ()), check_engine_url(url, "engine"))
    keys = require_unique(parse_pairs(given.key_env, "key_env", "POOL=NAME"), "key_env")
    for pool, name in keys.items():
        _refuse_unknown(pool, urls, "key_env")
        check_key_variable(name)
    fields = collect_values(given.allow_field, "allow_field", "POOL=FIELD")
    for pool in fields:
        _refuse_unknown(pool, urls, "allow_field")
    return {
        pool: ExternalEndpoints(found, keys.get(pool, ""), fields.get(pool, ()), kinds.get(pool, ""), models[pool])
        for pool, found in urls.items()
    }


def _refuse_unknown(pool: str, known: Collection[str], field: str) -> None:
    if pool not in known:
        problem = "is no pool of the plan that serves text" if field == "engine" else "has no URL by --engine"
        hint = f"use one of {', '.join(sorted(known))}" if known else "archwright up PLAN --engine POOL=URL"
        raise argument_error("AW-USE-72", f"{pool!r} {problem}", field, hint)
