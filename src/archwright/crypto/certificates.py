"""Validity of X.509 certificates, on `cryptography`."""

from typing import NamedTuple


class CertificateValidity(NamedTuple):
    """Start and end of a certificate in seconds since the epoch, and its SHA-256 in hex."""

    start: float
    end: float
    digest: str


def read_validity(pem: bytes) -> CertificateValidity:
    """Return the validity of the first certificate of a PEM file. Raises ValueError if there is none."""
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415
    from cryptography.x509 import load_pem_x509_certificate  # noqa: PLC0415

    certificate = load_pem_x509_certificate(pem)
    start = certificate.not_valid_before_utc.timestamp()
    end = certificate.not_valid_after_utc.timestamp()
    return CertificateValidity(start, end, certificate.fingerprint(SHA256()).hex())
