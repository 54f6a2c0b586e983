"""Records in a bucket with object lock. moto stands in for S3 (nightly); it checks no signature and no right."""

from __future__ import annotations

import json
import sqlite3
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from tests.lake.sources.test_s3_source import s3_server, set_access

from archwright.access.audit_delivery.outbox import PlaceOutbox
from archwright.access.audit_delivery.places import check_readable, read_place, split_addresses
from archwright.access.record_chain import decode_record_lines
from archwright.api import audit
from archwright.errors import ArchwrightError, SettingsError, StoreError
from archwright.home import Home
from archwright.settings import load
from archwright.store import Store

from .log_with_places import write_events

__all__ = ["s3_server"]
ADDRESS = "s3://locked/audit?lock_days=30"
# The owner of the bucket; moto checks no signature.
OWNER = "AWS4-HMAC-SHA256 Credential=owner/20260101/us-east-1/s3/aws4_request,SignedHeaders=host,Signature=0"


def send(method: str, url: str, body: bytes = b"", headers: dict[str, str] | None = None) -> bytes:
    signed = {"authorization": OWNER, **(headers or {})}
    request = urllib.request.Request(url, data=body or None, method=method, headers=signed)
    with urllib.request.urlopen(request) as reply:
        data: bytes = reply.read()
    return data


class Bucket:
    """A bucket of the server, and the log of a home whose records it gets."""

    def __init__(self, home: Home, server: str, name: str) -> None:
        self.home = home
        self.url = f"{server}/{name}"
        self.errors: list[ArchwrightError] = []

    def deliver(self, numbers: range, address: str = ADDRESS) -> None:
        with closing(Store(self.home.store_url)) as store:
            write_events(store, self.home, numbers)
            PlaceOutbox(store, self.home, address, report=self.errors.append).deliver(closing=True)

    def list_objects(self) -> list[str]:
        return [line.split("</Key>")[0] for line in send("GET", self.url).decode().split("<Key>")[1:]]

    @property
    def numbers(self) -> list[int]:
        return [line.number for line in decode_record_lines(read_place(ADDRESS))]


@pytest.fixture
def bucket(home: Home, s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    set_access(monkeypatch, s3_server)
    send("PUT", f"{s3_server}/locked", headers={"x-amz-bucket-object-lock-enabled": "true"})
    return Bucket(home, s3_server, "locked")


@pytest.mark.nightly
@pytest.mark.enable_socket
def test_a_locked_bucket_confirms_the_log_and_names_what_the_log_lost(bucket: Bucket) -> None:
    bucket.deliver(range(5))
    bucket.deliver(range(5, 8))
    assert not bucket.errors and bucket.numbers == list(range(1, 9))
    verified = audit.verify(against=ADDRESS)
    assert (verified.records, verified.checkpoints, verified.warning) == (8, 2, "")
    with closing(sqlite3.connect(bucket.home.root / "archwright.db")) as connection:
        connection.executescript("delete from audit_blocks where seq = (select max(seq) from audit_blocks)")
    with pytest.raises(StoreError) as found:
        audit.verify(against=ADDRESS)
    assert "records 6 to 8 (from 2001-09-09T01:46:45Z act.5) are missing in the log" in found.value.message


@pytest.mark.nightly
@pytest.mark.enable_socket
def test_nobody_deletes_an_object_and_a_version_that_hides_it_is_passed_over(bucket: Bucket) -> None:
    bucket.deliver(range(5))
    (name,) = bucket.list_objects()
    versions = send("GET", f"{bucket.url}?versions").decode()
    version = versions.split("<VersionId>")[1].split("</VersionId>")[0]
    shown = urllib.request.Request(f"{bucket.url}/{name}", headers={"authorization": OWNER})
    with urllib.request.urlopen(shown) as reply:
        locked_until = datetime.fromisoformat(reply.headers["x-amz-object-lock-retain-until-date"])
        assert reply.headers["x-amz-object-lock-mode"] == "COMPLIANCE"
        assert (locked_until - datetime.now(UTC)).days == 29
    with pytest.raises(urllib.error.HTTPError) as refused:
        send("DELETE", f"{bucket.url}/{name}?versionId={version}")
    assert refused.value.code == 403
    refused.value.close()

    send("PUT", f"{bucket.url}/{name}", b'{"kind":"forged"}')
    send("DELETE", f"{bucket.url}/{name}")
    assert bucket.list_objects() == []
    assert bucket.numbers == [1, 2, 3, 4, 5]
    assert audit.verify(against=ADDRESS).warning == ""


@pytest.mark.nightly
@pytest.mark.enable_socket
def test_a_bucket_without_object_lock_is_refused_and_the_status_says_so(
    bucket: Bucket, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    send("PUT", f"{s3_server}/plain")
    bucket.deliver(range(3), "s3://plain/audit")
    assert [error.code for error in bucket.errors] == ["AW-STO-27"] and "S3 refused" in bucket.errors[0].message
    assert Bucket(bucket.home, s3_server, "plain").list_objects() == []
    monkeypatch.setenv("ARCHWRIGHT_AUDIT_CHECKPOINTS", "s3://plain/audit")
    (status,) = audit.status()
    assert status.waiting == 3 and status.failing_since > 0
    with pytest.raises(StoreError) as missing:
        list(read_place("s3://absent/audit"))
    assert missing.value.code == "AW-STO-31" and "NoSuchBucket" in missing.value.message


@pytest.mark.nightly
@pytest.mark.enable_socket
def test_the_platform_of_containers_gives_the_credentials(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, credentials_url: str
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    bucket.deliver(range(2))
    assert "there are no credentials" in bucket.errors[0].message
    (tmp_path / "token").write_text("pod-token\n")
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", credentials_url)
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(tmp_path / "token"))
    bucket.deliver(range(2, 4))
    assert bucket.numbers == [1, 2, 3, 4]


@pytest.fixture
def credentials_url(processes: None) -> Iterator[str]:
    """The agent of a pod's identity: it gives credentials for the token."""

    class Agent(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.headers["Authorization"] == "pod-token"
            self.send_response(200 if known else 401)
            self.end_headers()
            if known:
                keys = {
                    "AccessKeyId": "ASIA1",
                    "SecretAccessKey": "s",
                    "Token": "t",
                    "Expiration": "2030-01-01T00:00:00Z",
                }
                self.wfile.write(json.dumps(keys).encode())

        def log_message(self, *_arguments: object) -> None:
            """Write nothing to standard error."""

    with HTTPServer(("127.0.0.1", 0), Agent) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.mark.enable_socket
def test_a_server_that_is_away_is_named_without_secrets(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    set_access(monkeypatch, "http://127.0.0.1:1")
    check_readable(ADDRESS)
    with pytest.raises(StoreError) as refused:
        list(read_place(ADDRESS))
    assert refused.value.code == "AW-STO-31" and "hush" not in refused.value.lines()


@pytest.mark.parametrize("setting", ["s3://b", "s3://b/a/b", ADDRESS, "stdout,s3://b/a?lock_days=3650"])
def test_the_setting_takes_a_bucket(home: Home, monkeypatch: pytest.MonkeyPatch, setting: str) -> None:
    monkeypatch.setenv("ARCHWRIGHT_AUDIT_CHECKPOINTS", setting)
    assert ",".join(split_addresses(load().audit_checkpoints)) == setting


@pytest.mark.parametrize(
    "setting", ["s3://", "s3:///a", "s3://b?lock_days=0", "s3://b/a?days=3", "s3://b/a?lock_days=-1"]
)
def test_a_wrong_bucket_is_refused(home: Home, monkeypatch: pytest.MonkeyPatch, setting: str) -> None:
    monkeypatch.setenv("ARCHWRIGHT_AUDIT_CHECKPOINTS", setting)
    with pytest.raises(SettingsError):
        load()
