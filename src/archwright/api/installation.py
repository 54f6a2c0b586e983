"""The state of this installation: `doctor`, `settings`."""

import ctypes.util
import importlib.util
import shutil
import sys

from archwright import settings as configuration
from archwright.api.context import describe_second_place
from archwright.api.model_files import list_model_files
from archwright.contract.record import Record
from archwright.engines.engine_sandbox import list_missing_controls
from archwright.home import Home, locate_home
from archwright.operate import platform_control, readiness_probe
from archwright.operate.gateway_record import list_gateways, list_pools
from archwright.serving.routing.model_tokens import list_unprotected_pools

DISK_NEEDED_BYTES = 1_000_000_000


class Setting(Record):
    name: str
    value: str
    source: str


def settings() -> tuple[Setting, ...]:
    chosen = configuration.load()
    values = {name: _mask_password(name, getattr(chosen, name)) for name in configuration.NAMES}
    return tuple(Setting(name=name, value=value, source=chosen.sources[name]) for name, value in values.items())


def _mask_password(name: str, value: object) -> str:
    text = str(value)
    if name == "database_url" and "@" in text:
        scheme, _, rest = text.partition("://")
        return f"{scheme}://***@{rest.rpartition('@')[2]}"
    return text


class DoctorCheck(Record):
    """One requirement of `up`; `hint`: what to do if it is missing."""

    name: str
    ok: bool
    detail: str
    hint: str = ""


def doctor() -> tuple[DoctorCheck, ...]:
    chosen = configuration.load()
    home = locate_home(chosen)
    free = shutil.disk_usage(home.folder()).free
    openmp = sys.platform != "linux" or ctypes.util.find_library("gomp") is not None
    return (
        DoctorCheck(name="python", ok=sys.version_info >= (3, 11), detail=sys.version.split()[0]),
        _check_package("xllamacpp", "engine"),
        _check_package("numpy", "probe"),
        _build_check("openmp", openmp, f"libgomp {'found' if openmp else 'missing'}", "apt-get install libgomp1"),
        _check_model(home),
        _build_check("disk", free >= DISK_NEEDED_BYTES, f"{free / 1e9:.1f} GB free", "free 1 GB"),
        _check_port(home, chosen.host, chosen.port),
        _check_special_tokens(home),
        _check_sandbox(),
        DoctorCheck(name="audit", ok=True, detail=f"second place of checkpoints: {describe_second_place(chosen)}"),
    )


def _build_check(name: str, ok: bool, detail: str, hint: str) -> DoctorCheck:
    return DoctorCheck(name=name, ok=ok, detail=detail, hint="" if ok else hint)


def _check_package(name: str, purpose: str) -> DoctorCheck:
    here = importlib.util.find_spec(name) is not None
    return _build_check(
        purpose, here, f"{name} {'installed' if here else 'missing'}", "pip install 'archwright[local]'"
    )


def _check_model(home: Home) -> DoctorCheck:
    """A machine that serves needs no file in this home: engines have a home of their own, or run elsewhere."""
    files = list_model_files(home)
    here = [file.model for file in files if file.here]
    is_serving = platform_control.read_status(home).url is not None or bool(list_gateways(home))
    if is_serving and not here:
        served = ", ".join(dict.fromkeys(pool.model for pool in list_pools(home)))
        return DoctorCheck(name="model", ok=True, detail=f"served, with its files outside this home: {served}")
    return _build_check(
        "model", bool(here), ", ".join(here) or "none fetched", f"archwright models fetch {files[0].model}"
    )


def _check_sandbox() -> DoctorCheck:
    """Name the controls of the kernel that engines run without."""
    missing = list_missing_controls()
    detail = f"this kernel lacks {', '.join(missing)}" if missing else "Landlock and seccomp restrict engines"
    hint = "use Linux 6.12 or newer with Landlock (kernel parameter lsm=landlock,...), on x86-64 or ARM64"
    return _build_check("sandbox", not missing, detail, hint)


def _check_port(home: Home, host: str, port: int) -> DoctorCheck:
    running = platform_control.read_status(home)
    if running.url is not None:
        return DoctorCheck(name="port", ok=True, detail=f"the platform runs at {running.url}")
    free = port == 0 or readiness_probe.is_port_free(host, port)
    return _build_check("port", free, f"{host}:{port} {'free' if free else 'in use'}", "archwright up --port 0")


def _check_special_tokens(home: Home) -> DoctorCheck:
    """Name the pools whose engines may read special tokens in texts."""
    pools = list_unprotected_pools(list_pools(home), home)
    if not pools:
        return DoctorCheck(name="special tokens", ok=True, detail="no pool reads them in texts of users")
    hint = "run these models with archwright, or check that their engines read special tokens in messages as text"
    return DoctorCheck(name="special tokens", ok=False, detail=f"not protected: {', '.join(pools)}", hint=hint)
