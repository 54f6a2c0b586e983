"""Pseudonyms are stable per tenant, and their secret is private."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archwright.errors import DataError
from archwright.home import Home
from archwright.lake.steps.pseudonyms import load_pseudonym_key, make_pseudonym, normalise_value


def test_a_value_has_one_pseudonym_per_tenant_and_kind(tmp_path: Path) -> None:
    home, again, other = Home(tmp_path / "a"), Home(tmp_path / "a"), Home(tmp_path / "b")
    key = load_pseudonym_key(home, "clinic")
    assert key == load_pseudonym_key(again, "clinic")
    assert len({key, load_pseudonym_key(home, "lab"), load_pseudonym_key(other, "clinic")}) == 3
    name = make_pseudonym(key, "email", "bob@example.org")
    assert name == make_pseudonym(key, "email", "BOB@Example.org")
    assert name.startswith("EMAIL_")
    assert len(name) == len("EMAIL_") + 16
    assert name != make_pseudonym(key, "email", "rob@example.org")
    assert make_pseudonym(key, "phone", "123456789")[6:] != make_pseudonym(key, "ssn", "123456789")[4:]


@pytest.mark.parametrize(
    ("kind", "spellings"),
    [
        ("phone", ("+44 20 7946 0100", "0044 (20) 7946-0100", "+44 (0)20 7946 0100", "+44.20.7946.0100")),
        ("card", ("4111 1111 1111 1111", "4111-1111-1111-1111", "4111111111111111")),
        ("iban", ("DE89 3704 0044 0532 0130 00", "de89370400440532013000")),
        ("name", ("Ana  María", "ana maría")),
        ("ip", ("2001:DB8::1", "2001:db8:0:0::1")),
    ],
)
def test_spellings_of_a_value_are_one_value(kind: str, spellings: tuple[str, ...]) -> None:
    assert len({normalise_value(kind, text) for text in spellings}) == 1


def test_secrets_differ_by_case() -> None:
    assert normalise_value("secret", "aB") != normalise_value("secret", "ab")


def test_values_with_other_separators_differ() -> None:
    assert normalise_value("ip", "1.2.3.45") != normalise_value("ip", "1.2.34.5")
    assert normalise_value("birth-date", "1.12.1990") != normalise_value("birth-date", "11.2.1990")


@given(st.text(), st.sampled_from(["email", "phone", "name", "ssn"]))
def test_every_text_has_a_pseudonym(value: str, kind: str) -> None:
    assert make_pseudonym(bytes(32), kind, value) == make_pseudonym(bytes(32), kind, value)


def read_key(root: Path) -> bytes:
    return load_pseudonym_key(Home(root), "clinic")


def test_callers_at_once_share_one_private_secret(tmp_path: Path) -> None:
    Home(tmp_path / "home").folder()
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(read_key, [tmp_path / "home"] * 8))) == 1
    secret = Home(tmp_path / "home").pseudonym_secret
    assert secret.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in secret.parent.iterdir()] == [secret.name]


def test_a_damaged_secret_is_not_replaced(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    load_pseudonym_key(home, "clinic")
    home.pseudonym_secret.write_bytes(b"x")
    with pytest.raises(DataError, match="damaged: 1 bytes") as caught:
        load_pseudonym_key(home, "clinic")
    assert caught.value.code == "AW-DATA-71"
