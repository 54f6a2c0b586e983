"""TLS certificates of the gateways: the one that a listener sends, and the file from which the next start reads."""

import ssl
from pathlib import Path
from urllib.parse import urlsplit

from archwright.contract.diagnosis import DoctorCheck
from archwright.crypto.certificates import CertificateValidity, read_validity
from archwright.diagnosis.check_results import make_failure, make_ok, make_warning
from archwright.diagnosis.served_gateways import RunningGateway

NAME = "tls"
DAY_S = 86_400.0
# A certificate is renewed when a third of its life is left, and a month before its end if it lives long.
RENEWAL_SHARE, RENEWAL_S = 1 / 3, 21 * DAY_S
TIMEOUT_S = 5.0
WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}
RENEW_HINT = (
    "write the renewed certificate to the file of tls_certificate; a running gateway reads it without a restart"
)
RELOAD_HINT = (
    "check that tls_key belongs to the certificate; the gateway's log says `certificate not renewed` with a reason"
)


def check_tls(gateways: tuple[RunningGateway, ...], certificate_file: str, now: float) -> list[DoctorCheck]:
    """Check each running gateway; without one, the certificate file that the settings name."""
    if gateways:
        return [_check_gateway(gateway, now) for gateway in gateways]
    if certificate_file:
        return [
            _assess_validity(NAME, f"{certificate_file} is", read_validity(Path(certificate_file).read_bytes()), now)
        ]
    return [make_ok(NAME, "no certificate is set: a gateway without TLS listens on this machine only")]


def _check_gateway(gateway: RunningGateway, now: float) -> DoctorCheck:
    name = f"{NAME} {gateway.name}"
    stated = gateway.config.tls_certificate
    if not stated:
        return make_ok(name, f"no TLS: {gateway.url} is reached from this machine only")
    sent = _read_sent_certificate(gateway.url)
    if sent is None:
        return make_failure(name, f"{gateway.url} does not answer with a certificate", "archwright status")
    result = _assess_validity(name, f"{gateway.url} sends a certificate that is", sent, now)
    if result.state != "ok" or not Path(stated).is_file():
        return result
    on_disk = read_validity(Path(stated).read_bytes())
    if on_disk.digest != sent.digest:
        return make_warning(name, f"{gateway.url} sends another certificate than {stated} has", RELOAD_HINT)
    return result


def _read_sent_certificate(url: str) -> CertificateValidity | None:
    address = urlsplit(url)
    host = address.hostname or ""
    try:
        pem = ssl.get_server_certificate((WILDCARDS.get(host, host), address.port or 443), timeout=TIMEOUT_S)
    except OSError:  # also an error of TLS
        return None
    return read_validity(pem.encode())


def _assess_validity(name: str, subject: str, validity: CertificateValidity, now: float) -> DoctorCheck:
    left_s = validity.end - now
    days = f"{left_s / DAY_S:,.0f} days"
    if left_s <= 0:
        return make_failure(name, f"{subject} invalid since {-left_s / DAY_S:,.0f} days", RENEW_HINT)
    if now < validity.start:
        hint = "set the clock of this machine: timedatectl set-ntp true"
        return make_failure(name, f"{subject} not valid yet, by the clock of this machine", hint)
    if left_s < min(RENEWAL_S, (validity.end - validity.start) * RENEWAL_SHARE):
        return make_warning(name, f"{subject} valid for {days} more", RENEW_HINT)
    return make_ok(name, f"{subject} valid for {days}")
