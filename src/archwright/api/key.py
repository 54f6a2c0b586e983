"""Keys: `key create`, `key install`, `key list`, `key limit`, `key rotate`, `key revoke`, `key reset`."""

from functools import partial

from archwright import settings
from archwright.access.api_keys import replace_pepper
from archwright.access.key_views import InstalledKey, KeyView, NewKey, build_key_view, build_new_key
from archwright.api.context import audit_read, open_audited_keys, open_home, open_keys, write_audit_record
from archwright.errors import OperateError
from archwright.http_client.cluster_secrets import ClusterSecrets, parse_secret_field
from archwright.operate.owner_keys import OWNER_TENANT
from archwright.policy.usage_limits import UsageLimits

DAY_S, HOUR_S = 86_400, 3_600


def create(
    *,
    tenant: str = "default",
    user: str = "",
    role: str = "member",
    name: str = "",
    expires_in_days: float | None = None,
    limits: UsageLimits = UsageLimits(),  # noqa: B008 - frozen
) -> NewKey:
    """Create a key for a tenant, and the tenant if it is new."""
    with open_audited_keys() as (keys, record_act):
        lives_s = None if expires_in_days is None else expires_in_days * DAY_S
        secret, record = keys.create(tenant, role, name, user=user, limits=limits, lives_s=lives_s)
        record_act("key.create", record.id, tenant)
        return build_new_key(secret, record)


def install(secret: str, *, role: str = "member", name: str = "") -> InstalledKey:
    """Create a key of the default tenant, and write it into a secret of the Kubernetes cluster that this runs in.

    The secret exists with an empty field; a field with a value is kept, and no key is created. A key that could not be
    written is revoked. Nothing prints the key. Raises UsageError AW-USE-78 for a secret that is not
    NAMESPACE/NAME:FIELD, SettingsError AW-SET-02 outside of a cluster, OperateError AW-OPS-74 if the cluster refuses.
    """
    target, cluster = parse_secret_field(secret), ClusterSecrets(settings.read_cluster_access())
    version = cluster.read_version(target)
    if version is None:
        return InstalledKey(secret=str(target), role=role)
    with open_audited_keys() as (keys, record_act):
        value, record = keys.create(OWNER_TENANT, role, name)
        record_act("key.create", record.id, OWNER_TENANT)
        try:
            cluster.write_field(target, value, version)
        except OperateError:
            keys.revoke(record.id)
            record_act("key.revoke", record.id, OWNER_TENANT)
            raise
    return InstalledKey(secret=str(target), role=role, id=record.id)


@audit_read("key.list")
def list(*, tenant: str | None = None) -> tuple[KeyView, ...]:  # noqa: A001 - the verb's name
    with open_keys() as (keys, _home, _store):
        limits = keys.read_limits()
        last_used = keys.last_used()
        show = partial(build_key_view, keys, limits=limits, last_used=last_used)
        return tuple(map(show, keys.list(tenant)))


def limit(id: str, *, limits: UsageLimits = UsageLimits()) -> KeyView:  # noqa: A002, B008 - the record's field; frozen
    """Set all limits of a key. Every worker applies them within a second, also to running requests."""
    with open_audited_keys() as (keys, record_act):
        row = keys.set_limits("key", "", id, limits=limits)
        record = next(key for key in keys.list() if key.id == id)
        record_act("key.limit", id, record.tenant)
        limits_in_force = {row.scope: limits}
        last_used = keys.last_used()
        return build_key_view(keys, record, limits=limits_in_force, last_used=last_used)


def rotate(id: str, *, overlap_hours: float = 24.0) -> NewKey:  # noqa: A002 - the record's field
    """Create a new secret for a key; id, limits and usage stay. The old secret ends after the overlap."""
    with open_audited_keys() as (keys, record_act):
        secret, record = keys.rotate(id, overlap_hours * HOUR_S)
        record_act("key.rotate", id, record.tenant)
        return build_new_key(secret, record)


def revoke(id: str) -> KeyView:  # noqa: A002 - the record's field
    with open_keys(for_act=True) as (keys, _home, store):
        revoked = keys.revoke(id)
        write_audit_record(store, "key.revoke", id, revoked.tenant)
        limits = keys.read_limits()
        return build_key_view(keys, revoked, limits=limits, last_used=keys.last_used())


def reset() -> NewKey:
    """Replace a lost pepper, revoke every key, and return a new owner's key. Running gateways must be restarted.

    Raises UsageError AW-USE-37 if the pepper is intact."""
    with open_home() as (_chosen, home, store):
        replace_pepper(home, store)
    with open_audited_keys() as (keys, record_act):
        for key in keys.list():
            keys.revoke(key.id)
        secret, record = keys.create(OWNER_TENANT, role="owner", name="owner")
        record_act("key.reset", record.id, OWNER_TENANT)
        return build_new_key(secret, record)
