"""Rights of an engine on the machine: its process parses model files and texts of strangers.

Design: an engine gives its rights up itself, before it reads a model file and before threads start. Without root it
keeps: reading libraries, its model and its log, its accelerators, and a folder for its socket. It starts no program,
opens no network socket, and signals no other process. A kernel that lacks a control runs the engine without it, and
`archwright doctor` names what is missing; a control that the kernel has and refuses stops the engine.
"""

import os
import socket
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from archwright.engines.engine_config import EngineConfig
from archwright.engines.landlock import (
    SCOPES_SINCE,
    TCP_SINCE,
    FileRight,
    FileRule,
    read_landlock_version,
    restrict_files,
)
from archwright.engines.process_restrictions import gain_no_privileges
from archwright.engines.service_notification import ServiceNotifier
from archwright.engines.system_call_filter import CallRule, has_call_filters, install_call_filter, own_process_rules
from archwright.errors import EngineError, ErrorLocation
from archwright.home import Home, list_cache_folders
from archwright.settings import read_library_path

READABLE = FileRight.READ | FileRight.LIST
USABLE = READABLE | FileRight.WRITE | FileRight.CONTROL_DEVICE
SOCKETS = FileRight.MAKE_SOCKET | FileRight.REMOVE_FILE
WRITABLE = ~FileRight.EXECUTE & ~FileRight.CONTROL_DEVICE
LIBRARY_FOLDERS = (
    *("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/local/lib64", "/usr/local/cuda", "/opt/rocm"),
    *("/usr/share/zoneinfo", "/usr/share/vulkan", "/etc/vulkan", "/etc/OpenCL", "/etc/ld.so.cache", "/etc/localtime"),
)
# Libraries read these about processors, memory limits and accelerators. `self` is this process only.
MACHINE_FACTS = ("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/driver/nvidia", "/sys")
RANDOM_SOURCES = ("/dev/random", "/dev/urandom", "/dev/zero")
DEVICES = ("null", "nvidia*", "dri", "kfd")
# A server that is started as a program may use these.
PROGRAM_FOLDERS = ("/bin", "/usr", "/etc", "/proc")
STANDARD_ERROR = 2
# No engine needs these: programs, other ways to a socket, other roots, modules and parts of the kernel.
PROGRAM_CALLS = ("execve", "execveat")
# Memory, queues and semaphores that processes of one user share by a number or a name.
SHARING_CALLS = (
    *("shmget", "shmat", "shmctl", "msgget", "msgsnd", "msgrcv", "msgctl"),
    *("semget", "semop", "semctl", "semtimedop", "mq_open", "mq_unlink"),
)
# The mode of the life line keeps an engine from writing to it (operate/supervisor_process.py).
MODE_CALLS = ("chmod", "fchmod", "fchmodat", "fchmodat2")
KERNEL_CALLS = (
    *("io_uring_setup", "io_uring_enter", "io_uring_register"),
    *("mount", "umount2", "move_mount", "open_tree", "fsopen", "pivot_root", "chroot", "setns", "unshare"),
    *("open_by_handle_at", "bpf", "perf_event_open", "userfaultfd", "add_key", "request_key", "keyctl"),
    *("init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "reboot", "swapon", "swapoff"),
)
# A stream sends nothing without a connection; a datagram names its receiver, such as the log of the machine.
STREAM_TYPES = tuple(
    int(socket.SOCK_STREAM) | flags
    for flags in (0, os.O_CLOEXEC, os.O_NONBLOCK, os.O_CLOEXEC | os.O_NONBLOCK)  # SOCK_CLOEXEC and SOCK_NONBLOCK
)
NETWORK_FAMILIES = ("AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK")


def list_missing_controls() -> tuple[str, ...]:
    """Return the names of the controls that this kernel does not offer to engines. Raises OSError."""
    version = read_landlock_version()
    holds = {
        "Landlock": version > 0,
        "Landlock for TCP": version >= TCP_SINCE,
        "Landlock for signals": version >= SCOPES_SINCE,
        "seccomp": has_call_filters(),
    }
    return tuple(name for name, held in holds.items() if not held)


def confine_engine(config: EngineConfig, home: Home, *, starts_programs: bool = False, connects: bool = False) -> None:
    """Give up every right that the engine does not need. Call it before threads start.

    `starts_programs`: the engine is a server of its own with child processes, which uses the network and caches.
    `connects`: the process is a proxy, which connects to Unix sockets.
    Raises EngineError AW-ENG-23 if the kernel has a control and refuses it.
    """
    try:
        _require_single_thread()
        gain_no_privileges()
        version = read_landlock_version()
        if version:
            rules = list_file_rules(config, home, starts_programs=starts_programs)
            restrict_files(rules, version, tcp_refused=not starts_programs)
        if has_call_filters():
            install_call_filter(
                list_call_rules(starts_programs=starts_programs, connects=connects), others_refused=False
            )
    except OSError as error:
        message = f"the engine cannot give up its rights: {error.strerror or error}"
        hint = "run `archwright doctor`, then look for limits that a container or service manager sets"
        raise EngineError("AW-ENG-23", message, where=ErrorLocation(field=config.socket), hint=hint) from error


def _require_single_thread() -> None:
    """Raise OSError if another thread runs: it would keep its rights."""
    if sys.platform == "linux" and len(os.listdir("/proc/self/task")) > 1:
        raise OSError("threads have started already")


def list_file_rules(config: EngineConfig, home: Home, *, starts_programs: bool) -> Iterator[FileRule]:
    """Yield the files and folders that the engine keeps, with its rights on them."""
    for path in (*_list_library_folders(home), *_to_paths(MACHINE_FACTS), *_to_paths(RANDOM_SOURCES)):
        yield FileRule(path, READABLE)
    for pattern in DEVICES:
        for path in Path("/dev").glob(pattern):
            yield FileRule(path, USABLE)
    for digest in filter(None, (config.model_sha256, config.adapter_sha256)):
        folder = home.model_folder(digest)
        for path in (home.model(digest), home.model(digest, "onnx"), folder, *folder.rglob("*")):
            yield FileRule(path, READABLE)
    if stat.S_ISREG(os.fstat(STANDARD_ERROR).st_mode):
        yield FileRule(Path(f"/proc/self/fd/{STANDARD_ERROR}"), FileRight.READ)
    yield FileRule(home.engine_socket(config.socket).parent, SOCKETS)
    if starts_programs:
        yield from _list_program_rules(home)


def _list_program_rules(home: Home) -> Iterator[FileRule]:
    for path in (*_list_library_folders(home), *_to_paths(PROGRAM_FOLDERS), Path(sys.prefix)):
        if not home.root.is_relative_to(path):
            yield FileRule(path, READABLE | FileRight.EXECUTE)
    for path in (*list_cache_folders(), Path(tempfile.gettempdir()), Path("/dev/shm")):
        if not home.root.is_relative_to(path):
            yield FileRule(path, WRITABLE)


def _list_library_folders(home: Home) -> list[Path]:
    """Return the folders with code, except a folder that holds the home: its secrets would be readable."""
    modules = sys.path if sys.flags.safe_path else sys.path[1:]  # otherwise the first is the working folder
    interpreter = [Path(prefix) / "lib" for prefix in (sys.prefix, sys.base_prefix)]
    package = Path(__file__).parents[1]
    folders = [*_to_paths(LIBRARY_FOLDERS), *interpreter, package, *_to_paths(filter(None, modules))]
    folders += _to_paths(read_library_path())
    root = home.root.resolve()
    return [folder for folder in folders if not root.is_relative_to(folder.resolve())]


def _to_paths(names: Iterable[str]) -> list[Path]:
    return [Path(name) for name in names]


def list_call_rules(*, starts_programs: bool, connects: bool) -> list[CallRule]:
    """Return what the engine may not ask of the kernel."""
    rules = [CallRule(name, True) for name in KERNEL_CALLS]
    families = NETWORK_FAMILIES if starts_programs else ("AF_UNIX",)
    numbers = tuple(int(getattr(socket, name)) for name in families)
    rules += [CallRule(name, False, 0, numbers) for name in ("socket", "socketpair")]
    if starts_programs:
        return rules
    rules += [CallRule(name, True) for name in (*PROGRAM_CALLS, *MODE_CALLS, *SHARING_CALLS)]
    rules += own_process_rules()
    # Under a service manager a thread asks the engine's own socket for its health, and sends datagrams to the manager.
    is_managed = ServiceNotifier().is_managed
    if not is_managed:
        rules += [CallRule(name, False, 1, STREAM_TYPES) for name in ("socket", "socketpair")]
    if not connects and not is_managed:
        # Behind a socket of the machine may be a service that starts programs for this user, such as D-Bus.
        rules.append(CallRule("connect", True))
    return rules
