"""Two hosts of different versions on one database: what the older one may still do after the newer one wrote."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from archwright.access import schema_version, tables
from archwright.access.api_keys import KeyStore, load_pepper
from archwright.access.signed_rows import read_signer
from archwright.api.context import open_keys
from archwright.errors import StoreError
from archwright.home import SCHEMA_VERSION, Home
from archwright.policy.usage_limits import BudgetPeriod, UsageLimits
from archwright.store import RecordTable, Store


class NewerKeyRecord(tables.KeyRecord):
    """Rows of keys as a later release may have them."""

    added: str = ""


class OlderLimitRow(tables.SignedRow):
    """Rows of limits before the limit `parallel`, which schema version 4 introduced."""

    scope: str
    rpm: int | None = None
    tpm: int | None = None
    budget_usd: float | None = None
    period: BudgetPeriod = "total"
    at: float


OLDER_LIMITS = RecordTable("limits", OlderLimitRow, index=tables.LIMITS.index)
NEWER_KEYS = RecordTable("keys", NewerKeyRecord, unique=tables.KEYS.unique, index=tables.KEYS.index)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.nightly)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'shared.db'}"
    else:
        yield request.getfixturevalue("postgres")


def test_an_older_host_goes_on_and_does_not_start_again(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    older, newer = Home(tmp_path / "older"), Home(tmp_path / "newer")
    with closing(Store(url)) as older_store, closing(Store(url)) as newer_store:
        running = KeyStore(older_store, load_pepper(older, older_store))
        member, _record = running.create("acme")
        shutil.copy(older.pepper, newer.pepper)
        with monkeypatch.context() as later:
            later.setattr(schema_version, "SCHEMA_VERSION", SCHEMA_VERSION + 1)
            later.setattr(schema_version, "__version__", "9.0")
            upgraded = KeyStore(newer_store, load_pepper(newer, newer_store))
            newer_store.rows(NEWER_KEYS)  # adds the column
            other, _record = upgraded.create("acme")

        # The older gateway runs on: it knows the keys of both hosts, and the newer host knows what it writes.
        assert running.identify(member) is not None and running.identify(other) is not None
        late, late_record = running.create("acme", limits=UsageLimits(rpm=3))
        assert upgraded.identify(late) is not None
        assert [row.added for row in newer_store.rows(NEWER_KEYS)] == ["", "", ""]
        running.revoke(late_record.id)
        upgraded._read_at = float("-inf")
        assert upgraded.identify(late) is None

        # It does not start again, and its commands change nothing.
        monkeypatch.setenv("ARCHWRIGHT_HOME", str(older.root))
        monkeypatch.setenv("ARCHWRIGHT_DATABASE_URL", url)
        with pytest.raises(StoreError) as caught, open_keys():
            pass
        known, found = SCHEMA_VERSION, SCHEMA_VERSION + 1
        assert caught.value.code == "AW-STO-25" and "upgrade this host" in caught.value.hint
        assert f"(9.0) wrote this database: schema version {found}, this program knows {known}" in caught.value.message


def test_an_older_host_refuses_a_limit_that_it_does_not_know(home: Home, tmp_path: Path) -> None:
    with closing(Store(f"sqlite:///{tmp_path / 'shared.db'}")) as store:
        pepper = load_pepper(home, store)
        upgraded, signer = KeyStore(store, pepper), read_signer(store, pepper)
        upgraded.create_tenant("acme")
        upgraded.set_limits("tenant", "acme", "", limits=UsageLimits(rpm=3))
        signer.check(OLDER_LIMITS, store.numbered_rows(OLDER_LIMITS))
        upgraded.set_limits("tenant", "acme", "", limits=UsageLimits(rpm=3, parallel=2))
        with pytest.raises(StoreError, check=lambda error: error.code == "AW-STO-20"):
            signer.check(OLDER_LIMITS, store.numbered_rows(OLDER_LIMITS))


def test_the_first_program_of_a_version_states_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Store(f"sqlite:///{tmp_path / 'shared.db'}")) as store:
        for version in (3, 3, 4, 5, 5):
            monkeypatch.setattr(schema_version, "SCHEMA_VERSION", version)
            schema_version.check_schema_version(store)
        assert [row.version for row in store.rows(schema_version.WRITTEN_VERSIONS)] == [3, 4, 5]
