"""Users, named by keys and limits: `user list`, `user limit`."""

from archwright.api.context import audit_read, open_audited_keys, open_keys
from archwright.contract.record import Record, as_dict
from archwright.policy.usage_limits import BudgetPeriod, UsageLimits


class UserView(Record):
    """A user with its limits; `keys` counts the keys that are not revoked."""

    tenant: str
    user: str
    keys: int
    rpm: int | None
    tpm: int | None
    budget_usd: float | None
    period: BudgetPeriod
    parallel: int | None


@audit_read("user.list")
def list(*, tenant: str | None = None) -> tuple[UserView, ...]:  # noqa: A001 - the verb's name
    with open_keys() as (keys, _home, _store):
        users = {(key.tenant, key.user): 0 for key in keys.list(tenant) if key.user}
        for key in keys.list(tenant):
            if key.user and not keys.is_revoked(key.id):
                users[key.tenant, key.user] += 1
        known = {}
        for scope, limits in keys.read_limits().items():
            kind, _, name = scope.partition(":")
            owner, _, user = name.partition("/")
            if kind == "user" and tenant in (None, owner):
                known[owner, user] = limits
        found = sorted({*users, *known})
        return tuple(_build_view(*pair, users.get(pair, 0), known.get(pair, UsageLimits())) for pair in found)


def limit(tenant: str, user: str, *, limits: UsageLimits = UsageLimits()) -> UserView:  # noqa: B008 - frozen
    """Set all limits of a user over all its keys. Every worker applies them within a second."""
    with open_audited_keys() as (keys, record_act):
        row = keys.set_limits("user", tenant, user, limits=limits)
        record_act("user.limit", row.scope.rpartition("/")[2], tenant)
        live = [key for key in keys.list(tenant) if key.user == user and not keys.is_revoked(key.id)]
        return _build_view(tenant, user, len(live), limits)


def _build_view(tenant: str, user: str, keys: int, limits: UsageLimits) -> UserView:
    return UserView(tenant=tenant, user=user, keys=keys, **as_dict(limits))
