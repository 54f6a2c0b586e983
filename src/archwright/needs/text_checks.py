"""Checks of names and texts: form, duplicates, and references within the file."""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import get_args
from urllib.parse import urlsplit

from archwright.contract.needs import TEXT_KINDS, Needs, Role, Workload
from archwright.needs.needs_problem import NeedsCode, NeedsProblem, last_field_name, nearest_spellings
from archwright.needs.traversal import iterate_texts
from archwright.specfile import quote_value

NAME = re.compile(r"[a-z0-9-]{1,40}", re.ASCII)
MAX_TEXT = 200
MAX_GOAL = 2000
MAX_URL = 2000
MAX_ITEMS = 1000
# Each machine is looked up in the catalog by many spellings, which takes about a millisecond.
MAX_MACHINES = 200

# A fine-tune starts from the language model of a workload or from the result of another training workload.
_TUNABLE = TEXT_KINDS | {"embedding", "finetune", "pretrain"}


def check_texts(needs: Needs) -> Iterator[NeedsProblem]:
    """Check that texts are short and on one line (a goal may be a paragraph), and the form of names."""
    for path, text in iterate_texts(needs):
        goal = path.startswith("goals[")
        limit = MAX_GOAL if goal else MAX_URL if path.endswith(".url") else MAX_TEXT
        if not text.strip():
            message = f"{last_field_name(path)} is empty"
            yield NeedsProblem(NeedsCode.BAD_TEXT, path, message, "fill it in, or delete the line")
        elif len(text) > limit:
            yield NeedsProblem(
                NeedsCode.BAD_TEXT, path, f"{len(text):,} characters are too many", f"write at most {limit:,}"
            )
        elif not goal and ("\n" in text or "\t" in text):
            message = f"{quote_value(text)} contains a line break or a tab"
            yield NeedsProblem(NeedsCode.BAD_TEXT, path, message, "keep it on one line")
    hint = "use 1 to 40 characters of a-z, 0-9 and -"
    for index, workload in enumerate(needs.workloads):
        if not NAME.fullmatch(workload.name):
            message = f"{quote_value(workload.name)} cannot be a name"
            yield NeedsProblem(NeedsCode.BAD_TEXT, f"workloads[{index}].name", message, hint)
    for path in (
        *(f"sites.{name}" for name in needs.sites),
        *(f"placement.sites.{name}" for name in needs.placement.sites),
    ):
        name = path.partition("sites.")[2]
        if re.search(r"[.\[\]]", name):
            message = f"{quote_value(name)} cannot be a name"
            yield NeedsProblem(NeedsCode.BAD_TEXT, path, message, "leave out dots and brackets")


def check_duplicates(needs: Needs) -> Iterator[NeedsProblem]:
    """Check that workloads, data sets and the entries of a list have different names."""
    for path, items in (("workloads", needs.workloads), ("data", needs.data)):
        yield from _first_duplicate(path, ".name", [item.name for item in items], "give each a different name")
    for path, names in _name_lists(needs):
        yield from _first_duplicate(path, "", names, "delete one of the two")


def _name_lists(needs: Needs) -> Iterator[tuple[str, Sequence[str]]]:
    yield "regulations", needs.regulations
    for field in ("allow", "clouds", "regions", "accelerators"):
        yield f"placement.{field}", getattr(needs.placement, field) or ()
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
    for name, site in needs.placement.sites.items():
        yield f"placement.sites.{name}.workloads", site.workloads


def _first_duplicate(path: str, field: str, names: Iterable[str], hint: str) -> Iterator[NeedsProblem]:
    seen: set[str] = set()
    for index, name in enumerate(names):
        if name in seen:
            message = f"{quote_value(name)} is in {path} twice"
            yield NeedsProblem(NeedsCode.NAMED_TWICE, f"{path}[{index}]{field}", message, hint)
            return
        seen.add(name)


def check_list_sizes(needs: Needs) -> Iterator[NeedsProblem]:
    """Check lists that must not be empty, and limit the length of all lists."""
    if not needs.workloads:
        hint = "describe at least one workload under `workloads`"
        yield NeedsProblem(NeedsCode.MISSING_FIELD, "workloads", "there is no workload", hint)
    placement = needs.placement
    not_empty = {
        "placement.allow": placement.allow,
        "placement.regions": placement.regions,
        "placement.accelerators": placement.accelerators,
        **{f"data[{index}].residency": data.residency for index, data in enumerate(needs.data)},
    }
    for path, names in not_empty.items():
        if names is not None and not names:
            message = f"an empty {last_field_name(path)} allows nothing"
            yield NeedsProblem(NeedsCode.CONTRADICTION, path, message, "add the allowed values, or delete the field")
    counted: dict[str, tuple[Sequence[object], int]] = {
        "workloads": (needs.workloads, MAX_ITEMS),
        "data": (needs.data, MAX_ITEMS),
        "goals": (needs.goals, MAX_ITEMS),
        "placement.accelerators": (placement.accelerators or (), MAX_MACHINES),
        "placement.owned": (placement.owned, MAX_MACHINES),
    }
    for path, (items, most) in counted.items():
        if len(items) > most:
            message, hint = f"{len(items):,} entries are too many", f"write at most {most:,}; combine similar entries"
            yield NeedsProblem(NeedsCode.OUT_OF_RANGE, path, message, hint)


def check_references(needs: Needs) -> Iterator[NeedsProblem]:
    """Check that `data` and `sites` of a workload exist, and that a preferred placement is allowed."""
    data, sites = {item.name for item in needs.data}, set(needs.sites)
    for index, workload in enumerate(needs.workloads):
        yield from _first_dangling(f"workloads[{index}].data", workload.data, data, "data set")
        yield from _first_dangling(f"workloads[{index}].sites", workload.sites, sites, "group of sites")
    placement, served = needs.placement, {workload.name for workload in needs.workloads if not workload.sites}
    for name, site in placement.sites.items():
        kind = "workload without sites of its own"
        yield from _first_dangling(f"placement.sites.{name}.workloads", site.workloads, served, kind)
    if placement.prefer is not None and placement.prefer not in placement.allow:
        hint = f"add it to placement.allow ({', '.join(placement.allow)})"
        message = f"{placement.prefer} is preferred, but not allowed"
        yield NeedsProblem(NeedsCode.CONTRADICTION, "placement.prefer", message, hint)


def _first_dangling(path: str, names: Iterable[str], known: set[str], what: str) -> Iterator[NeedsProblem]:
    for index, name in enumerate(names):
        if name not in known:
            names = ", ".join(quote_value(item) for item in sorted(known)[:5])
            hint = f"use one of: {names}" if names else f"describe it under `{last_field_name(path)}` first"
            message, suggest = f"there is no {what} {quote_value(name)}", partial(nearest_spellings, name, known)
            yield NeedsProblem(NeedsCode.DANGLING, f"{path}[{index}]", message, hint, suggest)
            return


def check_bases(needs: Needs) -> Iterator[NeedsProblem]:
    """Check that the chain of `base` workloads has no cycle and ends at a language model."""
    by_name = {workload.name: workload for workload in needs.workloads}
    acyclic: set[str] = set()
    for index, workload in enumerate(needs.workloads):
        path = f"workloads[{index}].base"
        if workload.kind != "finetune" or workload.base not in by_name:
            continue
        if workload.base == workload.name:
            message = f"{quote_value(workload.name)} cannot be its own base"
            hint = "write the workload whose model is tuned, or a model"
            yield NeedsProblem(NeedsCode.CONTRADICTION, path, message, hint)
        elif (base := by_name[workload.base]).kind not in _TUNABLE:
            message = f"{quote_value(base.name)} is of kind {base.kind}: it runs no language model to tune"
            hint = f"write a workload of kind {', '.join(sorted(_TUNABLE))}, or a model"
            yield NeedsProblem(NeedsCode.CONTRADICTION, path, message, hint)
        elif _is_circular(workload, by_name, acyclic):
            message = f"the bases of {quote_value(workload.name)} form a circle"
            yield NeedsProblem(NeedsCode.CONTRADICTION, path, message, "let one of them start from a model")
            return


def _is_circular(start: Workload, by_name: dict[str, Workload], acyclic: set[str]) -> bool:
    """True if the bases of `start` form a cycle. `acyclic` collects the names that are known to end."""
    seen = {start.name}
    name = start.base
    while name in by_name and name not in acyclic:
        if name in seen:
            return True
        seen.add(name)
        name = by_name[name].base if by_name[name].kind == "finetune" else None
    acyclic |= seen
    return False


def check_team(needs: Needs) -> Iterator[NeedsProblem]:
    """Check the roles of the team, and that its platform engineers are stated once."""
    organisation, roles = needs.organisation, get_args(Role)
    for role in organisation.team:
        if role not in roles:
            message, suggest = f"a team has no role {quote_value(role)}", partial(nearest_spellings, role, roles)
            hint = f"use one of: {', '.join(roles)}"
            yield NeedsProblem(NeedsCode.NOT_A_CHOICE, f"organisation.team.{role}", message, hint, suggest)
            return
    if organisation.platform_engineers is not None and "platform" in organisation.team:
        message = "platform_engineers and team.platform are the same people"
        yield NeedsProblem(NeedsCode.CONTRADICTION, "organisation.team.platform", message, "delete one of the two")


def check_addresses(needs: Needs) -> Iterator[NeedsProblem]:
    """Check URLs of existing products: http(s), a host, and no password, since needs files are shared."""
    for index, item in enumerate(needs.existing):
        if item.url is None:
            continue
        path = f"existing[{index}].url"
        try:
            parts = urlsplit(item.url)
            is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
            has_secret = parts.username is not None or parts.password is not None
        except ValueError:
            is_url, has_secret = False, False
        if not is_url or " " in item.url:
            message, hint = f"{quote_value(item.url)} is not a URL", "write http:// or https://, then the host"
            yield NeedsProblem(NeedsCode.MALFORMED, path, message, hint)
        elif has_secret:
            message = "the URL contains a user or a password"
            yield NeedsProblem(NeedsCode.MALFORMED, path, message, "leave it out: needs files are shared")
