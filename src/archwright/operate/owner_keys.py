"""The owner's key and the key of local commands.

A user who can read the home owns the platform: `ask`, `bench` and `key` on this machine use a key in the home (0600),
created on first use and again after a revocation.

Both keys end after the setting owner_key_days, and are renewed when they are near their end. A key of an older home
has no end. It works until owner_key_days after the first start of a release that limits the life of owners' keys.
"""

import math
import time
from collections.abc import Callable

from archwright.access.api_keys import KeyRecord, KeyStore, find_default_life
from archwright.access.key_cache import DAY_S
from archwright.home import Home, write_atomic

OWNER_TENANT = "default"
OWNER_NAME = "owner"
# A key is renewed this long before its end, so that a platform that starts every week never loses its owner.
RENEWAL_S = 14.0 * DAY_S


def create_owner_key(keys: KeyStore, clock: Callable[[], float] = time.time) -> str | None:
    """Create the owner's key if the home has none or it is near its end; else None, because it is shown once.

    A key that a person revoked is not replaced."""
    now = clock()
    keys.refresh_version()
    made = [key for key in keys.list() if key.role == "owner" and key.name == OWNER_NAME]
    newest = max(made, key=lambda key: key.created_at, default=None)
    if newest is not None and (keys.is_revoked(newest.id) or not _end_old_key(keys, newest, now)):
        return None
    secret, _record = keys.create(OWNER_TENANT, role="owner", name=OWNER_NAME)
    return secret


def _end_old_key(keys: KeyStore, record: KeyRecord, now: float) -> bool:
    """Return True if a key needs a successor; a key of an older home, which has no end, gets one here."""
    end, life_s = keys.find_end(record), find_default_life("owner")
    if end is not None:
        return is_near_end(end, now)
    if life_s is None:
        return False
    keys.end_key(record.id, now + life_s)
    return True


def is_near_end(end: float, now: float) -> bool:
    """True in the last RENEWAL_S of a key, at most in the second half of its life."""
    return end - now < min(RENEWAL_S, (find_default_life("owner") or math.inf) / 2)


def get_local_key(keys: KeyStore, home: Home, clock: Callable[[], float] = time.time) -> str:
    """Return the key of local commands: that of the file, or a new one."""
    path = home.folder("secrets") / "local-key"
    now = clock()
    lives_for_ever = find_default_life("owner") is None
    if path.is_file():
        secret = path.read_text(encoding="ascii").strip()
        principal = keys.identify(secret)
        if principal is not None and not is_near_end(principal.expires_at, now):
            if principal.expires_at < math.inf or lives_for_ever:
                return secret
            keys.end_key(principal.key_id, now + DAY_S)  # of an older home; running commands use it until then
    secret, _record = keys.create(OWNER_TENANT, role="owner", name="local")
    write_atomic(path, secret.encode("ascii"))
    return secret
