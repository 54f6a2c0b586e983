"""Checks of names and texts: form, duplicates, and references within the file."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import get_args
from urllib.parse import urlsplit

from archwright.contract.needs import TEXT_KINDS, Needs, Role, Workload
from archwright.needs.needs_problem import (
    NeedsCode,
    NeedsProblem,
    last_field_name,
    nearest_spellings,
)
from archwright.needs.traversal import iterate_texts
from archwright.specfile import quote_value

NAME = re.compile(r"[a-z0-9-]{1,40}", re.ASCII)
MAX_TEXT = 200
MAX_GOAL = 2000
MAX_URL = 2000
MAX_ITEMS = 1000
# Each machine is looked up in the catalog by many spellings, which takes about a millisecond.
MAX_MACHINES = 200

# A fine-tune starts from the language model of a workload or from the result of another training
# workload.
_TUNABLE = TEXT_KINDS | {"embedding", "finetune", "pretrain"}


def check_texts(needs: Needs) -> Iterator[NeedsProblem]:
    """Check that texts are short and on one line (a goal may be a paragraph), and names."""
    for path, text in iterate_texts(needs):
        yield from _check_text(path, text)

    for index, workload in enumerate(needs.workloads):
        if not NAME.fullmatch(workload.name):
            path = f"workloads[{index}].name"
            yield _bad_name(path, workload.name, "use 1 to 40 characters of a-z, 0-9 and -")
    yield from _check_site_names("sites", needs.sites)
    yield from _check_site_names("placement.sites", needs.placement.sites)


def _check_text(path: str, text: str) -> Iterator[NeedsProblem]:
    is_goal = path.startswith("goals[")
    limit = MAX_TEXT
    if is_goal:
        limit = MAX_GOAL
    elif path.endswith(".url"):
        limit = MAX_URL

    if not text.strip():
        message = f"{last_field_name(path)} is empty"
        hint = "fill it in, or delete the line"
        yield NeedsProblem(NeedsCode.BAD_TEXT, path, message, hint=hint)
    elif len(text) > limit:
        message = f"{len(text):,} characters are too many"
        hint = f"write at most {limit:,}"
        yield NeedsProblem(NeedsCode.BAD_TEXT, path, message, hint=hint)
    elif not is_goal and ("\n" in text or "\t" in text):
        message = f"{quote_value(text)} contains a line break or a tab"
        yield NeedsProblem(NeedsCode.BAD_TEXT, path, message, hint="keep it on one line")


def _check_site_names(path: str, names: Iterable[str]) -> Iterator[NeedsProblem]:
    for name in names:
        if re.search(r"[.\[\]]", name):
            yield _bad_name(f"{path}.{name}", name, "leave out dots and brackets")


def _bad_name(path: str, name: str, hint: str) -> NeedsProblem:
    message = f"{quote_value(name)} cannot be a name"
    return NeedsProblem(NeedsCode.BAD_TEXT, path, message, hint=hint)


def check_duplicates(needs: Needs) -> Iterator[NeedsProblem]:
    """Check that workloads, data sets and the entries of a list have different names."""
    workload_names = [workload.name for workload in needs.workloads]
    data_names = [data.name for data in needs.data]
    hint = "give each a different name"
    yield from _first_duplicate("workloads", workload_names, field=".name", hint=hint)
    yield from _first_duplicate("data", data_names, field=".name", hint=hint)

    for path, names in _name_lists(needs):
        yield from _first_duplicate(path, names, field="", hint="delete one of the two")


def _name_lists(needs: Needs) -> Iterator[tuple[str, Sequence[str]]]:
    yield "regulations", needs.regulations
    placement = needs.placement
    yield "placement.allow", placement.allow
    yield "placement.clouds", placement.clouds or ()
    yield "placement.regions", placement.regions or ()
    yield "placement.accelerators", placement.accelerators or ()
    for index, workload in enumerate(needs.workloads):
        yield f"workloads[{index}].data", workload.data
        yield f"workloads[{index}].sites", workload.sites
        yield f"workloads[{index}].languages", workload.languages
        yield f"workloads[{index}].modalities", workload.modalities
    for index, data in enumerate(needs.data):
        yield f"data[{index}].residency", data.residency
        yield f"data[{index}].languages", data.languages
    for name, group in needs.sites.items():
        yield f"sites.{name}.countries", group.countries
    for name, site in placement.sites.items():
        yield f"placement.sites.{name}.workloads", site.workloads


def _first_duplicate(
    path: str,
    names: Iterable[str],
    *,
    field: str,
    hint: str,
) -> Iterator[NeedsProblem]:
    """Yield the first name that a list has twice; `field` holds the name in an entry."""
    seen: set[str] = set()
    for index, name in enumerate(names):
        if name in seen:
            message = f"{quote_value(name)} is in {path} twice"
            entry_path = f"{path}[{index}]{field}"
            yield NeedsProblem(NeedsCode.NAMED_TWICE, entry_path, message, hint=hint)
            return
        seen.add(name)


def check_list_sizes(needs: Needs) -> Iterator[NeedsProblem]:
    """Check lists that must not be empty, and limit the length of all lists."""
    if not needs.workloads:
        hint = "describe at least one workload under `workloads`"
        message = "there is no workload"
        yield NeedsProblem(NeedsCode.MISSING_FIELD, "workloads", message, hint=hint)

    placement = needs.placement
    yield from _check_not_empty("placement.allow", placement.allow)
    yield from _check_not_empty("placement.regions", placement.regions)
    yield from _check_not_empty("placement.accelerators", placement.accelerators)
    for index, data in enumerate(needs.data):
        yield from _check_not_empty(f"data[{index}].residency", data.residency)

    accelerators = placement.accelerators or ()
    yield from _check_length("workloads", needs.workloads, MAX_ITEMS)
    yield from _check_length("data", needs.data, MAX_ITEMS)
    yield from _check_length("goals", needs.goals, MAX_ITEMS)
    yield from _check_length("placement.accelerators", accelerators, MAX_MACHINES)
    yield from _check_length("placement.owned", placement.owned, MAX_MACHINES)


def _check_not_empty(path: str, names: Sequence[str] | None) -> Iterator[NeedsProblem]:
    if names is not None and not names:
        message = f"an empty {last_field_name(path)} allows nothing"
        hint = "add the allowed values, or delete the field"
        yield NeedsProblem(NeedsCode.CONTRADICTION, path, message, hint=hint)


def _check_length(path: str, items: Sequence[object], limit: int) -> Iterator[NeedsProblem]:
    if len(items) > limit:
        message = f"{len(items):,} entries are too many"
        hint = f"write at most {limit:,}; combine similar entries"
        yield NeedsProblem(NeedsCode.OUT_OF_RANGE, path, message, hint=hint)


def check_references(needs: Needs) -> Iterator[NeedsProblem]:
    """Check that what a workload names exists, and that a preferred placement is allowed."""
    data_names = {data.name for data in needs.data}
    central_workloads: set[str] = set()
    for index, workload in enumerate(needs.workloads):
        path = f"workloads[{index}]"
        yield from _first_dangling(f"{path}.data", workload.data, data_names, noun="data set")
        sites_path = f"{path}.sites"
        yield from _first_dangling(sites_path, workload.sites, needs.sites, noun="group of sites")
        if not workload.sites:
            central_workloads.add(workload.name)

    placement = needs.placement
    noun = "workload without sites of its own"
    for name, site in placement.sites.items():
        path = f"placement.sites.{name}.workloads"
        yield from _first_dangling(path, site.workloads, central_workloads, noun=noun)

    if placement.prefer is not None and placement.prefer not in placement.allow:
        message = f"{placement.prefer} is preferred, but not allowed"
        hint = f"add it to placement.allow ({', '.join(placement.allow)})"
        yield NeedsProblem(NeedsCode.CONTRADICTION, "placement.prefer", message, hint=hint)


def _first_dangling(
    path: str,
    names: Iterable[str],
    targets: Collection[str],
    *,
    noun: str,
) -> Iterator[NeedsProblem]:
    for index, name in enumerate(names):
        if name not in targets:
            examples = sorted(targets)[:5]
            hint = f"describe it under `{last_field_name(path)}` first"
            if examples:
                hint = f"use one of: {', '.join(map(quote_value, examples))}"
            yield NeedsProblem(
                NeedsCode.DANGLING,
                f"{path}[{index}]",
                f"there is no {noun} {quote_value(name)}",
                hint=hint,
                suggest=partial(nearest_spellings, name, targets),
            )
            return


def check_bases(needs: Needs) -> Iterator[NeedsProblem]:
    """Check that the chain of `base` workloads has no cycle and ends at a language model."""
    workload_by_name = {workload.name: workload for workload in needs.workloads}
    acyclic_names: set[str] = set()
    for index, workload in enumerate(needs.workloads):
        if workload.kind != "finetune" or workload.base is None:
            continue
        base = workload_by_name.get(workload.base)
        if base is None:
            continue

        path = f"workloads[{index}].base"
        if base.name == workload.name:
            message = f"{quote_value(workload.name)} cannot be its own base"
            hint = "write the workload whose model is tuned, or a model"
            yield NeedsProblem(NeedsCode.CONTRADICTION, path, message, hint=hint)
        elif base.kind not in _TUNABLE:
            name = quote_value(base.name)
            message = f"{name} is of kind {base.kind}: it runs no language model to tune"
            hint = f"write a workload of kind {', '.join(sorted(_TUNABLE))}, or a model"
            yield NeedsProblem(NeedsCode.CONTRADICTION, path, message, hint=hint)
        elif _is_circular(workload, workload_by_name, acyclic_names):
            message = f"the bases of {quote_value(workload.name)} form a circle"
            hint = "let one of them start from a model"
            yield NeedsProblem(NeedsCode.CONTRADICTION, path, message, hint=hint)
            return


def _is_circular(
    start: Workload,
    workload_by_name: Mapping[str, Workload],
    acyclic_names: set[str],
) -> bool:
    """True if the bases of `start` form a cycle.

    `acyclic_names` collects the names that are known to end.
    """
    seen = {start.name}
    name = start.base
    while name is not None and name in workload_by_name and name not in acyclic_names:
        if name in seen:
            return True
        seen.add(name)
        workload = workload_by_name[name]
        if workload.kind != "finetune":
            break
        name = workload.base
    acyclic_names |= seen
    return False


def check_team(needs: Needs) -> Iterator[NeedsProblem]:
    """Check the roles of the team, and that its platform engineers are stated once."""
    organisation = needs.organisation
    roles = get_args(Role)
    for role in organisation.team:
        if role not in roles:
            yield NeedsProblem(
                NeedsCode.NOT_A_CHOICE,
                f"organisation.team.{role}",
                f"a team has no role {quote_value(role)}",
                hint=f"use one of: {', '.join(roles)}",
                suggest=partial(nearest_spellings, role, roles),
            )
            return

    if organisation.platform_engineers is not None and "platform" in organisation.team:
        path = "organisation.team.platform"
        message = "platform_engineers and team.platform are the same people"
        hint = "delete one of the two"
        yield NeedsProblem(NeedsCode.CONTRADICTION, path, message, hint=hint)


def check_addresses(needs: Needs) -> Iterator[NeedsProblem]:
    """Check URLs of existing products: http(s), a host, and no password.

    Needs files are shared.
    """
    for index, product in enumerate(needs.existing):
        if product.url is None:
            continue
        path = f"existing[{index}].url"
        if " " in product.url or not _is_web_address(product.url):
            message = f"{quote_value(product.url)} is not a URL"
            hint = "write http:// or https://, then the host"
            yield NeedsProblem(NeedsCode.MALFORMED, path, message, hint=hint)
        elif _has_credentials(product.url):
            message = "the URL contains a user or a password"
            hint = "leave it out: needs files are shared"
            yield NeedsProblem(NeedsCode.MALFORMED, path, message, hint=hint)


def _is_web_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port = parts.port or 1
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and port > 0


def _has_credentials(url: str) -> bool:
    parts = urlsplit(url)
    return parts.username is not None or parts.password is not None
