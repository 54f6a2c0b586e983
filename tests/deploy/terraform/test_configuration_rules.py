"""The rules for rendered Terraform JSON, and the waivers: each of them finds what it is for."""

from __future__ import annotations

from datetime import date

from .checkov_scan import Finding, Waiver, judge_findings, read_waivers
from .configuration_rules import find_broken_references, find_other_forms, find_secrets, find_untagged
from .provider_schemas import Attribute, Block, ProviderSchema

GOOD = """{
  "locals": {
    "name": "x"
  },
  "provider": {
    "aws": {}
  },
  "resource": {
    "aws_vpc": {
      "main": {
        "cidr_block": "${var.cidr}",
        "tags": {
          "name": "${local.name}"
        }
      }
    }
  },
  "variable": {
    "cidr": {
      "type": "string"
    }
  }
}
"""
SCHEMA = ProviderSchema("aws", "6", Block(), {"aws_vpc": Block({"tags": Attribute(["map", "string"])})}, {})
FINDING = Finding("CKV_1", "name", "aws_vpc.main")
WAIVER = Waiver("CKV_1", "aws", r"aws_vpc\..*", "reason", "owner", date(2027, 1, 1))
TODAY = date(2026, 12, 1)


def test_a_good_file_breaks_no_rule() -> None:
    files = {"main.tf.json": GOOD}
    assert find_other_forms(files) == find_broken_references(files) == find_secrets(files) == []
    assert find_untagged(files, SCHEMA) == []


def test_each_rule_finds_what_it_is_for() -> None:
    assert find_other_forms({"main.tf.json": GOOD.replace("  ", " ")}) == ["main.tf.json"]
    for reference in (
        "var.other",
        "local.other",
        "aws_vpc.other.id",
        "data.aws_vpc.main.id",
        'x["a"] + aws_kms_key.a.id',
    ):
        broken = {"main.tf.json": GOOD.replace("var.cidr", reference.replace('"', '\\"'))}
        assert len(find_broken_references(broken)) == 1, reference
    for argument in ('"password": "hunter2"', '"user_data": "AKIAABCDEFGHIJKLMNOP"', '"client_secret": "abc"'):
        assert find_secrets({"main.tf.json": GOOD.replace('"cidr_block"', f'{argument}, "cidr_block"')}), argument
    default = GOOD.replace('"cidr": {', '"database_password": {"default": "hunter2"}, "cidr": {')
    assert find_secrets({"main.tf.json": default}) == ["variable.database_password.default"]
    assert find_untagged({"main.tf.json": GOOD.replace('"tags"', '"labels"')}, SCHEMA) == ["aws_vpc.main"]


def test_a_finding_needs_a_waiver_that_is_valid_and_needed() -> None:
    assert judge_findings([FINDING], [WAIVER], TODAY) == []
    assert judge_findings([FINDING], [], TODAY) == ["CKV_1 name: aws_vpc.main"]
    assert judge_findings([FINDING], [WAIVER], date(2027, 2, 1)) == ["the waiver of CKV_1 expired on 2027-01-01"]
    assert judge_findings([], [WAIVER], TODAY) == ["nothing needs the waiver of CKV_1"]


def test_no_waiver_is_expired_or_without_reason() -> None:
    waivers = read_waivers()
    assert judge_findings([], waivers, date.today(), scanned=False) == []
    assert all(len(one.reason) > 20 and one.owner and one.target in ("aws", "azure", "gcp") for one in waivers)
