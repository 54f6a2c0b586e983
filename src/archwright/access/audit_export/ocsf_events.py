"""Events of the Open Cybersecurity Schema Framework, class API Activity (6003), from audit records.

An event is for analysis. `raw_data` has the record as it was written, and `unmapped` its digest in the chain.
"""

import ipaddress
from collections.abc import Mapping

import msgspec

from archwright import __version__
from archwright.access.audit_log import AuditEvent
from archwright.access.record_chain import RecordLine

SCHEMA_VERSION = "1.5.0"
CATEGORY_APPLICATION = 6
CLASS_API_ACTIVITY = 6003
ACTIVITY_OTHER = 99
ACTIVITIES = {"GET": 2, "HEAD": 2, "PUT": 3, "PATCH": 3, "DELETE": 4}
STATUS_SUCCESS = 1
STATUS_FAILURE = 2
FAILED_OUTCOMES = ("refused", "failed")
SEVERITY_INFORMATIONAL = 1
SEVERITY_LOW = 2
_SERVICE = {"name": "archwright", "uid": "archwright", "version": __version__}
_ENCODE = msgspec.json.Encoder().encode


def encode_event(event: AuditEvent, line: RecordLine, user_names: Mapping[str, str]) -> bytes:
    """Return the event of a record as JSON; `user_names`: by id."""
    method = event.action.partition(" ")[0]
    activity = ACTIVITIES.get(method, ACTIVITY_OTHER)
    is_denied = event.effect == "deny"
    has_failed = is_denied or event.outcome in FAILED_OUTCOMES
    fields: dict[str, object] = {
        "activity_id": activity,
        "activity_name": event.action,
        "category_uid": CATEGORY_APPLICATION,
        "class_uid": CLASS_API_ACTIVITY,
        "type_uid": CLASS_API_ACTIVITY * 100 + activity,
        "time": round(event.at * 1000),
        "severity_id": SEVERITY_LOW if is_denied else SEVERITY_INFORMATIONAL,
        "status_id": STATUS_FAILURE if has_failed else STATUS_SUCCESS,
        "count": event.count,
        "metadata": _describe_source(event, line),
        "actor": {"user": _describe_user(event, user_names)},
        "api": _describe_call(event),
        "src_endpoint": _describe_endpoint(event.source),
        "unmapped": {"permission": event.permission, "effect": event.effect, "chain_digest": line.digest},
        "raw_data": line.record.decode(),
    }
    if event.reason:
        fields["status_detail"] = event.reason
    if event.resource:
        fields["resources"] = [{"name": event.resource}]
    return _ENCODE(fields)


def _describe_source(event: AuditEvent, line: RecordLine) -> dict[str, object]:
    metadata: dict[str, object] = {
        "version": SCHEMA_VERSION,
        "product": {"name": "archwright", "vendor_name": "archwright", "version": __version__},
        "log_name": "audit",
        "uid": f"{line.store}:{line.number}",
        "sequence": line.number,
    }
    if event.tenant:
        metadata["tenant_uid"] = event.tenant
    if event.request_id:
        metadata["correlation_uid"] = event.request_id
    return metadata


def _describe_user(event: AuditEvent, user_names: Mapping[str, str]) -> dict[str, object]:
    uid = event.user or event.os_user
    user: dict[str, object] = {"uid": uid or "unknown", "name": user_names.get(uid, uid or "unknown")}
    if event.key_id:
        user["credential_uid"] = event.key_id
    return user


def _describe_call(event: AuditEvent) -> dict[str, object]:
    call: dict[str, object] = {"operation": event.action, "service": dict(_SERVICE)}
    if event.request_id:
        call["request"] = {"uid": event.request_id}
    return call


def _describe_endpoint(source: str) -> dict[str, str]:
    """Return the client of a request; a command has none, and counted denials may be of other addresses."""
    try:
        return {"ip": str(ipaddress.ip_address(source))}
    except ValueError:
        return {"name": source or "localhost"}
