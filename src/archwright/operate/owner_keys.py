"""The owner's key and the key of local commands.

A user who can read the home owns the platform: `ask`, `bench` and `key` on this machine use a key in the home (0600),
created on first use and again after a revocation.
"""

from archwright.access.api_keys import KeyStore
from archwright.home import Home, write_atomic

OWNER_TENANT = "default"


def create_owner_key(keys: KeyStore) -> str | None:
    """Create the owner's key at the first start of a home; None later, because it is shown once."""
    if any(key.name == "owner" for key in keys.list()):
        return None
    secret, _record = keys.create(OWNER_TENANT, role="owner", name="owner")
    return secret


def get_local_key(keys: KeyStore, home: Home) -> str:
    path = home.folder("secrets") / "local-key"
    if path.is_file():
        secret = path.read_text(encoding="ascii").strip()
        if keys.identify(secret) is not None:
            return secret
    secret, _record = keys.create(OWNER_TENANT, role="owner", name="local")
    write_atomic(path, secret.encode("ascii"))
    return secret
