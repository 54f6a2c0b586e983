"""Delivery of one alert by webhook and by email."""

import json
import smtplib
import ssl
from collections.abc import Callable
from email.message import EmailMessage
from http import HTTPStatus
from typing import NamedTuple

from archwright.contract.listener import AlertSpec
from archwright.http_client.blocking_client import BlockingClient
from archwright.serving.settings.engine_secrets import read_secret

TIMEOUT_S = 10.0
SMTPS = "smtps://"


class Alert(NamedTuple):
    """`id` is the same for each attempt. `subject` is one sentence; `fields` are for programs."""

    id: str
    subject: str
    fields: dict[str, object]


Channels = dict[str, Callable[[Alert], None]]


def list_channels(spec: AlertSpec) -> Channels:
    """Return the channels that are set up, by name. Each raises OSError or OperateError if it fails."""
    channels: Channels = {}
    if spec.webhook:
        channels["webhook"] = lambda alert: post_alert(spec, alert)
    if spec.smtp:
        channels["email"] = lambda alert: mail_alert(spec, alert)
    return channels


def post_alert(spec: AlertSpec, alert: Alert) -> None:
    body = json.dumps({"id": alert.id, "text": alert.subject, **alert.fields}).encode()
    # A redirect fails too, because the operator named one address.
    client = BlockingClient(TIMEOUT_S, uses_proxy=True)
    headers = {"Content-Type": "application/json"}
    with client.open("POST", spec.webhook, headers=headers, body=body) as reply:
        if reply.status >= HTTPStatus.MULTIPLE_CHOICES:
            raise ConnectionError(f"the webhook answered with status {reply.status}")


def mail_alert(spec: AlertSpec, alert: Alert) -> None:
    message = EmailMessage()
    message["Subject"] = f"[archwright] {alert.subject}"
    message["From"], message["To"] = spec.sender, ", ".join(spec.recipients)
    message.set_content("\n".join([alert.subject, "", *(f"{name}: {value}" for name, value in alert.fields.items())]))
    with _connect_mail_server(spec.smtp) as server:
        is_protected = uses_implicit_tls(spec.smtp) or _start_tls(server)
        if spec.smtp_login:
            if not is_protected:
                raise smtplib.SMTPNotSupportedError("the mail server offers no TLS, so no password is sent to it")
            user, _, password = (read_secret(spec.smtp_login) or "").partition(":")
            server.login(user, password)
        server.send_message(message)


def _connect_mail_server(address: str) -> smtplib.SMTP:
    host, _, port = address.removeprefix(SMTPS).rpartition(":")
    # Without a name of its own, the client would ask the resolver for one, which may take long.
    if uses_implicit_tls(address):
        tls = ssl.create_default_context()
        return smtplib.SMTP_SSL(host, int(port), "localhost", timeout=TIMEOUT_S, context=tls)
    return smtplib.SMTP(host, int(port), "localhost", TIMEOUT_S)


def _start_tls(server: smtplib.SMTP) -> bool:
    """Return False if the server does not offer it."""
    server.ehlo()
    if not server.has_extn("starttls"):
        return False
    server.starttls(context=ssl.create_default_context())
    return True


def uses_implicit_tls(address: str) -> bool:
    """True for port 465 and for smtps://HOST:PORT (RFC 8314)."""
    return address.startswith(SMTPS) or address.endswith(":465")
