"""The bundle of the target aws: its traps, without Terraform; and by Terraform's core and checkov (nightly)."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.deploy.conftest import MadeBundle, MadePlan

from archwright.contract.plan import Option, Plan
from archwright.contract.record import replace
from archwright.deploy.cluster.log_retention import find_log_retention
from archwright.deploy.render import find_target

from .checkov_scan import judge_findings, read_waivers, scan_plan
from .configuration_rules import find_broken_references, find_other_forms, find_secrets, select_files, walk_values
from .terraform_core import check_by_core, merge_configuration, run_core

EXAMPLES = ("startup", "clinic", "manufacturer")
# What an engineer gives at the prompt.
VARIABLES = {
    "account_id": "123456789012",
    "owner": "platform",
    "alarm_email": "alarms@example.org",
    "administrator_role_arns": '["arn:aws:iam::123456789012:role/administrator"]',
    "administrator_cidrs": '["10.0.0.0/8"]',
    "vpc_cidr": "10.64.0.0/16",
    "capacity_block_ids": '["cr-0123456789abcdef0"]',
}
CLOUDWATCH_DAYS = {365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653}
Configuration = dict[str, Any]
Break = Callable[[Configuration], object]


def list_options(plan: Plan) -> list[Option]:
    return [one for one in plan.options if find_target("aws").can_render(one)]


@pytest.fixture(scope="module")
def rendered(made_plan: MadePlan, made_bundle: MadeBundle) -> dict[str, dict[str, str]]:
    """The Terraform files of each option of the examples on this cloud, by "example/option"."""
    return {
        f"{name}/{option.name}": select_files(made_bundle(name, "aws", option.name))
        for name in EXAMPLES
        for option in list_options(made_plan(name))
    }


@pytest.fixture(scope="module")
def startup(rendered: dict[str, dict[str, str]]) -> Configuration:
    return merge_configuration(rendered["startup/cloud-aws"])


def find_resource(configuration: Configuration, kind: str, name: str = "main") -> Configuration:
    found: Configuration = configuration["resource"][kind][name]
    return found


def test_every_option_renders_files_that_hold_together(rendered: dict[str, dict[str, str]]) -> None:
    assert len(rendered) == 8 and "manufacturer/hybrid-aws" in rendered
    for name, files in rendered.items():
        assert len(files) >= 9, name
        assert find_other_forms(files) == find_broken_references(files) == find_secrets(files) == [], name
        configuration = merge_configuration(files)
        tags = configuration["locals"]["tags"]
        assert {"owner", "archwright-tenant", "archwright-option", "archwright-site"} <= tags.keys()
        assert configuration["provider"]["aws"]["default_tags"] == {"tags": "${local.tags}"}
        resources = configuration["resource"]
        assert all(body["//"] for kind in resources.values() for body in kind.values()), name


def test_account_values_have_no_default_and_each_variable_is_checked(startup: Configuration) -> None:
    variables = startup["variable"]
    assert {name for name, one in variables.items() if "default" not in one} == VARIABLES.keys() - {
        "capacity_block_ids"
    }
    assert {name for name, one in variables.items() if "validation" not in one} == {"reserve_capacity"}
    assert not any("123456789012" in str(value) for _, value in walk_values(startup))


def test_the_cluster_is_private_and_encrypted(startup: Configuration) -> None:
    cluster = find_resource(startup, "aws_eks_cluster")
    assert cluster["vpc_config"]["endpoint_public_access"] is False and cluster["vpc_config"]["endpoint_private_access"]
    assert cluster["access_config"]["authentication_mode"] == "API"
    assert cluster["encryption_config"]["resources"] == ["secrets"]
    assert set(cluster["enabled_cluster_log_types"]) >= {"api", "audit", "authenticator"}
    # Without the setting, EKS accepts network policies and enforces none.
    assert json.loads(find_resource(startup, "aws_eks_addon", "vpc-cni")["configuration_values"]) == {
        "enableNetworkPolicy": "true"
    }
    assert find_resource(startup, "aws_launch_template", "system")["metadata_options"]["http_tokens"] == "required"
    assert startup["data"]["aws_availability_zones"]["all"]["exclude_zone_ids"]
    assert find_resource(startup, "aws_subnet", "private")["count"] == "${length(local.zones)}"


def test_karpenter_ends_only_machines_of_its_cluster(startup: Configuration) -> None:
    text = find_resource(startup, "aws_iam_role_policy", "karpenter")["policy"]
    statements = {one["Sid"]: one for one in json.loads(text.replace('["nodes"]', ""))["Statement"]}
    for name, one in statements.items():
        assert one["Resource"] != "*" or name.startswith("Read"), name
    for name in ("UseOwnTemplates", "EndOwnMachines", "TagOwnMachines"):
        assert "aws:ResourceTag/kubernetes.io/cluster/${local.name}" in statements[name]["Condition"]["StringEquals"]
    assert statements["PassNodeRole"]["Resource"] == "${aws_iam_role.service.arn}"
    trust = json.loads(find_resource(startup, "aws_iam_role", "pod")["assume_role_policy"])["Statement"][0]
    assert trust["Condition"]["StringEquals"]["aws:RequestTag/kubernetes-service-account"] == "${each.value[1]}"
    assert "spot" in startup["locals"]["interruptions"]
    queue = find_resource(startup, "aws_sqs_queue", "interruption")
    assert queue["sqs_managed_sse_enabled"] and queue["message_retention_seconds"] <= 300


def test_a_reservation_holds_what_runs_all_the_time_and_no_machine_of_the_p_family(
    rendered: dict[str, dict[str, str]],
) -> None:
    found = {name: merge_configuration(files)["resource"] for name, files in rendered.items()}
    reserved = found["startup/cloud-aws"]["aws_ec2_capacity_reservation"]
    assert {name: one["instance_count"] for name, one in reserved.items()} == {"g6-xlarge": 2}
    assert reserved["g6-xlarge"]["instance_match_criteria"] == "targeted"
    # The plan commits to machines with H100: AWS sells Capacity Blocks for them.
    assert "aws_ec2_capacity_reservation" not in found["manufacturer/cloud-aws"]
    assert found["manufacturer/cloud-aws"]["aws_ec2_tag"]["capacity_block"]
    assert "aws_ec2_capacity_reservation" not in found["startup/managed-aws"]


def test_only_a_replica_on_several_machines_gets_a_fabric(made_plan: MadePlan, made_bundle: MadeBundle) -> None:
    plan = made_plan("startup")
    option = next(one for one in plan.options if one.name == "cloud-aws")
    several = replace(option, pools=tuple(replace(one, accelerator_count=4) for one in option.pools))
    for one, wanted in ((option, False), (several, True)):
        changed = replace(plan, options=(one,), chosen=one.name)
        resources = merge_configuration(select_files(made_bundle(changed, "aws")))["resource"]
        assert ("aws_placement_group" in resources) is wanted
        rules = (
            [resources[f"aws_vpc_security_group_{way}_rule"].get("efa") for way in ("ingress", "egress")]
            if wanted
            else []
        )
        for rule in rules:
            assert rule["referenced_security_group_id"] == rule["security_group_id"] and rule["ip_protocol"] == "-1"


def test_buckets_and_database_are_closed(startup: Configuration) -> None:
    rule = find_resource(startup, "aws_s3_bucket_server_side_encryption_configuration", "store")["rule"][0]
    assert rule["bucket_key_enabled"] == '${each.key != "access"}'
    assert all(
        find_resource(startup, "aws_s3_bucket_public_access_block", "store")[name]
        for name in ("block_public_acls", "block_public_policy", "ignore_public_acls", "restrict_public_buckets")
    )
    assert "aws:SecureTransport" in find_resource(startup, "aws_s3_bucket_policy", "store")["policy"]
    database = find_resource(startup, "aws_db_instance", "gateway")
    assert database["manage_master_user_password"] and not database["publicly_accessible"]
    assert (
        database["deletion_protection"] and database["storage_encrypted"] and database["backup_retention_period"] >= 7
    )
    group = find_resource(startup, "aws_default_security_group", "closed")
    assert group["ingress"] == group["egress"] == []


def test_logs_are_kept_as_the_controls_demand(rendered: dict[str, dict[str, str]], made_plan: MadePlan) -> None:
    for name, files in rendered.items():
        group = find_resource(merge_configuration(files), "aws_cloudwatch_log_group")
        assert group["retention_in_days"] in CLOUDWATCH_DAYS and group["kms_key_id"], name
    group = find_resource(merge_configuration(rendered["clinic/cloud-aws"]), "aws_cloudwatch_log_group")
    assert "eu-ai-act" in group["//"] and "183" in group["//"]
    demanding = replace(made_plan("startup").controls[0], feature="retention floor 2190 days")
    assert find_log_retention(replace(made_plan("startup"), controls=(demanding,))).days == 2190


def test_the_budget_is_in_dollars_and_counts_everything(
    rendered: dict[str, dict[str, str]], made_plan: MadePlan
) -> None:
    for name, currency in (("startup/cloud-aws", "USD"), ("clinic/cloud-aws", "EUR")):
        configuration = merge_configuration(rendered[name])
        budget = find_resource(configuration, "aws_budgets_budget")
        assert budget["limit_unit"] == "USD" and "cost_filter" not in budget
        option = next(one for one in made_plan(name.split("/")[0]).options if one.name == "cloud-aws")
        assert option.cost_per_month is not None
        ratio = configuration["variable"]["budget_usd"]["default"] / option.cost_per_month.value
        assert 0.98 < ratio < 1.02 if currency == "USD" else 1.05 < ratio < 1.35
        thresholds = [one["threshold"] for one in budget["notification"]]
        assert thresholds[:2] == [80, 100] and thresholds[2] > 100


def test_a_hybrid_site_has_no_database_and_the_gateway_stays_at_home(rendered: dict[str, dict[str, str]]) -> None:
    configuration = merge_configuration(rendered["manufacturer/hybrid-aws"])
    assert "aws_db_instance" not in configuration["resource"] and "database_class" not in configuration["variable"]
    assert not any("aws_vpn" in kind or "aws_dx" in kind for kind in configuration["resource"])


def test_the_cluster_objects_name_what_terraform_makes(
    startup: Configuration, made_bundle: MadeBundle, made_plan: MadePlan
) -> None:
    files = made_bundle("startup", "aws", "cloud-aws").files
    texts = [one.text for path, one in files.items() if path.startswith("kubernetes/") and path.endswith(".yaml")]
    objects = [one for text in texts for one in yaml.load_all(text, yaml.CSafeLoader) if isinstance(one, dict)]
    kinds: dict[str, list[Configuration]] = {}
    for one in objects:
        kinds.setdefault(one.get("kind", "values"), []).append(one)
    name = startup["locals"]["name"]
    (node_class,) = kinds["EC2NodeClass"]
    assert node_class["spec"]["instanceProfile"] == f"{name}-node"
    for terms in ("subnetSelectorTerms", "securityGroupSelectorTerms", "capacityReservationSelectorTerms"):
        assert node_class["spec"][terms] == [{"tags": {"karpenter.sh/discovery": name}}]
    everything = "".join(one.text for one in files.values())
    for setting in ("clusterName", "interruptionQueue"):
        assert set(re.findall(rf"{setting}[=:] ?([\w-]+)", everything)) == {name}
    assert find_resource(startup, "aws_eks_node_group", "system")["labels"] == {"archwright.dev/node-class": "system"}
    classes = {one["spec"].get("storageClassName") for one in kinds["PersistentVolumeClaim"]}
    assert json.loads(startup["output"]["storage_class"]["value"])["metadata"]["name"] in classes
    accounts = {(one["metadata"]["namespace"], one["metadata"]["name"]) for one in kinds["ServiceAccount"]}
    ours = {tuple(one) for one in startup["locals"]["pods"].values() if one[0] in ("archwright", "archwright-engines")}
    assert ours <= accounts


def test_the_guide_names_quotas_and_what_bills_while_idle(made_bundle: MadeBundle) -> None:
    text = made_bundle("manufacturer", "aws", "cloud-aws").files["terraform/README.md"].text
    for title in ("Before you apply", "Apply", "What it costs", "What bills while idle", "Verify", "Take down"):
        assert f"## {title}\n" in text
    assert "Running On-Demand P instances:" in text and "Spot P instances:" in text and "Capacity Blocks" in text


def write_files(folder: Path, files: dict[str, str]) -> Path:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.mark.nightly
def test_every_option_applies_and_stays(rendered: dict[str, dict[str, str]], tmp_path: Path) -> None:
    for name, files in rendered.items():
        results = check_by_core(write_files(tmp_path / name / "in", files), tmp_path / name, VARIABLES)
        changes = json.loads(results[3].output)["resource_changes"]
        assert len({one["address"] for one in changes}) > 100, name


BROKEN: dict[str, tuple[Break, str]] = {
    "misspelled argument": (lambda r: r["aws_db_instance"]["gateway"].update(mutli_az=True), "mutli_az"),
    "missing required argument": (lambda r: r["aws_eks_cluster"]["main"].pop("role_arn"), "role_arn"),
    "wrong type": (lambda r: r["aws_eks_node_group"]["system"]["scaling_config"].update(min_size="few"), "min_size"),
    "unknown resource type": (lambda r: r.update(aws_gpu_pool={"main": {}}), "aws_gpu_pool"),
    "bad reference": (lambda r: r["aws_flow_log"]["main"].update(vpc_id="${aws_vpc.other.id}"), "aws_vpc"),
    "missing required block": (lambda r: r["aws_eks_node_group"]["system"].pop("scaling_config"), "scaling_config"),
    "computed attribute": (lambda r: r["aws_s3_bucket"]["store"].update(arn="arn:aws:s3:::models"), "arn"),
}


@pytest.mark.nightly
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_bundle_is_rejected(name: str, rendered: dict[str, dict[str, str]], tmp_path: Path) -> None:
    change, word = BROKEN[name]
    broken = copy.deepcopy(merge_configuration(rendered["startup/cloud-aws"]))
    change(broken["resource"])
    folder = write_files(tmp_path / "in", {"main.tf.json": json.dumps(broken)})
    results = run_core(folder, [["init", "-no-color"], ["validate", "-no-color"]], tmp_path / "out", VARIABLES)
    assert results[-1].code == 1 and word in results[-1].errors, results[-1].text


@pytest.mark.nightly
def test_checkov_finds_nothing_without_a_waiver(rendered: dict[str, dict[str, str]], tmp_path: Path) -> None:
    results = check_by_core(write_files(tmp_path / "in", rendered["startup/cloud-aws"]), tmp_path / "out", VARIABLES)
    findings = scan_plan(results[3].output, tmp_path)
    waivers = [one for one in read_waivers() if one.target == "aws"]
    assert judge_findings(findings, waivers, date.today()) == []
