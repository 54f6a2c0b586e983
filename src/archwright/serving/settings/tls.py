"""TLS of the listeners: protocol versions, cipher suites, the files of the certificate, and their renewal."""

import os
import ssl
from pathlib import Path

from archwright.errors import ErrorLocation, OperateError
from archwright.serving.settings.engine_secrets import describe_exposure

SUITES = "ECDHE+AESGCM:ECDHE+CHACHA20"  # of TLS 1.2: forward secrecy and no CBC; all suites of TLS 1.3 are such
UNUSABLE = "AW-OPS-12"


def create_tls_context(certificate: str, key: str) -> ssl.SSLContext:
    """Return a context for TLS 1.2 or newer with this certificate and key, for HTTP/1.1.

    Raises OperateError AW-OPS-12 if other users may open the key, or if the files are not a pair.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(SUITES)
    context.set_alpn_protocols(["http/1.1"])
    try:
        exposure = describe_exposure(os.stat(key))
        if exposure:
            hint = f"run: chmod 600 {key}"
            raise OperateError(UNUSABLE, f"the TLS key {exposure}", where=ErrorLocation(key), hint=hint)
        context.load_cert_chain(certificate, key, password="")  # else OpenSSL would ask a terminal for it
    except OSError as error:  # ssl.SSLError is one
        hint = "set a PEM certificate (chain) and its unencrypted private key"
        message = f"the TLS certificate and key are not usable: {error.strerror or str(error)}"
        raise OperateError(UNUSABLE, message, where=ErrorLocation(certificate), hint=hint) from error
    return context


class ServedCertificate:
    """The pair of files that the listeners show. `context` always holds the last usable pair.

    Design: the master has one, and each worker is a fork with its own copy. All look at the files, so a renewal needs
    no signal and no new worker. A worker that starts beside unusable files has the pair of the master.
    Raises OperateError AW-OPS-12.
    """

    def __init__(self, certificate: str, key: str) -> None:
        self.certificate, self.key = certificate, key
        self._stamp = self._refused = self._read_stamp()
        self.context = create_tls_context(certificate, key)

    def refresh(self) -> bool:
        """Read the files if they changed. Return True if `context` is new.

        Raises OperateError AW-OPS-12, once per change, if they are not usable.
        """
        stamp = self._read_stamp()
        if stamp == self._stamp:
            return False
        try:
            self.context = create_tls_context(self.certificate, self.key)
        except OperateError:
            if stamp == self._refused:
                return False
            self._refused = stamp
            raise
        self._stamp = stamp
        return True

    def read_expiration(self) -> float:
        """Return the end of the first certificate in the file, in seconds since 1970. Raises OSError, ValueError."""
        from cryptography.x509 import load_pem_x509_certificate  # noqa: PLC0415  needs 50 ms, and only TLS needs it

        return load_pem_x509_certificate(Path(self.certificate).read_bytes()).not_valid_after_utc.timestamp()

    def _read_stamp(self) -> tuple[tuple[int, ...], ...]:
        """Return what changes with the files, behind symbolic links too."""
        return _stat_file(self.certificate), _stat_file(self.key)


def _stat_file(file: str) -> tuple[int, ...]:
    """Return what changes with a file, its rights included; empty without a file."""
    try:
        status = os.stat(file)
    except OSError:
        return ()
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
