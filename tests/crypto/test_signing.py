"""Signatures of Ed25519, against the first test vector of RFC 8032."""

from __future__ import annotations

import pytest

from archwright.crypto.signing import SECRET_BYTES, SigningKey, is_signed_by

SECRET = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"
PUBLIC = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
SIGNATURE = (
    "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe2465"
    "5141438e7a100b"
)


def test_a_key_signs_as_the_standard_says() -> None:
    key = SigningKey(bytes.fromhex(SECRET))
    assert (key.public_key, key.sign(b"")) == (PUBLIC, SIGNATURE) and len(SECRET) == 2 * SECRET_BYTES
    assert is_signed_by(PUBLIC, b"", SIGNATURE)


@pytest.mark.parametrize(
    ("public_key", "data", "signature"),
    [
        (PUBLIC, b"other", SIGNATURE),
        (PUBLIC, b"", "00" * 64),
        (PUBLIC, b"", "no hex"),
        (PUBLIC[2:], b"", SIGNATURE),
        (SECRET, b"", SIGNATURE),
    ],
)
def test_another_text_signature_or_key_is_refused(public_key: str, data: bytes, signature: str) -> None:
    assert not is_signed_by(public_key, data, signature)


def test_a_secret_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError):
        SigningKey(b"short")
