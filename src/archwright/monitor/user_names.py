"""Names of users.

Every other record names a user by an id, so that erasing a name erases it everywhere. The signed
audit log and the usage records are never rewritten: without the row here, their ids name nobody.
Users of homes of an older version are named by their names, which then are their ids.
"""

import secrets
from collections.abc import Collection
from contextlib import suppress

from archwright.contract.record import Record
from archwright.store import ConflictError, RecordTable, Store


class UserName(Record):
    """`name` of a user in a tenant; the tenant "" holds the users of this machine."""

    tenant: str
    name: str
    id: str


USER_NAMES = RecordTable("user_names", UserName, unique=("tenant", "name"))


def read_user_names(store: Store) -> dict[str, str]:
    """Id -> name of every user that has not been erased."""
    return {row.id: row.name for row in store.rows(USER_NAMES)}


def find_user_ids(store: Store, name: str, tenant: str | None = None) -> tuple[str, ...]:
    """The ids under which records name a user.

    That is the id of each tenant, or the name itself in records of older versions.
    """
    where = {"name": name}
    if tenant is not None:
        where["tenant"] = tenant
    ids = [row.id for row in store.rows(USER_NAMES, where)]
    return (*ids, name)


def ensure_user_id(
    store: Store,
    tenant: str,
    name: str,
    *,
    former_ids: Collection[str] = (),
) -> str:
    """The user's id, made on first use; "" has the id "".

    A user among `former_ids` keeps the name as id.
    """
    if not name:
        return ""

    where = {"tenant": tenant, "name": name}
    while True:
        rows = store.rows(USER_NAMES, where, limit=1)
        if rows:
            return rows[0].id

        new_id = name if name in former_ids else f"user-{secrets.token_hex(8)}"
        # If another process made the id first, its row is read.
        with suppress(ConflictError):
            store.append(USER_NAMES, [UserName(tenant=tenant, name=name, id=new_id)])
