"""Frozen settings; the only reader of the environment.

Order: flag > ARCHWRIGHT_* variable > archwright.toml of the working folder > default. Every value keeps its source,
which `archwright settings` prints.
"""

import os
import pwd
import re
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from pathlib import Path

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
# The Python programs that a child starts with this variable, such as workers, import no module of the working folder.
SAFE_PATH_ENVIRONMENT = {"PYTHONSAFEPATH": "1"}
ENGINE_PREFIXES = ("OMP_", "GOMP_", "KMP_", "GGML_", "CUDA_", "HIP_", "HSA_", "ROCR_", "NCCL_")


@dataclass(frozen=True)
class Settings:
    """The settings of a process, loaded once and passed down.

    `port`: 0 selects any free port. `admin_port`: the gateway's administration interface; 0: none. `cache`: the
    responses that the gateway caches. `ray_address`: HOST:PORT of a Ray cluster for data steps and runs with several
    workers; empty: this machine. `otlp_url`: the root of an OpenTelemetry collector for the gateway's traces; empty:
    none. `trusted_proxies`: networks of the proxies in front of the gateway, separated by commas. `image_hosts`: hosts
    whose images the gateway fetches for requests, separated by commas; empty: none. `cors_origins`: origins whose web
    pages may call the gateway, separated by commas; empty: none. `engine_user`: the user of engine
    processes if root starts the platform; empty: the user of the platform. `audit_checkpoints`: the second place of the
    audit log's checkpoints, a file outside the home or `syslog`; empty: none. `model_memory_bytes`: memory of all
    models that are loaded at run time; 0: most of the memory that the plan leaves. `model_idle_s`: seconds after which
    an idle one leaves the memory; 0: never. `data_workers`: processes that work on a recipe; 0: one per core.
    `residency`: the country (alpha-2) where the home and its database are; empty: unknown. `engine_measurement_s`:
    seconds for which a plan, a prediction or a start measures the engine of this machine; 0: not at all.
    """

    home: str = "~/.archwright"
    host: str = "127.0.0.1"
    port: int = 8470
    database_url: str = ""
    tls_certificate: str = ""
    tls_key: str = ""
    log_level: str = "info"
    ray_address: str = ""
    otlp_url: str = ""
    admin_port: int = 0
    cache: str = "off"
    trusted_proxies: str = ""
    image_hosts: str = ""
    cors_origins: str = ""
    engine_user: str = ""
    audit_checkpoints: str = ""
    model_memory_bytes: int = 0
    model_idle_s: int = 900
    data_workers: int = 0
    residency: str = ""
    engine_measurement_s: int = 8
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def proxy_networks(self) -> tuple[str, ...]:
        return tuple(self.trusted_proxies.replace(",", " ").split())

    @property
    def image_host_list(self) -> tuple[str, ...]:
        return tuple(host.strip().lower() for host in self.image_hosts.split(",") if host.strip())

    @property
    def cors_origin_list(self) -> tuple[str, ...]:
        return tuple(self.cors_origins.lower().replace(",", " ").split())


INTEGERS = {
    "port": 65535,
    "admin_port": 65535,
    "model_memory_bytes": 1 << 50,
    "model_idle_s": 1 << 30,
    "data_workers": 1024,
    "engine_measurement_s": 600,
}
CHOICES = {"cache": ("off", "deterministic", "all")}
NAMES = tuple(f.name for f in fields(Settings) if f.name != "sources")


def load(flags: Mapping[str, object] | None = None, folder: Path | None = None) -> Settings:
    """Load the settings in force. Raises SettingsError AW-SET-01 (unknown name), -02 (bad value), -03 (bad file)."""
    values: dict[str, object] = {}
    sources: dict[str, str] = dict.fromkeys(NAMES, "default")
    layers = [
        (FILE, _from_file((folder or Path.cwd()) / FILE)),
        ("environment", _from_environment()),
        ("flag", {k: v for k, v in (flags or {}).items() if v is not None}),
    ]
    for source, layer in layers:
        for name, value in layer.items():
            values[name] = _check_value(name, value, source)
            sources[name] = f"{PREFIX}{name.upper()}" if source == "environment" else source
    return Settings(**values, sources=sources)  # type: ignore[arg-type]


def _from_environment() -> dict[str, object]:
    return {name: value for name in NAMES if (value := os.environ.get(PREFIX + name.upper()))}


def _from_file(path: Path) -> dict[str, object]:
    if not path.is_file():
        return {}
    try:
        return dict(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        message, where = f"the file is not valid TOML: {error}", ErrorLocation(str(path))
        raise SettingsError("AW-SET-03", message, where=where, hint="correct the file") from error


def _check_value(name: str, value: object, source: str) -> object:
    where, hint = ErrorLocation(source, None, name), f"correct the setting {name}"
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
    elif name == "audit_checkpoints" and value and value != "syslog" and not Path(str(value)).is_absolute():
        message = f"{name} must be `syslog` or the full path of a file, not {value!r}"
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


def read_s3_endpoint() -> str:
    """Return AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL; the library of S3 reads the other variables itself."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")


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
    os.environ.update(DO_NOT_TRACK="1", RAY_USAGE_STATS_ENABLED="0")
