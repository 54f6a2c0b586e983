"""The settings of a gateway's listeners: where it listens, whom it lets in, and where traces and alerts go.

Design: a setting is declared here and in `settings`, and `read_listener` joins them. The configuration of a gateway
inherits the fields of `ListenerSettings`, and a gateway.yaml those of `ListenerOptions`.
"""

from typing import Annotated

import msgspec

from archwright.contract.record import Record
from archwright.errors import ErrorLocation, SettingsError
from archwright.settings import Settings

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]


class TraceSpec(Record):
    """Collector root `url` ("http://host:4318") and sampled `share` of the requests."""

    url: Annotated[str, msgspec.Meta(pattern="^https?://[^/]")]
    share: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.1


class AlertSpec(Record):
    """`webhook`: URL that gets a POST of JSON. `smtp`: [smtps://]HOST:PORT of the mail server.

    `smtp_login`: reference to USER:PASSWORD (`engine_secrets`), empty for none. `sender`, `recipients`: of mails."""

    webhook: str = ""
    smtp: str = ""
    smtp_login: str = ""
    sender: str = ""
    recipients: tuple[str, ...] = ()


class ListenerOptions(Record):
    """The settings that a gateway.yaml may state.

    Port 0: any free port. `admin_port`: port of the administration API on the same host, if set. `trusted_proxies`:
    networks of the proxies that append the client's address to X-Forwarded-For. `image_hosts`: hosts whose images the
    gateway fetches (`policy.image_hosts`). `cors_origins`: those whose web pages may call the gateway."""

    host: str = "127.0.0.1"
    port: Port = 8470
    admin_port: Port | None = None
    trusted_proxies: tuple[str, ...] = ()
    image_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()


class ListenerSettings(ListenerOptions):
    """All settings of a gateway's listeners.

    Every address but loopback needs TLS files. `audit_checkpoints`: the second places of the audit log, as in the
    settings. `audit_retention_days`, `usage_retention_days`: days after which records leave; 0: never. `alerts`: where
    alerts go; None: nowhere."""

    tls_certificate: str | None = None
    tls_key: str | None = None
    traces: TraceSpec | None = None
    audit_checkpoints: str = ""
    audit_retention_days: int = 0
    usage_retention_days: int = 7
    alerts: AlertSpec | None = None

    @property
    def root_url(self) -> str:
        scheme = "https" if self.tls_certificate else "http"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}"


def read_listener(chosen: Settings) -> ListenerSettings:
    """Return the settings of the listeners. Raises SettingsError AW-SET-02 for mail without sender or recipients."""
    return ListenerSettings(
        host=chosen.host,
        port=chosen.port,
        admin_port=chosen.admin_port or None,
        trusted_proxies=_split_words(chosen.trusted_proxies),
        image_hosts=_split_words(chosen.image_hosts.lower()),
        cors_origins=_split_words(chosen.cors_origins.lower()),
        tls_certificate=chosen.tls_certificate or None,
        tls_key=chosen.tls_key or None,
        traces=TraceSpec(url=chosen.otlp_url) if chosen.otlp_url else None,
        audit_checkpoints=chosen.audit_checkpoints,
        audit_retention_days=chosen.audit_retention_days,
        usage_retention_days=chosen.usage_retention_days,
        alerts=_read_alerts(chosen),
    )


def _split_words(text: str) -> tuple[str, ...]:
    """Return what stands between commas or spaces."""
    return tuple(text.replace(",", " ").split())


def _read_alerts(chosen: Settings) -> AlertSpec | None:
    if not (chosen.alert_webhook or chosen.alert_smtp):
        return None
    recipients = _split_words(chosen.alert_to)
    if chosen.alert_smtp and not (chosen.alert_from and recipients):
        message, hint = "alert_smtp needs a sender and recipients", "set alert_from and alert_to"
        raise SettingsError("AW-SET-02", message, where=ErrorLocation(field="alert_smtp"), hint=hint)
    return AlertSpec(
        webhook=chosen.alert_webhook,
        smtp=chosen.alert_smtp,
        smtp_login=chosen.alert_smtp_login,
        sender=chosen.alert_from,
        recipients=recipients,
    )
