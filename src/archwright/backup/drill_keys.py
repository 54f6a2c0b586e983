"""Two keys of the gateway for drills: a drill sends requests with them to the gateway of the restored home.

Their secrets are only in the encrypted manifests. The valid key may spend one cent in all, so that its secret is of
little use with the gateway that runs."""

from archwright.access.api_keys import KeyStore
from archwright.access.tables import DRILL_TENANT
from archwright.backup.manifest import DrillKeys
from archwright.policy.usage_limits import UsageLimits

DRILL_LIMITS = UsageLimits(rpm=10, budget_usd=0.01)


def find_or_create_keys(keys: KeyStore, former: DrillKeys | None) -> DrillKeys:
    """Return the keys of the backup before; new ones if the valid key of that was revoked."""
    if former is not None and keys.identify(former.valid) is not None:
        return former
    valid, _record = keys.create(DRILL_TENANT, name="valid", limits=DRILL_LIMITS)
    revoked, record = keys.create(DRILL_TENANT, name="revoked", limits=DRILL_LIMITS)
    keys.revoke(record.id)
    return DrillKeys(valid=valid, revoked=revoked)
