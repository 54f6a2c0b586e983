"""The state of this installation: `doctor`, `home`, `settings`."""

import ctypes.util
import importlib.util
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

from archwright import settings as configuration
from archwright.api.context import describe_second_place
from archwright.api.model_files import list_model_files
from archwright.contract.diagnosis import DoctorCheck, HomeReport
from archwright.contract.record import Record
from archwright.diagnosis.check_results import make_failure, make_ok, make_warning
from archwright.diagnosis.deep_checks import list_deep_checks, list_secret_files
from archwright.diagnosis.home_modes import check_modes
from archwright.diagnosis.home_size import describe_home
from archwright.diagnosis.served_gateways import (
    RunningGateway,
    join_urls,
    list_running_gateways,
    read_settings_in_force,
)
from archwright.engines.engine_sandbox import list_missing_controls
from archwright.home import Home, locate_home
from archwright.operate import readiness_probe
from archwright.operate.gateway_record import list_pools
from archwright.serving.routing.model_tokens import list_unprotected_pools
from archwright.settings import Settings, locate_root

DISK_NEEDED_BYTES = 1_000_000_000
DISK_LOW_BYTES = 10_000_000_000
DISK_LOW_SHARE = 0.1


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


def doctor(*, deep: bool = False) -> tuple[DoctorCheck, ...]:
    """Check the requirements of `up`. `deep`: check also secrets, databases, audit log, clock, TLS, backups and disk.

    Raises SettingsError AW-SET-05 to AW-SET-10 for a home that this user cannot use."""
    chosen = configuration.load()
    root = locate_root(chosen.home)
    modes = check_modes(root, list_secret_files(chosen))  # before the home is opened, which corrects them
    home = locate_home(chosen)
    home.folder()
    requirements = tuple(_check_requirements(home, chosen))
    if not deep:
        return requirements
    return (*requirements, modes, *list_deep_checks(home, chosen))


def home(*, size: bool = False) -> HomeReport:
    """Return where the home is, and with `size` what takes its space and how to remove it."""
    located = locate_home(configuration.load())
    located.folder()
    return describe_home(located, detailed=size)


def _check_requirements(home: Home, chosen: Settings) -> Iterator[DoctorCheck]:
    gateways = list_running_gateways(home)
    yield _build_check("python", sys.version_info >= (3, 11), sys.version.split()[0], "install Python 3.11 or newer")
    # Engines of a gateway that runs have a home of their own, or run elsewhere.
    if not gateways:
        openmp = sys.platform != "linux" or ctypes.util.find_library("gomp") is not None
        yield _check_package("xllamacpp", "engine")
        yield _check_package("numpy", "probe")
        yield _build_check("openmp", openmp, f"libgomp {'found' if openmp else 'missing'}", "apt-get install libgomp1")
    yield _check_model(home, is_serving=bool(gateways))
    yield _check_space(home)
    yield _check_port(gateways, chosen.host, chosen.port)
    yield _check_special_tokens(home)
    yield _check_kernel()
    in_force = replace(chosen, audit_checkpoints=read_settings_in_force(home, chosen).audit_checkpoints)
    yield make_ok("audit", f"second place of checkpoints: {describe_second_place(in_force)}")


def _build_check(name: str, is_met: bool, detail: str, hint: str) -> DoctorCheck:
    return make_ok(name, detail) if is_met else make_failure(name, detail, hint)


def _check_package(name: str, purpose: str) -> DoctorCheck:
    here = importlib.util.find_spec(name) is not None
    detail = f"{name} {'installed' if here else 'missing'}"
    return _build_check(purpose, here, detail, "pip install 'archwright[local]'")


def _check_model(home: Home, *, is_serving: bool) -> DoctorCheck:
    files = list_model_files(home)
    here = [file.model for file in files if file.here]
    if is_serving and not here:
        served = sorted({pool.model for pool in list_pools(home)})
        return make_ok("model", f"served, with its files outside this home: {', '.join(served)}")
    detail = ", ".join(here) or "none fetched"
    return _build_check("model", bool(here), detail, f"archwright models fetch {files[0].model}")


def _check_space(home: Home) -> DoctorCheck:
    disk = shutil.disk_usage(home.root)
    detail = f"{disk.free / 1e9:,.1f} GB free, {disk.free / disk.total:.0%} of the disk"
    if disk.free < DISK_NEEDED_BYTES:
        return make_failure("disk", detail, "free 1 GB")
    if disk.free < min(DISK_LOW_BYTES, disk.total * DISK_LOW_SHARE):
        return make_warning("disk", detail, "free space, or extend the disk")
    return make_ok("disk", detail)


def _check_kernel() -> DoctorCheck:
    """Name the controls of the kernel that engines run without."""
    missing = list_missing_controls()
    if not missing:
        return make_ok("sandbox", "Landlock and seccomp restrict engines")
    hint = "use Linux 6.12 or newer with Landlock (kernel parameter lsm=landlock,...), on x86-64 or ARM64"
    return make_warning("sandbox", f"this kernel lacks {', '.join(missing)}", hint)


def _check_port(gateways: Sequence[RunningGateway], host: str, port: int) -> DoctorCheck:
    if gateways:
        return make_ok("port", f"gateways run at {join_urls(gateways)}")
    if port and not readiness_probe.is_port_free(host, port):
        return make_failure("port", f"{host}:{port} in use", "archwright up --port 0")
    return make_ok("port", f"{host}:{port} free")


def _check_special_tokens(home: Home) -> DoctorCheck:
    """Name the pools whose engines may read special tokens in texts."""
    pools = list_unprotected_pools(list_pools(home), home)
    if not pools:
        return make_ok("special tokens", "no pool reads them in texts of users")
    hint = "run these models with archwright, or check that their engines read special tokens in messages as text"
    return make_warning("special tokens", f"not protected: {', '.join(pools)}", hint)
