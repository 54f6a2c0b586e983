"""Messages of the syslog protocol, RFC 5424, one a line. Each carries a line of the audit log as it is.

So a reader finds the line within the message, and can verify the chain of records.
"""

import time

from archwright import __version__
from archwright.access.audit_log import AuditEvent

FACILITY_LOG_AUDIT = 13
SEVERITY_WARNING = 4
SEVERITY_NOTICE = 5
SEQUENCE_LIMIT = 2_147_483_647


def encode_record_message(event: AuditEvent, number: int, line: bytes) -> bytes:
    """Return the message of a record; a denial is a warning."""
    severity = SEVERITY_WARNING if event.effect == "deny" else SEVERITY_NOTICE
    # The protocol restarts a sequence behind its limit.
    sequence = (number - 1) % SEQUENCE_LIMIT + 1
    return _encode_message(line, at=event.at, severity=severity, name=f'audit [meta sequenceId="{sequence}"]')


def encode_checkpoint_message(at: float, line: bytes) -> bytes:
    return _encode_message(line, at=at, severity=SEVERITY_NOTICE, name="checkpoint ")


def _encode_message(line: bytes, *, at: float, severity: int, name: str) -> bytes:
    priority = FACILITY_LOG_AUDIT * 8 + severity
    microseconds = round(at * 1e6)
    whole_s, fraction = divmod(microseconds, 1_000_000)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole_s))
    origin = f'[origin software="archwright" swVersion="{__version__}"]'
    head = f"<{priority}>1 {stamp}.{fraction:06}Z - archwright - {name}{origin} "
    return head.encode() + line
