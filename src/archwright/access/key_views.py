"""A key as lists show it, without secret and digest."""

from archwright.access.api_keys import KeyStore
from archwright.access.tables import KeyRecord, format_scope_name
from archwright.contract.record import Record, as_dict
from archwright.policy.usage_limits import BudgetPeriod, UsageLimits

# Fields of a record that no list shows.
HIDDEN_FIELDS = ("digest", "prev", "mac")


class NewKey(Record):
    """A created key with its secret `key`, which is shown only once."""

    key: str
    id: str
    tenant: str
    role: str
    user: str
    expires_at: float | None


class InstalledKey(Record):
    """A key in a secret of a cluster.

    `id` is empty if the secret had a value already, which was kept.
    """

    secret: str
    role: str
    id: str = ""


class KeyView(Record):
    """A key without secret and digest.

    `last_used_at`: midnight (UTC) before its last use within 90 days.
    """

    id: str
    tenant: str
    user: str
    role: str
    name: str
    prefix: str
    created_at: float
    expires_at: float | None
    last_used_at: float | None
    revoked: bool
    rpm: int | None
    tpm: int | None
    budget_usd: float | None
    period: BudgetPeriod
    parallel: int | None


def build_new_key(secret: str, record: KeyRecord) -> NewKey:
    return NewKey(
        key=secret,
        id=record.id,
        tenant=record.tenant,
        role=record.role,
        user=record.user,
        expires_at=record.expires_at,
    )


def build_key_view(
    keys: KeyStore,
    record: KeyRecord,
    *,
    limits: dict[str, UsageLimits],
    last_used: dict[str, float],
) -> KeyView:
    """Build the view of a key.

    `limits`: those in force by scope, `last_used`: time of the last use by key id.
    """
    fields = as_dict(record)
    for name in HIDDEN_FIELDS:
        del fields[name]
    scope = format_scope_name("key", name=record.id)
    fields |= as_dict(limits.get(scope, UsageLimits()))

    # An end that was set later; the secret of a key that was seen as expired has the end 0.
    end = keys.find_end(record)
    if end is not None:
        fields["expires_at"] = end or record.expires_at or end
    last_used_at = last_used.get(record.id)
    return KeyView(**fields, last_used_at=last_used_at, revoked=keys.is_revoked(record.id))
