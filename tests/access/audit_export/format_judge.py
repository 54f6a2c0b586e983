"""Reads an export by libraries of its format, in an environment of its own: `format_judge.py FORMAT FILE`.

py-ocsf-models has no class API Activity; it judges the base event and its objects, and the schema of OCSF the class.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from jsonschema import Draft202012Validator
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema
from py_ocsf_models.events.base_event import BaseEvent
from py_ocsf_models.objects.api import API
from syslog_rfc5424_parser import SyslogMessage


def judge_ocsf(lines: list[str]) -> None:
    schema = OcsfJsonSchemaEmbedded(get_ocsf_schema(version="1.5.0"))
    validator = Draft202012Validator(schema.get_class_schema("api_activity"))
    for line in lines:
        event = json.loads(line)
        validator.validate(event)
        base = BaseEvent.model_validate(event)
        assert base.metadata.sequence == event["metadata"]["sequence"]
        API.model_validate(event["api"])


def judge_syslog(lines: list[str]) -> None:
    for line in lines:
        message = SyslogMessage.parse(line)
        assert message.appname == "archwright" and message.facility.value == 13
        assert json.loads(message.msg)["kind"].startswith("archwright-audit-")


if __name__ == "__main__":
    FORM, FILE = sys.argv[1:]
    LINES = Path(FILE).read_text(encoding="utf-8").splitlines()
    {"ocsf": judge_ocsf, "rfc5424": judge_syslog}[FORM](LINES)
    print(len(LINES))
