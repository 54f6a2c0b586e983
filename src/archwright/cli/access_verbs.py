"""The verbs of tenants, users and keys."""

from __future__ import annotations

from archwright.cli.verb_spec import Arg, Verb

LIMITS = (
    Arg("rpm", "requests a minute", "integer", of="limits", metavar="N"),
    Arg("tpm", "tokens a minute, in and out", "integer", of="limits", metavar="N"),
    Arg("budget_usd", "money it may spend", "number", of="limits", metavar="USD"),
    Arg("period", "the budget is for all time (total), each month or each day", default="total", of="limits"),
)
KEY_ID = Arg("id", "the key's id", positional=True, required=True)
TENANT = Arg("tenant", "the tenant", positional=True, required=True)
ONLY_TENANT = Arg("tenant", "only this tenant's")

ACCESS_VERBS: tuple[Verb, ...] = (
    Verb(
        ("tenant", "create"),
        "tenant.create",
        "make a tenant",
        (Arg("name", "lower case letters, digits, dashes", positional=True, required=True),),
    ),
    Verb(("tenant", "list"), "tenant.list", "tenants and their limits", (), "print_table"),
    Verb(
        ("tenant", "limit"),
        "tenant.limit",
        "set all limits of a tenant; what is left out has none",
        (Arg("name", "the tenant", positional=True, required=True), *LIMITS),
    ),
    Verb(
        ("tenant", "content"),
        "tenant.content",
        "have what a tenant's requests say go along with their traces, or no longer",
        (
            Arg("name", "the tenant", positional=True, required=True),
            Arg("traced", "from now on; without this, no longer", "flag"),
        ),
    ),
    Verb(("user", "list"), "user.list", "users, by their keys and limits", (ONLY_TENANT,), "print_table"),
    Verb(
        ("user", "limit"),
        "user.limit",
        "set all limits of a user, over all keys; what is left out has none",
        (TENANT, Arg("user", "the user", positional=True, required=True), *LIMITS),
    ),
    Verb(
        ("key", "create"),
        "key.create",
        "make a key; its secret is shown once",
        (
            Arg("tenant", "whose key; made when new", default="default"),
            Arg("user", "who uses it: letters, digits, . _ @ + -", default=""),
            Arg("role", "owner, admin, member or monitor", default="member"),
            Arg("name", "a label", default=""),
            Arg("expires_in_days", "how long it is valid", "number", metavar="DAYS"),
            *LIMITS,
        ),
    ),
    Verb(("key", "list"), "key.list", "keys without their secrets", (ONLY_TENANT,), "print_table"),
    Verb(("key", "limit"), "key.limit", "set all limits of a key; what is left out has none", (KEY_ID, *LIMITS)),
    Verb(
        ("key", "rotate"),
        "key.rotate",
        "give a key another secret, shown once; the old one ends after the overlap",
        (KEY_ID, Arg("overlap_hours", "how long both work", "number", default=24.0, metavar="HOURS")),
    ),
    Verb(("key", "revoke"), "key.revoke", "refuse a key from now on", (KEY_ID,)),
)
