"""From the release before this one to this one and back, with the programs of both.

The older program is that of the commit RELEASE, read from the history of the repository. Its homes have the schema
version 2: without signatures of keys, and without numbers of checkpoints."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyrage
import pytest
from tests.tools.checks import WAIT_S

from archwright.api import restore
from archwright.backup.creation import create_backup
from archwright.backup.home_database import open_database
from archwright.backup.manifest import DrillKeys
from archwright.backup.repository import open_or_create_repository
from archwright.backup.storage import FolderStorage
from archwright.home import SCHEMA_VERSION, Home
from archwright.http_client.blocking_client import BlockingClient
from archwright.settings import child_environment

ROOT = Path(__file__).parent.parent
RELEASE = "3066f907"
RELEASE_SCHEMA = 2
REFUSED = 2


class Program:
    """The command line of a release. `source`: the folder with its package."""

    def __init__(self, source: Path) -> None:
        self._source = source

    def run(self, home: Path, *words: str) -> subprocess.CompletedProcess[str]:
        environment = self._environment(home)
        return subprocess.run(self._command(words), env=environment, capture_output=True, text=True, check=False)

    def json(self, home: Path, *words: str) -> Any:
        run = self.run(home, *words, "--json")
        assert run.returncode == 0, run.stderr
        return json.loads(run.stdout)

    @contextmanager
    def serve(self, home: Path) -> Iterator[str]:
        """Run a gateway in the home and yield its URL; its upstream is away."""
        command = self._command(("serve", "--upstream", "m=http://127.0.0.1:9/v1", "--port", "0", "--json"))
        with subprocess.Popen(command, env=self._environment(home), stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())["url"]
            process.terminate()
            assert process.wait(WAIT_S) == 0

    def _command(self, words: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-P", "-m", "archwright", *words]

    def _environment(self, home: Path) -> dict[str, str]:
        own = {"PYTHONPATH": str(self._source), "ARCHWRIGHT_HOME": str(home), "ARCHWRIGHT_AUDIT_SECOND_PLACE": "none"}
        return child_environment(own)


class OldHome(NamedTuple):
    """A home that the older program made, with the secrets of a key that is valid and of one that was revoked."""

    root: Path
    valid: str
    revoked: str


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory, processes: None) -> Program:
    folder = tmp_path_factory.mktemp("release")
    archive = subprocess.run(["git", "archive", RELEASE, "src"], cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    return Program(folder / "src")


@pytest.fixture
def newer() -> Program:
    return Program(ROOT / "src")


@pytest.fixture(scope="module")
def made_home(older: Program, tmp_path_factory: pytest.TempPathFactory) -> OldHome:
    folder = tmp_path_factory.mktemp("old")
    root = folder / "home"
    (folder / "rows.jsonl").write_text('{"n": 1}\n{"n": 2}\n')
    older.json(root, "tenant", "create", "acme")
    valid = older.json(root, "key", "create", "--tenant", "acme", "--rpm", "60")
    revoked = older.json(root, "key", "create", "--tenant", "acme")
    older.json(root, "key", "revoke", revoked["id"])
    older.json(root, "data", "ingest", str(folder / "rows.jsonl"), "--name", "docs")
    assert read_schema(root) == RELEASE_SCHEMA
    return OldHome(root, valid["key"], revoked["key"])


@pytest.fixture
def old_home(made_home: OldHome, tmp_path: Path) -> Iterator[OldHome]:
    """The home at its path, which its tables name, with a copy that a person made before the upgrade."""
    shutil.copytree(made_home.root, tmp_path / "before")
    yield made_home
    shutil.rmtree(made_home.root)
    shutil.copytree(tmp_path / "before", made_home.root)


def read_schema(root: Path) -> int:
    return int(json.loads((root / "schema.json").read_bytes())["version"])


def read_status(url: str, key: str) -> int:
    headers = {"authorization": f"Bearer {key}"}
    return BlockingClient(WAIT_S).send("GET", f"{url}/v1/models", headers=headers).status


def digest_files(root: Path) -> dict[str, str]:
    """The digests of what an older program must not touch: all files but locks and the index of SQLite."""
    files = (path for path in root.rglob("*") if path.is_file() and not path.name.endswith(("-shm", "-wal", "lock")))
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)}


@pytest.mark.enable_socket
@pytest.mark.nightly
def test_an_upgrade_keeps_keys_data_and_the_audit_log(old_home: OldHome, older: Program, newer: Program) -> None:
    root = old_home.root
    records = older.json(root, "audit", "verify")["records"]
    former = older.json(root, "key", "list")

    present = newer.json(root, "key", "list")
    assert read_schema(root) == SCHEMA_VERSION
    assert [(key["id"], key["tenant"], key["rpm"]) for key in present] == [
        (key["id"], key["tenant"], key["rpm"]) for key in former
    ]
    with newer.serve(root) as url:
        assert read_status(url, old_home.valid) == 200
        assert read_status(url, old_home.revoked) == 401
    verified = newer.json(root, "audit", "verify")
    assert verified["whole"] and verified["records"] > records
    assert newer.json(root, "data", "check")["problems"] == []
    checks = json.loads(newer.run(root, "doctor", "--deep", "--json").stdout)
    assert [check for check in checks if check["state"] == "failure" and check["name"] != "model"] == []


@pytest.mark.nightly
def test_the_older_program_refuses_the_home_and_its_copy_takes_it_back(
    old_home: OldHome, older: Program, newer: Program, tmp_path: Path
) -> None:
    root = old_home.root
    newer.json(root, "key", "create", "--tenant", "acme")
    before = digest_files(root)

    for words in (("key", "list"), ("key", "create"), ("audit", "verify"), ("status",)):
        refused = older.run(root, *words)
        assert refused.returncode == REFUSED, words
        assert f"schema version {SCHEMA_VERSION}, this program knows {RELEASE_SCHEMA}" in refused.stderr
        assert "AW-SET-05" in refused.stderr and "upgrade" in refused.stderr and "backup" in refused.stderr
    assert digest_files(root) == before

    shutil.rmtree(root)
    shutil.copytree(tmp_path / "before", root)
    assert len(older.json(root, "key", "list")) == 2, "the key of after the upgrade is gone"
    assert older.json(root, "audit", "verify")["whole"]
    assert len(newer.json(root, "key", "list")) == 2, "the upgrade can be made again"


@pytest.mark.nightly
def test_a_backup_of_an_older_schema_is_restored_by_this_release(
    old_home: OldHome, newer: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The home in the backup has the older schema; the first use of the restored home migrates it."""
    identity = pyrage.x25519.Identity.generate()
    key = tmp_path / "backup.key"
    key.write_text(str(identity))
    key.chmod(0o600)
    source = Home(old_home.root)
    monkeypatch.setenv("ARCHWRIGHT_BACKUP_KEY", f"file:{key}")
    repository = open_or_create_repository(FolderStorage(tmp_path / "place"), str(identity))
    create_backup(source, open_database("", source), repository, DrillKeys(valid="", revoked=""))
    assert read_schema(old_home.root) == RELEASE_SCHEMA

    restored = tmp_path / "restored"
    restore(source=str(tmp_path / "place"), into=str(restored))
    assert read_schema(restored) == SCHEMA_VERSION
    assert len(newer.json(restored, "key", "list")) == 2
    assert newer.json(restored, "audit", "verify")["whole"]
    assert newer.json(restored, "data", "check")["problems"] == []
