"""Receivers of the gateway's alerts about budgets and upstreams."""

from archwright.contract.record import Record


class AlertSpec(Record):
    """`webhook`: URL that gets a POST of JSON. `smtp`: HOST:PORT of the mail server; `smtp_login`: reference to
    USER:PASSWORD (`engine_secrets`), empty for none; `sender` and `recipients` of mails."""

    webhook: str = ""
    smtp: str = ""
    smtp_login: str = ""
    sender: str = ""
    recipients: tuple[str, ...] = ()
