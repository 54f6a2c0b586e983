"""A platform on a full disk: `unshare -rm python full_disk.py FOLDER`; the folder becomes a small file system."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

from tests.serving.conftest import Platform, endpoint, free_port, null_engine, running, table

from archwright import api
from archwright.access.audit_checkpoints import read_checkpoints
from archwright.access.audit_log import read_entries
from archwright.errors import ArchwrightError
from archwright.home import Home
from archwright.monitor.wal.disk_reserve import RESERVE_BYTES, count_reserved_bytes

SIZE = "128m"


def fill_disk(folder: Path) -> None:
    """Another program writes until nothing is free."""
    handle = os.open(folder / "filler", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for step in (1 << 20, 1 << 12, 1):
        try:
            while True:
                os.write(handle, bytes(step))
        except OSError as error:
            assert error.errno == errno.ENOSPC
    os.close(handle)


def exhaust_segments(platform: Platform) -> int:
    """Send requests until the gateway has no space for another admission; return their number."""
    for count in range(40_000):
        reply = platform.chat(max_tokens=1)
        if reply.status == 503:
            assert reply.error["code"] == "audit_unavailable"
            return count
    raise AssertionError("the disk did not fill")


def administer(platform: Platform) -> None:
    """Create and revoke keys over HTTP and on the command line, and find the records."""
    made = platform.ask("POST", "/admin/tenants/acme/keys", {}, key=platform.owner, admin=True)
    assert made.status == 200, made.body
    revoked = platform.ask("DELETE", f"/admin/keys/{made.json['id']}", key=platform.owner, admin=True)
    assert revoked.status == 200, revoked.body
    local = api.key.create(tenant="acme")
    api.key.revoke(local.id)
    acts = [(one.action, one.resource) for one in read_entries(platform.store, platform.home) if one.resource]
    assert set(acts) >= {(act, key) for key in (made.json["id"], local.id) for act in ("key.create", "key.revoke")}
    assert platform.chat(key=local.key).status == 401


def administer_without_gateway(folder: Path) -> None:
    """Read as often as one likes, and act four times, although another program takes what each act freed."""
    keys = [api.key.create(tenant="acme").id for _ in range(4)]
    for key in keys:
        fill_disk(folder)
        assert {one.id for one in api.key.list(tenant="acme")} > {*keys}
        assert api.audit.verify().whole
        assert api.key.revoke(key).revoked
        assert api.audit.list(limit=1)[0].resource == key


def main(folder: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", folder], check=True)
    os.environ["ARCHWRIGHT_HOME"] = str(folder / "home")
    home = Home(folder / "home")
    with running(home, table(endpoint(), port=free_port(), admin_port=free_port()), null_engine()) as platform:
        platform.until(home.disk_reserve.exists)
        assert platform.chat().status == 200
        fill_disk(folder)
        print("admitted on the full disk:", exhaust_segments(platform))
        for _ in range(200):
            assert platform.chat(key="aw_x").status == 401
        administer(platform)
        assert count_reserved_bytes(home) < RESERVE_BYTES
        administer(platform)
        assert platform.chat().status == 503, "the gateway took what administration freed"
        (folder / "filler").unlink()
        platform.until(lambda: platform.chat().status == 200)
        platform.until(lambda: count_reserved_bytes(home) == RESERVE_BYTES)
        denied = read_entries(platform.store, home, {"effect": "deny", "key_id": ""})
        assert sum(one.count for one in denied) == 202
    administer_without_gateway(folder)
    (folder / "filler").unlink()
    assert read_checkpoints(home.audit_checkpoints)
    try:
        print(api.audit.verify())
    except ArchwrightError as error:
        raise SystemExit(error.lines()) from error


if __name__ == "__main__":
    main(Path(sys.argv[1]))
