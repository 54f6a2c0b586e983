"""A key as lists show it, without secret and digest."""

from archwright.access.api_keys import KeyStore
from archwright.access.tables import KeyRecord, format_scope_name
from archwright.contract.record import Record, as_dict
from archwright.policy.usage_limits import BudgetPeriod, UsageLimits


class NewKey(Record):
    """A created key with its secret `key`, which is shown only once."""

    key: str
    id: str
    tenant: str
    role: str
    user: str
    expires_at: float | None


class InstalledKey(Record):
    """A key in a secret of a cluster. `id` is empty if the secret had a value already, which was
    kept.
    """

    secret: str
    role: str
    id: str = ""


class KeyView(Record):
    """A key without secret and digest; `last_used_at`: midnight (UTC) before its last use within 90
    days.
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
    shown = {name: getattr(record, name) for name in ("id", "tenant", "role", "user", "expires_at")}
    return NewKey(key=secret, **shown)


def build_key_view(keys: KeyStore, record: KeyRecord, known: dict[str, UsageLimits], used: dict[str, float]) -> KeyView:
    """Build the view of a key; `known`: limits in force by scope, `used`: time of last use by key
    id.
    """
    limits = known.get(format_scope_name("key", name=record.id), UsageLimits())
    shown = {name: value for name, value in as_dict(record).items() if name not in ("digest", "prev", "mac")}
    fields = shown | as_dict(limits)
    # An end that was set later; the secret of a key that was seen as expired has the end 0.
    end = keys.find_end(record)
    if end is not None:
        fields["expires_at"] = end or record.expires_at or end
    return KeyView(**fields, last_used_at=used.get(record.id), revoked=keys.is_revoked(record.id))
