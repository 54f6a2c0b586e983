"""The tools of nightly tests: Debian programs, packages of the extra `nightly`, environments of their own.

A missing tool fails the test with the package that brings it. A skipped check would look like a passed one.
"""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]

# Program -> Debian package.
PROGRAMS = {
    "amtool": "prometheus-alertmanager",
    "buildah": "buildah",
    "chromium": "chromium",
    "docker-compose": "docker-compose",
    "kustomize": "kustomize",
    "mmdebstrap": "mmdebstrap",
    "openssl": "openssl",
    "prometheus": "prometheus",
    "prometheus-alertmanager": "prometheus-alertmanager",
    "prometheus-node-exporter": "prometheus-node-exporter",
    "promtool": "prometheus",
    "systemd-analyze": "systemd",
    "systemd-nspawn": "systemd-container",
    "systemd-sysusers": "systemd",
    "systemd-tmpfiles": "systemd",
}

# Environment -> what it holds. They pin versions that archwright's own environment cannot have.
ENVIRONMENTS = {
    "checkov": "checkov",
    "moto": "a server with the interface of S3",
    "ocsf": "models and schema of OCSF, and a parser of syslog messages",
    "focus": "focus-validator, which needs Python 3.12",
    "agents": "openai-agents and pydantic-ai",
    "aisimulate": "aiconfigurator-core, the kernel tables of AISimulate",
    "clients": "the official clients and the archives with their tests",
    "comply": "llm-comply",
    "langchain": "langchain-tests with two clients",
    "schemathesis": "schemathesis",
    "terraform": "Terraform core with the schemas of three providers",
}


def require_program(name: str) -> Path:
    """Return the path of a program of PROGRAMS. Fails the test if it is missing."""
    found = shutil.which(name)
    if found is None:
        package = PROGRAMS[name]
        pytest.fail(f"{name} is missing: run `apt-get install {package}` (Debian package {package})", pytrace=False)
    return Path(found)


def require_module(name: str, *, package: str) -> ModuleType:
    """Return a module of the extra `nightly`. Fails the test if its package is missing."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        reason = f"{name} is missing: run `make tools` (PyPI package {package}, extra `nightly`): {error}"
        pytest.fail(reason, pytrace=False)


def require_environment(name: str) -> Path:
    """Return the Python of `.venv-NAME`, which `make tools` makes. Fails the test if it is missing."""
    python = ROOT / f".venv-{name}" / "bin" / "python"
    if not python.exists():
        pytest.fail(f".venv-{name} ({ENVIRONMENTS[name]}) is missing: run `make tools`", pytrace=False)
    return python


def require_node_program(name: str) -> list[str]:
    """Return the command of a program of `.venv-node`, which `make tools` makes. Fails the test if it is missing."""
    program = ROOT / ".venv-node" / "node_modules" / ".bin" / name
    if not program.exists():
        pytest.fail(".venv-node (clients from npm) is missing: run `make tools`", pytrace=False)
    return [str(program)]
