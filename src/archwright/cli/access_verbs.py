"""The verbs of tenants, users and keys."""

from __future__ import annotations

from archwright.cli.verb_spec import Arg, Verb, require_positional

LIMITS = (
    Arg("rpm", "requests a minute", "integer", of="limits", metavar="N"),
    Arg("tpm", "tokens a minute, in and out", "integer", of="limits", metavar="N"),
    Arg("budget_usd", "money it may spend", "number", of="limits", metavar="USD"),
    Arg("period", "the budget is for all time (total), each month or each day", default="total", of="limits"),
)
KEY_ID = require_positional("id", "the key's id")
TENANT = require_positional("tenant", "the tenant")
ONLY_TENANT = Arg("tenant", "only this tenant's")

ACCESS_VERBS: tuple[Verb, ...] = (
    Verb("tenant create", "make a tenant", (require_positional("name", "lower case letters, digits, dashes"),)),
    Verb("tenant list", "tenants and their limits", (), "print_table"),
    Verb(
        "tenant limit",
        "set all limits of a tenant; what is left out has none",
        (require_positional("name", "the tenant"), *LIMITS),
    ),
    Verb(
        "tenant content",
        "have what a tenant's requests say go along with their traces, or no longer",
        (require_positional("name", "the tenant"), Arg("traced", "from now on; without this, no longer", "flag")),
    ),
    Verb("user list", "users, by their keys and limits", (ONLY_TENANT,), "print_table"),
    Verb(
        "user limit",
        "set all limits of a user, over all keys; what is left out has none",
        (TENANT, require_positional("user", "the user"), *LIMITS),
    ),
    Verb(
        "key create",
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
    Verb("key list", "keys without their secrets", (ONLY_TENANT,), "print_table"),
    Verb("key limit", "set all limits of a key; what is left out has none", (KEY_ID, *LIMITS)),
    Verb(
        "key rotate",
        "give a key another secret, shown once; the old one ends after the overlap",
        (KEY_ID, Arg("overlap_hours", "how long both work", "number", default=24.0, metavar="HOURS")),
    ),
    Verb("key revoke", "refuse a key from now on", (KEY_ID,)),
)
