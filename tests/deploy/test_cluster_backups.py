"""Backups of a cluster: the commands of CronJob and restoration, what they mount, and the database's own backups."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyrage
import pytest
from tests.deploy.conftest import MadeBundle
from tests.deploy.test_platform import find_objects

from archwright.backup.home_database import PostgresDatabase
from archwright.deploy.rendering.bundle import FileBundle
from archwright.deploy.rendering.components import BackupPlace, Pins

from ..command_line import CommandLine

SITES = {"clinic": ("on-premises", "de"), "startup": ("cloud-aws", "aws-us-east-1")}
STORE = BackupPlace(place="s3://company-backups/gateway/", endpoint="https://s3.example.org:9000", region="eu-1")
FOLDERS = ("/var/lib/archwright", "/var/backups/archwright", "/etc/archwright")


def render(made_bundle: MadeBundle, example: str, place: BackupPlace | None = None) -> FileBundle:
    option, site = SITES[example]
    pins = Pins(backups={site: place}) if place is not None else None
    return made_bundle(example, "kubernetes", option, pins)


def find_pods(bundle: FileBundle) -> dict[str, dict[str, Any]]:
    """Return the pods of the backup and of the restoration."""
    cron_job, job = find_objects(bundle, "CronJob")["backup"], find_objects(bundle, "Job")["restore"]
    return {"backup": cron_job["spec"]["jobTemplate"]["spec"]["template"], "restore": job["spec"]["template"]}


@pytest.mark.parametrize("example", SITES)
@pytest.mark.parametrize("place", [None, STORE])
def test_both_jobs_have_the_home_of_the_gateway_and_the_key(
    made_bundle: MadeBundle, example: str, place: BackupPlace | None
) -> None:
    bundle = render(made_bundle, example, place)
    pods = find_pods(bundle)
    gateway = find_objects(bundle, "StatefulSet")["gateway"]
    (template,) = gateway["spec"]["volumeClaimTemplates"]
    for pod in pods.values():
        volumes = {one["name"]: one for one in pod["spec"]["volumes"]}
        claim = volumes["home"]["persistentVolumeClaim"]["claimName"]
        assert claim == f"{template['metadata']['name']}-{gateway['metadata']['name']}-0"
        assert volumes["key"]["secret"]["secretName"] == "backup-key"
        assert ("backups" in volumes) == (place is None)
    assert ("backups" in find_objects(bundle, "PersistentVolumeClaim")) == (place is None)
    # The volume is mounted on one node at a time: the backup runs beside the gateway, and the restoration without it.
    assert "podAffinity" in pods["backup"]["spec"]["affinity"] and "affinity" not in pods["restore"]["spec"]
    assert [path for path in bundle.files if "/restore.yaml" in path] == [f"restore/{SITES[example][1]}/restore.yaml"]
    script = bundle.files[f"platform/{SITES[example][1]}/install.sh"].text
    assert "create secret generic backup-key" in script


def test_a_store_outside_the_cluster_is_reached_with_the_role_or_the_secret(made_bundle: MadeBundle) -> None:
    for example in SITES:
        bundle = render(made_bundle, example, STORE)
        pod = find_pods(bundle)["backup"]
        env = {one["name"]: one for one in pod["spec"]["containers"][0]["env"]}
        assert env["ARCHWRIGHT_BACKUP_TO"]["value"] == STORE.place
        assert (env["AWS_ENDPOINT_URL"]["value"], env["AWS_REGION"]["value"]) == (STORE.endpoint, STORE.region)
        assert env["AWS_ACCESS_KEY_ID"]["valueFrom"]["secretKeyRef"]["optional"] is True
        policy = find_objects(bundle, "NetworkPolicy")["backup"]["spec"]
        assert policy["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
        ports = [rule["ports"][0]["port"] for rule in policy["egress"]]
        assert ports == ([9000, 80] if example == "startup" else [9000]), "on AWS also the agent of roles"
        assert bundle.pins.backups == {SITES[example][1]: STORE}, "the next rendering keeps it"


def test_the_database_of_own_racks_has_backups_of_its_own(made_bundle: MadeBundle) -> None:
    bundle = render(made_bundle, "clinic", STORE)
    (plugin,) = find_objects(bundle, "Cluster")["database"]["spec"]["plugins"]
    scheduled = find_objects(bundle, "ScheduledBackup")["database"]["spec"]
    store = find_objects(bundle, "ObjectStore")[plugin["parameters"]["barmanObjectName"]]["spec"]
    assert plugin["isWALArchiver"] and scheduled["pluginConfiguration"]["name"] == plugin["name"]
    assert scheduled["cluster"]["name"] == "database" and len(scheduled["schedule"].split()) == 6
    assert store["configuration"]["destinationPath"] == "s3://company-backups/gateway/database"
    policy = find_objects(bundle, "NetworkPolicy")["database"]["spec"]
    assert {one["port"] for one in policy["egress"][-1]["ports"]} == {443, 6443, 9000}
    assert "helm upgrade --install barman-cloud" in bundle.files["platform/de/install.sh"].text
    assert "barman-cloud" in bundle.pins.charts

    without = render(made_bundle, "clinic")
    assert "plugins" not in find_objects(without, "Cluster")["database"]["spec"], (
        "an archive without a place fills disks"
    )
    assert not find_objects(without, "ScheduledBackup") and "barman-cloud" not in without.pins.charts
    assert not find_objects(render(made_bundle, "startup", STORE), "ScheduledBackup"), "clouds back theirs up"


@pytest.mark.process
@pytest.mark.enable_socket
def test_a_backup_of_the_cronjob_is_restored_by_the_job(
    made_bundle: MadeBundle, postgres: str, cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both command lines as they stand, with the folders of the containers below one of the test."""
    pods = find_pods(render(made_bundle, "clinic"))
    key = tmp_path / "etc/archwright/backup/key"
    key.parent.mkdir(parents=True)
    key.write_text(str(pyrage.x25519.Identity.generate()))
    key.chmod(0o600)
    home = tmp_path / "var/lib/archwright/home"
    server = PostgresDatabase(postgres)
    with server.create_scratch() as first, server.create_scratch() as second:
        monkeypatch.setenv("ARCHWRIGHT_HOME", str(home))
        monkeypatch.setenv("ARCHWRIGHT_DATABASE_URL", first)
        monkeypatch.setenv("ARCHWRIGHT_AUDIT_SECOND_PLACE", "none")
        cli.text("key create --tenant acme --name before")
        pepper = (home / "secrets/pepper").read_bytes()
        run_container(pods["backup"], tmp_path, first)
        cli.text("key create --tenant acme --name later")
        (home / "secrets/pepper").write_bytes(b"0" * len(pepper))  # a volume whose content is lost

        run_container(pods["restore"], tmp_path, second)
        monkeypatch.setenv("ARCHWRIGHT_DATABASE_URL", second)
        assert (home / "secrets/pepper").read_bytes() == pepper
        assert [row["name"] for row in cli.json("key list")] == ["before", "valid", "revoked"]
        assert cli.json("audit verify")["whole"]
        assert (home.with_name("home.before") / "secrets/pepper").exists()


def run_container(pod: dict[str, Any], root: Path, database_url: str) -> None:
    (container,) = pod["spec"]["containers"]
    program = root / "bin" / "archwright"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m archwright "$@"\n')
    program.chmod(0o755)
    environment = {one["name"]: relocate(one["value"], root) for one in container["env"] if "value" in one}
    environment |= {"ARCHWRIGHT_DATABASE_URL": database_url, "PATH": f"{program.parent}:{os.environ['PATH']}"}
    words = [relocate(word, root) for word in (*container["command"], *container.get("args", ()))]
    done = subprocess.run(words, env=environment, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def relocate(text: str, root: Path) -> str:
    for folder in FOLDERS:
        text = text.replace(folder, f"{root}{folder}")
    return text
