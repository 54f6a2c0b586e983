"""Frozen settings; the only reader of the environment.

Order: flag > ARCHWRIGHT_* variable > archwright.toml of the working folder > archwright.toml of the home > default.
Every value keeps its source, which `archwright settings` prints.

Design: a stranger may have written the working folder, such as a cloned repository. Its file may set only what changes
neither security nor where data go: the scope of each setting is part of its declaration.
"""

import os
import pwd
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from archwright.errors import ErrorLocation, SettingsError

FILE = "archwright.toml"
PREFIX = "ARCHWRIGHT_"
# Variables that an engine process gets. A prefix that a vendor also uses for keys (NVIDIA_) is not allowed.
ENGINE_VARIABLES = {
    *("PATH", "HOME", "TMPDIR", "TZ", "LANG", "LC_ALL", "LC_CTYPE"),
    *("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONPATH"),
    *("NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES", "ONEAPI_DEVICE_SELECTOR", "ZE_AFFINITY_MASK"),
    *("MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MALLOC_ARENA_MAX", "HF_HUB_OFFLINE"),
}
# The kubelet mounts the token of a pod and the authority of its cluster here.
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
# The Python programs that a child starts with this variable, such as workers, import no module of the working folder.
SAFE_PATH_ENVIRONMENT = {"PYTHONSAFEPATH": "1"}
ENGINE_PREFIXES = ("OMP_", "GOMP_", "KMP_", "GGML_", "CUDA_", "HIP_", "HSA_", "ROCR_", "NCCL_")


T = TypeVar("T")
# Which files may set a value: those of the working folder and the home, that of the home, none.
Scope = Literal["project", "home", "process"]


def _declare(default: T, scope: Scope) -> T:
    return field(default=default, metadata={"scope": scope})


def _project(default: T) -> T:
    """Declare a setting that changes neither security nor where data go."""
    return _declare(default, "project")


def _home(default: T) -> T:
    """Declare a setting of the operator."""
    return _declare(default, "home")


@dataclass(frozen=True)
class Settings:
    """The settings of a process, loaded once and passed down.

    `port`: 0 selects any free port. `admin_port`: the gateway's administration interface; 0: none. `cache`: the
    responses that the gateway caches. `ray_address`: HOST:PORT of a Ray cluster for data steps and runs with several
    workers; empty: this machine. `otlp_url`: the root of an OpenTelemetry collector for the gateway's traces; empty:
    none. `trusted_proxies`: networks of the proxies in front of the gateway, separated by commas. `image_hosts`: hosts
    whose images the gateway fetches for requests, separated by commas; empty: none. `cors_origins`: origins whose web
    pages may call the gateway, separated by commas; empty: none. `engine_user`: the user of engine
    processes if root starts the platform; empty: the user of the platform. `audit_checkpoints`: the second places of
    the audit log, separated by commas: `stdout`, `syslog`, `file:PATH`, s3://BUCKET/PREFIX; empty: none.
    `audit_retention_days`, `usage_retention_days`: days after which a gateway removes such records; 0: never.
    `audit_second_place`: `none` accepts a log without a second place, so that `audit verify` does not exit with 10.
    `model_memory_bytes`: memory of all models
    that are loaded at run time; 0: most of the memory that the plan leaves. `model_idle_s`: seconds after which an idle
    one leaves the memory; 0: never. `data_workers`: processes that work on a recipe; 0: one per core.
    `residency`: the country (alpha-2) where the home and its database are; empty: unknown. `engine_measurement_s`:
    seconds for which a plan, a prediction or a start measures the engine of this machine; 0: not at all.
    `owner_key_days`: days after which a new key with the role owner ends; 0: never. `alert_webhook`: URL that gets
    alerts about budgets and upstreams as JSON. `alert_smtp`: HOST:PORT of the mail server.
    `alert_smtp_login`: env:NAME or file:PATH of USER:PASSWORD. `alert_from`, `alert_to`: sender, and recipients
    separated by commas. `backup_to`: the place of backups, a folder or s3://BUCKET/PREFIX. `backup_key`: env:NAME,
    file:PATH or command:[...] of the key that encrypts backups.
    """

    home: str = _declare("~/.archwright", "process")
    host: str = _home("127.0.0.1")
    port: int = _project(8470)
    database_url: str = _home("")
    tls_certificate: str = _home("")
    tls_key: str = _home("")
    log_level: str = _project("info")
    ray_address: str = _home("")
    otlp_url: str = _home("")
    admin_port: int = _home(0)
    cache: str = _home("off")
    trusted_proxies: str = _home("")
    image_hosts: str = _home("")
    cors_origins: str = _home("")
    engine_user: str = _home("")
    audit_checkpoints: str = _home("")
    audit_second_place: str = _home("required")
    audit_retention_days: int = _home(0)
    usage_retention_days: int = _home(7)
    model_memory_bytes: int = _project(0)
    model_idle_s: int = _project(900)
    data_workers: int = _project(0)
    residency: str = _home("")
    engine_measurement_s: int = _project(8)
    owner_key_days: int = _home(90)
    alert_webhook: str = _home("")
    alert_smtp: str = _home("")
    alert_smtp_login: str = _home("")
    alert_from: str = _home("")
    alert_to: str = _home("")
    backup_to: str = _home("")
    backup_key: str = _home("")
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)


INTEGERS = {
    "port": 65535,
    "admin_port": 65535,
    "model_memory_bytes": 1 << 50,
    "model_idle_s": 1 << 30,
    "data_workers": 1024,
    "engine_measurement_s": 600,
    "owner_key_days": 3650,
    "audit_retention_days": 36_500,
    "usage_retention_days": 36_500,
}
CHOICES = {"cache": ("off", "deterministic", "all"), "audit_second_place": ("required", "none")}
AUDIT_BUCKET = r"s3://[^\s,/?]+(/[^\s,?]*)?(\?lock_days=[1-9][0-9]{0,3})?"
AUDIT_PLACE = rf"(stdout|syslog|(file:)?/[^\s,]+|{AUDIT_BUCKET})"
# Settings with a form: its pattern, and how messages name it. The value may be a secret by mistake, so none is shown.
FORMS = {
    "alert_webhook": (r"https?://[^\s@]+", "an http or https URL without a password"),
    "alert_smtp": (r"(smtps://)?[^\s/@]+:[0-9]{1,5}", "HOST:PORT or smtps://HOST:PORT, such as mail.example.org:465"),
    "alert_smtp_login": (r"env:[A-Za-z_][A-Za-z0-9_]*|file:.+", "env:NAME or file:PATH of USER:PASSWORD"),
    "backup_key": (r"env:[A-Za-z_][A-Za-z0-9_]*|file:.+|command:.+", "env:NAME, file:PATH or command:[...] of a key"),
    "audit_checkpoints": (
        rf"{AUDIT_PLACE}(,\s*{AUDIT_PLACE})*",
        "`stdout`, `syslog`, `file:` and the full path of a file, or s3://BUCKET/PREFIX, separated by commas",
    ),
    "backup_to": (r"s3://[^\s/]+(/.*)?|/.+", "the full path of a folder, or s3://BUCKET/PREFIX"),
}
SCOPES: Mapping[str, Scope] = {f.name: f.metadata["scope"] for f in fields(Settings) if f.name != "sources"}
NAMES = tuple(SCOPES)
GROUP_OR_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class _SettingsFile(NamedTuple):
    """An archwright.toml: its path, its name in messages, and the scopes of the settings that it may hold."""

    path: Path
    name: str
    scopes: tuple[Scope, ...]


def load(flags: Mapping[str, object] | None = None, folder: Path | None = None) -> Settings:
    """Load the settings in force.

    Raises SettingsError AW-SET-01 (unknown name), -02 (bad value), -03 (bad file), -04 (the home of an unknown user),
    -08 (another user could have written the file), -09 (a file sets what it may not set).
    """
    environment = _from_environment()
    stated = {name: value for name, value in (flags or {}).items() if value is not None}
    root = stated.get("home") or environment.get("home") or Settings.home
    values: dict[str, object] = {}
    sources = dict.fromkeys(NAMES, "default")

    for file in _list_files(str(root), folder or Path.cwd()):
        for name, value in _read_file(file, str(root)).items():
            values[name] = value
            sources[name] = file.name
    for name, value in environment.items():
        values[name] = _check_value(name, value, ErrorLocation("environment", None, name))
        sources[name] = f"{PREFIX}{name.upper()}"
    for name, value in stated.items():
        values[name] = _check_value(name, value, ErrorLocation("flag", None, name))
        sources[name] = "flag"

    return Settings(**values, sources=sources)  # type: ignore[arg-type]


def _from_environment() -> dict[str, object]:
    return {name: value for name in NAMES if (value := os.environ.get(PREFIX + name.upper()))}


def _list_files(root: str, folder: Path) -> list[_SettingsFile]:
    """Return the files that exist, the weaker first. In the home, the working folder's file is that of the home."""
    project = _SettingsFile(folder / FILE, FILE, ("project",))
    path = locate_root(root) / FILE
    of_home = _SettingsFile(path, str(path), ("home", "project"))
    files = [of_home] if path.resolve() == project.path.resolve() else [of_home, project]
    return [file for file in files if file.path.is_file()]


def locate_root(root: str | Path) -> Path:
    """Return the folder of a home as a full path. Raises SettingsError AW-SET-04 for a `~name` of an unknown user."""
    try:
        return Path(root).expanduser().absolute()
    except RuntimeError as error:
        message, where = f"{root} is the home of an unknown user", ErrorLocation(field="home")
        raise SettingsError("AW-SET-04", message, where=where, hint="set a full path") from error


def _read_file(file: _SettingsFile, root: str) -> dict[str, object]:
    _check_trust(file.path)
    try:
        text = file.path.read_text(encoding="utf-8")
        stated = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        message, where = f"the file is not valid TOML: {error}", ErrorLocation(str(file.path))
        raise SettingsError("AW-SET-03", message, where=where, hint="correct the file") from error

    values: dict[str, object] = {}
    for name, value in stated.items():
        where = ErrorLocation(file.name, _find_line(text, name), name)
        values[name] = _check_value(name, value, where)
        if SCOPES[name] not in file.scopes:
            raise _scope_error(name, where, root)
    return values


def _find_line(text: str, name: str) -> int | None:
    """Return the first line that sets `name`; the reader of TOML states no lines."""
    setting = re.compile(rf"""\s*\[*["']?{re.escape(name)}["']?\s*[=.\]]""")
    numbers = (number for number, line in enumerate(text.splitlines(), 1) if setting.match(line))
    return next(numbers, None)


def _scope_error(name: str, where: ErrorLocation, root: str) -> SettingsError:
    variable = f"{PREFIX}{name.upper()}"
    if SCOPES[name] == "process":
        message = f"a file cannot set {name}: {name} says where files are read"
        return SettingsError("AW-SET-09", message, where=where, hint=f"set {variable}")
    message = f"the working folder cannot set {name}: it changes security, or where data go"
    hint = f"move this line to {root}/{FILE}, or set {variable}"
    return SettingsError("AW-SET-09", message, where=where, hint=hint)


def _check_trust(path: Path) -> None:
    """Raises SettingsError AW-SET-08 if another user could have written the file, or could replace it.

    The target of a link is checked like the link. Trusted are root and the user of this process.
    """
    for file in dict.fromkeys((path.absolute(), path.resolve())):
        _check_owner(file, file.lstat())
        _check_owner(file.parent, file.parent.stat())


def _check_owner(path: Path, found: os.stat_result) -> None:
    root = Path("/").stat().st_uid  # a user namespace may show root under another id
    sticky = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX  # others cannot replace our file there
    if found.st_uid not in (0, os.getuid(), root):
        message = f"the user {found.st_uid} owns this path, so the settings may not be yours"
        hint = f"copy the file to a folder of yours, or run: chown {os.getuid()} {path}"
    elif found.st_mode & GROUP_OR_OTHERS_WRITE and not stat.S_ISLNK(found.st_mode) and not sticky:
        message = f"other users may write to this path (mode {stat.S_IMODE(found.st_mode):04o})"
        hint = f"check the settings in it, then run: chmod go-w {path}"
    else:
        return
    raise SettingsError("AW-SET-08", message, where=ErrorLocation(str(path)), hint=hint)


def _check_value(name: str, value: object, where: ErrorLocation) -> object:
    hint = f"correct the setting {name}"
    if name not in NAMES:
        raise SettingsError(
            "AW-SET-01", f"unknown setting {name!r}", where=where, hint=f"use one of {', '.join(NAMES)}"
        )
    if name in INTEGERS:
        with suppress(ValueError):
            if 0 <= int(str(value)) <= INTEGERS[name]:
                return int(str(value))
        message, hint = f"{name} must be 0 to {INTEGERS[name]}, not {value!r}", "set a whole number"
    elif name in CHOICES and value not in CHOICES[name]:
        message = f"{name} must be one of {', '.join(CHOICES[name])}, not {value!r}"
    elif name == "otlp_url" and value and not str(value).startswith(("http://", "https://")):
        message = f"{name} must be an http or https URL, not {value!r}"
        hint = "set the collector's root for OTLP over HTTP, such as http://localhost:4318"
    elif name in FORMS and value and not re.fullmatch(FORMS[name][0], str(value)):
        message = f"{name} must be {FORMS[name][1]}"
    elif name == "residency" and value and not re.fullmatch("[A-Z]{2}", str(value)):
        message = f"{name} must be the code of a country, such as DE, not {value!r}"
    elif isinstance(value, str):
        return value
    else:
        message = f"{name} must be a text"
    raise SettingsError("AW-SET-02", message, where=where, hint=hint)


def read_variable(name: str) -> str | None:
    """Return the value of a variable that the user names (`bench --key-env NAME`)."""
    return os.environ.get(name)


def read_library_path() -> tuple[str, ...]:
    """Return the folders of LD_LIBRARY_PATH, in which the loader looks for libraries first."""
    return tuple(filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(":")))


def read_service_manager() -> tuple[str, float]:
    """Return the socket of the service manager that started this process, and its watchdog period in seconds.

    Reads NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID (sd_notify). Without them: empty, and 0.
    """
    period, process = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    mine = period.isdigit() and process in ("", str(os.getpid()))
    return os.environ.get("NOTIFY_SOCKET", ""), int(period) / 1e6 if mine else 0.0


@dataclass(frozen=True)
class HubAccess:
    """How to reach the hub of models, from the variables of its own client. The token is never shown."""

    endpoint: str = "https://huggingface.co"
    token: str = field(default="", repr=False)
    offline: bool = False


def read_hub_access() -> HubAccess:
    """Read HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE. Raises SettingsError AW-SET-02 for a wrong endpoint or token."""
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or HubAccess.endpoint
    token = os.environ.get("HF_TOKEN", "").strip()
    if not re.fullmatch(r"https?://[^\s/@\[\]]+(/[^\s@]*)?", endpoint):
        where, hint = (
            ErrorLocation("environment", None, "HF_ENDPOINT"),
            "set it to a URL such as https://hub.example.com",
        )
        raise SettingsError("AW-SET-02", "HF_ENDPOINT must be an http or https URL", where=where, hint=hint)
    if not re.fullmatch("[!-~]*", token):
        # The client's error about a header would print the token.
        where, hint = ErrorLocation("environment", None, "HF_TOKEN"), "copy the token from the hub's settings again"
        raise SettingsError("AW-SET-02", "HF_TOKEN has a character that no token has", where=where, hint=hint)
    offline = os.environ.get("HF_HUB_OFFLINE", "").strip().upper() in ("1", "ON", "YES", "TRUE")
    return HubAccess(endpoint, token, offline)


@dataclass(frozen=True)
class ClusterAccess:
    """How a pod reaches the API of its Kubernetes cluster: the files are those that the kubelet mounts."""

    url: str
    folder: Path = SERVICE_ACCOUNT

    @property
    def authority_file(self) -> Path:
        return self.folder / "ca.crt"

    def read_token(self) -> str:
        return (self.folder / "token").read_text(encoding="ascii").strip()


def read_cluster_access() -> ClusterAccess:
    """Raises SettingsError AW-SET-02 outside of a pod that has a token."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST", ""), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host or not (SERVICE_ACCOUNT / "token").is_file():
        where = ErrorLocation("environment", None, "KUBERNETES_SERVICE_HOST")
        hint = "run it as the job of keys/SITE, or use archwright key create"
        raise SettingsError("AW-SET-02", "this process has no token of a Kubernetes cluster", where=where, hint=hint)
    return ClusterAccess(f"https://{f'[{host}]' if ':' in host else host}:{port}")


def read_s3_endpoint() -> str:
    """Return AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL; the library of S3 reads the other variables itself."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")


@dataclass(frozen=True)
class S3Access:
    """How to reach S3, from the variables of its clients. Without `access_key`, a platform of containers gives keys.

    The platform answers at `credentials_url` to the token of a file. The secrets are never shown.
    """

    endpoint: str
    region: str
    access_key: str = ""
    secret_key: str = field(default="", repr=False)
    session_token: str = field(default="", repr=False)
    credentials_url: str = ""
    token_file: str = ""

    def read_token(self) -> str:
        return Path(self.token_file).read_text(encoding="ascii").strip() if self.token_file else ""


def read_s3_access() -> S3Access:
    """Read the endpoint, AWS_REGION or AWS_DEFAULT_REGION, keys, and AWS_CONTAINER_* of the platform."""
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    return S3Access(
        endpoint=read_s3_endpoint().rstrip("/") or f"https://s3.{region}.amazonaws.com",
        region=region,
        access_key=os.environ.get("AWS_ACCESS_KEY_ID", ""),
        secret_key=os.environ.get("AWS_SECRET_ACCESS_KEY", ""),
        session_token=os.environ.get("AWS_SESSION_TOKEN", ""),
        credentials_url=os.environ.get("AWS_CONTAINER_CREDENTIALS_FULL_URI", ""),
        token_file=os.environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", ""),
    )


def read_os_user() -> str:
    """Return the name and number of the user of this process, and the caller of sudo, which is only a claim."""
    number = os.getuid()
    with suppress(KeyError):
        name = pwd.getpwuid(number).pw_name
        caller = os.environ.get("SUDO_USER")
        return f"{name} ({number})" + (f" by sudo of {caller}" if caller else "")
    return str(number)


def child_environment(extra: Mapping[str, str] | None = None, *, without: tuple[str, ...] = ()) -> dict[str, str]:
    """Return the environment for a child process: ours without `without`, plus `extra`."""
    kept = {name: value for name, value in os.environ.items() if name not in without}
    return {**kept, **(extra or {})}


def engine_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for an engine: what locates programs, libraries and devices, plus `extra`."""
    kept = {n: value for n, value in os.environ.items() if n in ENGINE_VARIABLES or n.startswith(ENGINE_PREFIXES)}
    return {**kept, **extra, **SAFE_PATH_ENVIRONMENT}


@contextmanager
def enforce_safe_path() -> Iterator[None]:
    """In this block, multiprocessing starts processes that import no module of the working folder.

    A process of multiprocessing gets the environment of this process, and no other option sets its search path.
    """
    name, value = next(iter(SAFE_PATH_ENVIRONMENT.items()))
    value_before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
        if value_before is not None:
            os.environ[name] = value_before


def disable_telemetry() -> None:
    """Switch off the telemetry of libraries; call it before they are imported."""
    os.environ.update(DO_NOT_TRACK="1", RAY_USAGE_STATS_ENABLED="0", ORT_DISABLE_TELEMETRY="1")
