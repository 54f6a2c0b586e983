"""The verbs of tenants, users and keys."""

from __future__ import annotations

from archwright.cli.verb_spec import Arg, Verb, require_positional

LIMITS = (
    Arg("rpm", "requests per minute (default: no limit)", "integer", of="limits", metavar="N"),
    Arg("tpm", "input and output tokens per minute (default: no limit)", "integer", of="limits", metavar="N"),
    Arg("budget_usd", "budget in USD (default: no limit)", "number", of="limits", metavar="USD"),
    Arg("period", "period of the budget: total (default), month or day", default="total", of="limits"),
)
KEY_ID = require_positional("id", "id of the key")
TENANT = require_positional("tenant", "name of the tenant")
ONLY_TENANT = Arg("tenant", "tenant to show (default: all)")

ACCESS_VERBS: tuple[Verb, ...] = (
    Verb("tenant create", "create a tenant", (require_positional("name", "name: lower case letters, digits, dashes"),)),
    Verb("tenant list", "list tenants and their limits", (), "print_table"),
    Verb(
        "tenant limit",
        "set all limits of a tenant; an omitted limit is removed",
        (require_positional("name", "name of the tenant"), *LIMITS),
    ),
    Verb(
        "tenant content",
        "include prompts and responses in traces for this tenant, or stop doing so",
        (
            require_positional("name", "name of the tenant"),
            Arg("traced", "inclusion of prompts and responses (default: stop)", "flag"),
        ),
    ),
    Verb("user list", "list users with their keys and limits", (ONLY_TENANT,), "print_table"),
    Verb(
        "user limit",
        "set all limits of a user over all keys; an omitted limit is removed",
        (TENANT, require_positional("user", "name of the user"), *LIMITS),
    ),
    Verb(
        "key create",
        "create a key; its secret is shown once",
        (
            Arg("tenant", "tenant of the key, created if new (default: default)", default="default"),
            Arg("user", "user of the key: letters, digits, . _ @ + - (default: none)", default=""),
            Arg("role", "role: owner, admin, member (default) or monitor", default="member"),
            Arg("name", "label of the key (default: none)", default=""),
            Arg("expires_in_days", "validity in days (default: unlimited)", "number", metavar="DAYS"),
            *LIMITS,
        ),
    ),
    Verb("key list", "list keys, without their secrets", (ONLY_TENANT,), "print_table"),
    Verb("key limit", "set all limits of a key; an omitted limit is removed", (KEY_ID, *LIMITS)),
    Verb(
        "key rotate",
        "create a new secret for a key, shown once; the old secret ends after the overlap",
        (
            KEY_ID,
            Arg(
                "overlap_hours",
                "hours in which both secrets work (default: 24)",
                "number",
                default=24.0,
                metavar="HOURS",
            ),
        ),
    ),
    Verb("key revoke", "revoke a key at once", (KEY_ID,)),
)
