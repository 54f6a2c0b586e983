"""The compose file of a bundle, started as processes by the steps of its README, with the real small model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import yaml
from tests.deploy.compose_runner import ComposeRunner, Image
from tests.deploy.conftest import MadeBundle, MadePlan
from tests.deploy.readme_steps import read_commands
from tests.deploy.tools import require_program
from tests.deploy.unit_runner import CODE, find_python, list_libraries
from tests.tools.checks import until

from archwright import __version__
from archwright.catalog.load import load_catalog
from archwright.contract.record import replace
from archwright.deploy.rendering.bundle import write_bundle
from archwright.home import Home

pytestmark = [pytest.mark.nightly, pytest.mark.enable_socket]
LIBRARIES = "/opt/archwright/lib"
DATABASE = """#!/bin/sh
set -e
export PGDATA=/var/lib/postgresql/data
if ! [ -s $PGDATA/PG_VERSION ]; then
    initdb -U "$POSTGRES_USER" --pwfile="$POSTGRES_PASSWORD_FILE" --auth-local=trust $POSTGRES_INITDB_ARGS --no-sync
    echo 'CREATE DATABASE archwright' | postgres --single postgres
fi
exec postgres -c listen_addresses='*' -c unix_socket_directories=/run/postgresql
"""
CHAT = """
import json, ssl, sys, urllib.request as r
body = {"model": "assistant", "max_tokens": 4, "messages": [{"role": "user", "content": "Go on."}]}
head = {"authorization": "Bearer " + sys.argv[1], "content-type": "application/json"}
trusted = ssl.create_default_context(cafile="/etc/archwright/tls/tls.crt")
asked = r.Request("https://localhost:8470/v1/chat/completions", json.dumps(body).encode(), head)
print(json.load(r.urlopen(asked, context=trusted))["usage"]["completion_tokens"])
"""


def write_program(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def make_images(folder: Path) -> dict[str, Image]:
    """Return what stands for the images: programs of this machine, where the images have them."""
    python = Path(find_python()[0]).resolve()
    files = {f"{LIBRARIES}/{number}": path for number, path in enumerate([CODE, *list_libraries()])}
    start = f"#!/bin/sh\nexport PYTHONPATH={':'.join(files)}\nexec {python} "
    programs = folder / "programs"
    programs.mkdir()
    run = write_program(programs / "python", f'{start}"$@"\n')
    verbs = write_program(programs / "archwright", f'{start}-P -m archwright "$@"\n')
    server = Path(__file__).parents[1] / "tools" / "llama_server.py"
    # The server reads its standard input until it is asked to end.
    serve = write_program(programs / "llama-server", '#!/bin/sh\nsleep infinity | python /app/server.py "$@"\n')
    database = write_program(programs / "database", DATABASE)
    users = programs / "passwd"
    users.write_text(f"{Path('/etc/passwd').read_text()}database:x:999:999::/:/bin/sh\n")
    archwright = {**files, "/opt/archwright/bin/python": run, "/opt/archwright/bin/archwright": verbs}
    engine = {**archwright, "/app/llama-server": serve, "/app/server.py": server}
    binaries = max(Path("/usr/lib/postgresql").glob("*/bin"))
    return {
        "gateway": Image(
            archwright,
            ("python", "-P", "-m", "archwright.serving"),
            ("/var/lib/archwright/home", "/etc/archwright/config/gateway.json"),
            {"ARCHWRIGHT_HOME": "/var/lib/archwright/home"},
        ),
        "backup": Image(archwright, environment={"ARCHWRIGHT_HOME": "/var/lib/archwright/home"}),
        "weights-assistant": Image(archwright),
        "engine-assistant-0": Image(engine),
        "database": Image(
            {"/etc/passwd": users, "/entrypoint": database},
            ("/entrypoint",),
            environment={"PATH": f"{binaries}:/usr/bin:/bin:/usr/sbin:/sbin"},
        ),
    }


@pytest.fixture
def services(made_plan: MadePlan, made_bundle: MadeBundle, model_home: Home, tmp_path: Path) -> Iterator[ComposeRunner]:
    """The services after the steps of the README."""
    artefact = load_catalog().artefacts["SmolLM2-135M-Instruct"]
    plan = made_plan("desk")
    pool = replace(plan.pools[0], artefact=artefact)
    option = replace(plan.options[0], pools=(pool,))
    plan, folder = replace(plan, pools=(pool,), options=(option, *plan.options[1:])), tmp_path / "bundle"
    require_program("openssl")
    write_bundle(made_bundle(plan, "compose"), folder, __version__)
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(0o755)
    for commands in read_commands((folder / "README.md").read_text(), "Before you apply"):
        if "\n" in commands:
            subprocess.run(["sh", "-ec", commands.replace("sudo ", "")], cwd=folder, check=True)
    (models,) = folder.glob("models/assistant/*/model")
    compose = yaml.safe_load((folder / "compose.yaml").read_text())
    file = compose["services"]["engine-assistant-0"]["command"][0].rpartition("/")[2]
    shutil.copyfile(model_home.model(artefact.sha256), models / file)
    os.chown(models / file, 10001, 10001)
    runner = ComposeRunner(compose, folder, make_images(tmp_path))
    try:
        runner.start_all()
        yield runner
    finally:
        runner.close()
        for name in runner.processes:
            print(f"--- {name}\n{runner.log_file(name).read_text()[-3000:]}")


def test_the_services_answer_and_a_killed_one_is_back(services: ComposeRunner) -> None:
    until(lambda: services.is_healthy("gateway") and services.is_healthy("engine-assistant-0"))
    key = create_key(services, "first")

    def answers() -> bool:
        return ask(services, key) == "4\n"

    until(answers)
    for name in ("engine-assistant-0", "gateway", "database"):
        services.restart_killed(name)
        until(partial(services.is_healthy, name))
        until(answers)
    assert services.exec("gateway", "touch", "/etc/new").returncode != 0, "the root is read-only"
    assert services.exec("gateway", "cat", "/run/secrets/database_password").returncode != 0, (
        "it is no secret of its own"
    )
    assert services.exec("database", "id", "-u").stdout == "999\n"


def test_a_backup_is_restored_as_the_readme_says(services: ComposeRunner) -> None:
    """The service makes a backup and a drill by itself. Keys of the backup work after it, and later ones do not."""
    until(lambda: services.is_healthy("backup") and services.is_healthy("gateway"))
    until((services.folder / "run-volumes/home/backup-drill.done").exists)
    keys = [create_key(services, name) for name in ("before", "after")]
    services.follow("docker compose exec backup archwright backup --keep 30")
    keys.append(create_key(services, "later"))
    readme = (services.folder / "README.md").read_text()
    (commands,) = [one for one in read_commands(readme, "Restore") if "\n" in one]
    for line in commands.splitlines():
        services.follow(line)
    until(lambda: services.is_healthy("engine-assistant-0"))
    until(lambda: ask(services, keys[0]) == "4\n")
    assert [ask(services, key) for key in keys] == ["4\n", "4\n", ""]


def create_key(services: ComposeRunner, name: str) -> str:
    made = services.exec("gateway", "archwright", "key", "create", "--tenant", "my-team", "--name", name, "--json")
    assert made.returncode == 0, made.stderr
    key: str = json.loads(made.stdout)["key"]
    return key


def ask(services: ComposeRunner, key: str) -> str:
    """Return the number of tokens of an answer, and nothing if the key is refused."""
    return services.exec("gateway", "python", "-c", CHAT, key).stdout
