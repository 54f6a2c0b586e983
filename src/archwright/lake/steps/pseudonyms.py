"""Stable pseudonyms of personal data: the same value of a tenant has the same pseudonym in all its data sets.

A pseudonym is an HMAC with a key per tenant, derived (HKDF, RFC 5869) from one secret of the home. Without the secret,
a pseudonym does not identify the value. With the secret, any value can be tested, so protect it like the data.
Design: 80 bits, so among 10^9 values two have the same pseudonym with a probability of 4 in 10 million.
"""

import base64
import hmac
import ipaddress
import unicodedata
from contextlib import suppress

from archwright.errors import DataError, ErrorLocation
from archwright.home import Home, create_secret

SECRET_BYTES = 32
PSEUDONYM_BYTES = 10


def load_pseudonym_key(home: Home, tenant: str) -> bytes:
    """The key of the tenant's pseudonyms; the home's secret is created on first use.

    Raises DataError AW-DATA-71 if the secret is damaged.
    """
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF  # noqa: PLC0415

    path = home.pseudonym_secret
    if not path.exists():
        create_secret(path, SECRET_BYTES)
    secret = path.read_bytes()
    if len(secret) != SECRET_BYTES:
        message = f"the secret of the pseudonyms is damaged: {len(secret)} bytes instead of {SECRET_BYTES}"
        hint = (
            "copy the file from a restored backup: archwright restore --into DIR; a new secret would give every "
            "value another pseudonym"
        )
        raise DataError("AW-DATA-71", message, where=ErrorLocation(str(path)), hint=hint)
    info = b"archwright pseudonyms\0" + tenant.encode()
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(secret)


def make_pseudonym(key: bytes, kind: str, value: str) -> str:
    """For example EMAIL_k5wq3hd27xn4tzpa; spellings of a value that `normalise_value` unifies have the same one."""
    digest = hmac.digest(key, f"{kind}\0{normalise_value(kind, value)}".encode("utf-8", "surrogatepass"), "sha256")
    return f"{kind.upper()}_{base64.b32encode(digest[:PSEUDONYM_BYTES]).decode().lower()}"


# Kinds whose values are compared by their digits and letters alone.
NUMBER_KINDS = frozenset({"phone", "card", "iban", "national-id", "ssn"})


def normalise_value(kind: str, value: str) -> str:
    """Texts without case and extra blanks, numbers without separators; 00 is + for phones. Keys stay as they are."""
    if kind == "secret":
        return value
    text = " ".join(unicodedata.normalize("NFKC", value).casefold().split())
    if kind == "ip":
        with suppress(ValueError):
            return str(ipaddress.ip_address(text))
    if kind not in NUMBER_KINDS:
        return text
    number = "".join(sign for sign in text.replace("(0)", "") if sign.isalnum() or sign == "+")
    return "+" + number[2:] if kind == "phone" and number.startswith("00") else number
