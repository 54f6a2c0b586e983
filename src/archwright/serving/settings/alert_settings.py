"""Receivers of the gateway's alerts about budgets and upstreams."""

from archwright.contract.record import Record
from archwright.errors import ErrorLocation, SettingsError
from archwright.settings import Settings


class AlertSpec(Record):
    """`webhook`: URL that gets a POST of JSON. `smtp`: HOST:PORT of the mail server; `smtp_login`: reference to
    USER:PASSWORD (`engine_secrets`), empty for none; `sender` and `recipients` of mails."""

    webhook: str = ""
    smtp: str = ""
    smtp_login: str = ""
    sender: str = ""
    recipients: tuple[str, ...] = ()


def read_alert_settings(chosen: Settings) -> AlertSpec | None:
    """Return where alerts go; None: nowhere. Raises SettingsError AW-SET-02 for mail without sender or recipients."""
    if not (chosen.alert_webhook or chosen.alert_smtp):
        return None
    if chosen.alert_smtp and not (chosen.alert_from and chosen.alert_recipients):
        message, hint = "alert_smtp needs a sender and recipients", "set alert_from and alert_to"
        raise SettingsError("AW-SET-02", message, where=ErrorLocation(field="alert_smtp"), hint=hint)
    return AlertSpec(
        webhook=chosen.alert_webhook,
        smtp=chosen.alert_smtp,
        smtp_login=chosen.alert_smtp_login,
        sender=chosen.alert_from,
        recipients=chosen.alert_recipients,
    )
