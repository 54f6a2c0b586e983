"""TLS of the listeners: protocol versions, cipher suites, and the end of the certificate."""

import ssl
from pathlib import Path

SUITES = "ECDHE+AESGCM:ECDHE+CHACHA20"  # of TLS 1.2: forward secrecy and no CBC; all suites of TLS 1.3 are such


def create_tls_context(certificate: str, key: str) -> ssl.SSLContext:
    """Return a context for TLS 1.2 or newer with this certificate and key, for HTTP/1.1."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(SUITES)
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["http/1.1"])
    return context


def read_expiration(certificate: str) -> float:
    """Return the end of the first certificate in the file, in seconds since 1970."""
    from cryptography.x509 import load_pem_x509_certificate  # noqa: PLC0415  needs 50 ms, and only TLS needs it

    return load_pem_x509_certificate(Path(certificate).read_bytes()).not_valid_after_utc.timestamp()
