"""A worker's side of a renewed certificate: new connections use it, and the metrics show its end."""

import asyncio
import time
from collections.abc import Sequence

from archwright.errors import OperateError
from archwright.journal import Journal
from archwright.monitor.metrics.exposition import Exposition
from archwright.serving.http.listener import Listener
from archwright.serving.settings.tls import ServedCertificate

DAY_S, EXPIRATION_WARNING_DAYS = 86_400, 30


class CertificateFollower:
    """Follows the certificate of a worker's listeners; without a certificate it has nothing to do."""

    def __init__(self, certificate: ServedCertificate | None, exposition: Exposition, journal: Journal) -> None:
        self._certificate, self._exposition, self._journal = certificate, exposition, journal

    async def follow(self, listeners: Sequence[Listener], every_s: float) -> None:
        """Look at the files every `every_s` seconds. Open connections stay, and the master reports wrong files."""
        certificate = self._certificate
        if certificate is None:
            return
        self._report_expiration(certificate)
        while True:
            for listener in listeners:
                listener.use_tls(certificate.context)
            await asyncio.sleep(every_s)
            try:
                if certificate.refresh():
                    self._report_expiration(certificate)
            except OperateError:
                continue  # the pair of before stays

    def _report_expiration(self, certificate: ServedCertificate) -> None:
        """Report the end of the certificate as a metric, and warn if it is near."""
        try:
            end = certificate.read_expiration()
        except (OSError, ValueError) as error:  # ValueError: stricter than the TLS library about some fields
            self._journal.warning("the end of the TLS certificate cannot be read", message=str(error))
            return
        self._exposition.record("tls_expiration", {"process": "gateway"}, end)
        days = (end - time.time()) / DAY_S
        if days < EXPIRATION_WARNING_DAYS:
            hint = "replace its files; the gateway reads them when they change"
            self._journal.warning("the TLS certificate expires soon", days=round(days, 1), hint=hint)
