"""The check by Terraform's core accepts a good configuration, and rejects each of seven kinds of broken ones."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .terraform_core import check_by_core, run_core

GOOD: dict[str, Any] = {
    "terraform": {"required_providers": {"aws": {"source": "hashicorp/aws", "version": "~> 6.69"}}},
    "provider": {"aws": {"region": "eu-central-1", "default_tags": {"tags": {"plan": "abc"}}}},
    "data": {"aws_availability_zones": {"all": {"state": "available"}}},
    "resource": {
        "aws_vpc": {"main": {"cidr_block": "10.0.0.0/16", "tags": {"plan": "abc"}}},
        "aws_default_security_group": {"closed": {"vpc_id": "${aws_vpc.main.id}", "ingress": [], "egress": []}},
        "aws_subnet": {
            "private": {
                "count": "${length(data.aws_availability_zones.all.names)}",
                "vpc_id": "${aws_vpc.main.id}",
                "cidr_block": "${cidrsubnet(aws_vpc.main.cidr_block, 4, count.index)}",
            }
        },
        "aws_eks_cluster": {
            "main": {
                "name": "main",
                "role_arn": "arn:aws:iam::123456789012:role/main",
                "vpc_config": {"subnet_ids": "${aws_subnet.private[*].id}", "endpoint_private_access": True},
            }
        },
    },
    "output": {"certificate": {"value": "${aws_eks_cluster.main.certificate_authority[0].data}"}},
}
Break = Callable[[dict[str, Any]], object]


def _cluster(resources: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = resources["aws_eks_cluster"]["main"]
    return found


BROKEN: dict[str, tuple[Break, str]] = {
    "misspelled argument": (lambda r: _cluster(r).update(versoin="1.35"), "versoin"),
    "missing required argument": (lambda r: _cluster(r).pop("role_arn"), "role_arn"),
    "wrong type": (lambda r: r["aws_vpc"]["main"].update(enable_dns_support=[1]), "enable_dns_support"),
    "unknown resource type": (lambda r: r.update(aws_virtual_network={"main": {}}), "aws_virtual_network"),
    "bad reference": (lambda r: _cluster(r).update(role_arn="${aws_iam_role.main.arn}"), "aws_iam_role"),
    "missing required block": (lambda r: _cluster(r).pop("vpc_config"), "vpc_config"),
    "computed attribute": (lambda r: _cluster(r).update(endpoint="https://example.org"), "endpoint"),
    "computed attribute in a block": (lambda r: _cluster(r)["vpc_config"].update(vpc_id="vpc-1"), "vpc_id"),
}


def _write(folder: Path, configuration: dict[str, Any]) -> Path:
    folder.mkdir()
    (folder / "main.tf.json").write_text(json.dumps(configuration), encoding="utf-8")
    return folder


@pytest.mark.nightly
def test_a_good_configuration_applies_and_stays(tmp_path: Path) -> None:
    results = check_by_core(_write(tmp_path / "good", GOOD), tmp_path / "scratch", {})
    plan = json.loads(results[3].output)
    assert len(plan["resource_changes"]) == 3 + 3  # a network, its group, a cluster, and a subnet in each zone


@pytest.mark.nightly
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_configuration_is_rejected(name: str, tmp_path: Path) -> None:
    change, word = BROKEN[name]
    broken = copy.deepcopy(GOOD)
    change(broken["resource"])
    commands = [["init", "-no-color"], ["validate", "-no-color"]]
    results = run_core(_write(tmp_path / "broken", broken), commands, tmp_path / "scratch", {})
    assert results[-1].code == 1 and word in results[-1].errors, results[-1].text
