"""Is the disk below a folder encrypted, as far as this system shows it: yes, no or unknown.

Linux shows the devices below a mount in sysfs. Encryption by a cloud provider, a hypervisor or a drive itself is not
visible, so a virtual disk without encryption of our kernel is unknown.
"""

import ctypes
import fcntl
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal, NamedTuple

from archwright.contract.diagnosis import DoctorCheck
from archwright.diagnosis.check_results import make_ok, make_unknown, make_warning

NAME = "disk encryption"
ENCRYPTING_FILE_SYSTEMS = {"ecryptfs", "fuse.gocryptfs", "fuse.encfs", "fuse.cryfs"}
ENCRYPTED_DEVICE = "CRYPT-"  # the start of the UUID of a device of dm-crypt
# Parts of the paths of virtual disks in sysfs, and of devices that other machines or programs provide.
VIRTUAL_DEVICE = re.compile(r"/virtio|/vbd-|/VMBUS:|/devices/virtual/|/session\d+/")
GET_FLAGS = 0x80086601  # FS_IOC_GETFLAGS
ENCRYPTED_FOLDER = 0x800  # FS_ENCRYPT_FL, set by fscrypt
HINT = (
    "move the home to an encrypted file system: cryptsetup luksFormat DEVICE; or to a volume that the provider encrypts"
)

EncryptionAnswer = Literal["yes", "no", "unknown"]


class DiskEncryption(NamedTuple):
    answer: EncryptionAnswer
    detail: str


class Mount(NamedTuple):
    """A mount: its device as MAJOR:MINOR, folder, type of file system, and source."""

    device: str
    folder: str
    kind: str
    source: str


def check_disk_encryption(folder: Path) -> DoctorCheck:
    found = find_disk_encryption(folder)
    if found.answer == "yes":
        return make_ok(NAME, f"yes: {found.detail}")
    if found.answer == "no":
        return make_warning(NAME, f"no: {found.detail}", HINT)
    return make_unknown(NAME, f"unknown: {found.detail}")


def find_disk_encryption(folder: Path, system: Path = Path("/")) -> DiskEncryption:
    """`system`: the folder with proc, sys and dev of the machine."""
    if sys.platform == "darwin":
        return _ask_file_vault()
    if sys.platform != "linux":
        return DiskEncryption("unknown", f"{sys.platform} does not show it")
    mount = find_mount(folder.resolve(), (system / "proc/self/mountinfo").read_text("utf-8", "replace"))
    if mount.kind in ENCRYPTING_FILE_SYSTEMS:
        return DiskEncryption("yes", f"{mount.folder} is of {mount.kind}")
    if _is_encrypted_folder(folder):
        return DiskEncryption("yes", "the file system encrypts this folder (fscrypt)")
    if mount.kind == "zfs":
        return _ask_zfs(mount.source)
    device = _find_device(mount, system)
    if device is None:
        return DiskEncryption("unknown", f"{mount.folder} is of {mount.kind}, which has no disk of this machine")
    return _DeviceTree(system).examine(device)


def find_mount(folder: Path, mountinfo: str) -> Mount:
    """Return the mount of a folder: the last one with the longest path. The root is always mounted."""
    best = Mount("0:0", "", "unknown", "")
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        device, _root, point = before.split()[2:5]
        kind, source = after.split()[:2]
        mount = Mount(device, _decode_octals(point), kind, _decode_octals(source))
        if folder.is_relative_to(mount.folder) and len(mount.folder) >= len(best.folder):
            best = mount
    return best


def _decode_octals(text: str) -> str:
    """The kernel writes a blank as \\040."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def _find_device(mount: Mount, system: Path) -> Path | None:
    """Return the folder of the mount's device in sysfs; None for a file system without one, such as NFS."""
    by_number = system / "sys/dev/block" / mount.device
    if by_number.exists():
        return by_number.resolve()
    # Btrfs numbers its mounts itself.
    source = system / mount.source.removeprefix("/")
    by_name = system / "sys/class/block" / source.resolve().name
    return by_name.resolve() if mount.source.startswith("/dev/") and by_name.exists() else None


class _DeviceTree:
    """A block device and those below it, in sysfs."""

    def __init__(self, system: Path) -> None:
        self._system = system

    def examine(self, device: Path) -> DiskEncryption:
        """Encrypted is a device whose data all pass dm-crypt."""
        if _read(device / "dm/uuid").startswith(ENCRYPTED_DEVICE):
            return DiskEncryption("yes", f"dm-crypt at {_read(device / 'dm/name') or device.name}")
        backing_file = _read(device / "loop/backing_file")
        if backing_file:
            return find_disk_encryption(Path(backing_file).parent, self._system)
        if (device / "partition").exists():
            return self.examine(device.parent)
        slaves = sorted((device / "slaves").iterdir()) if (device / "slaves").is_dir() else []
        if not slaves:
            return self._examine_disk(device)
        below = [self.examine(slave.resolve()) for slave in slaves]
        return min(below, key=lambda found: ("no", "unknown", "yes").index(found.answer))

    def _examine_disk(self, disk: Path) -> DiskEncryption:
        if VIRTUAL_DEVICE.search(f"/{disk.relative_to(self._system.resolve())}") or self._is_virtual_machine():
            return DiskEncryption("unknown", f"{disk.name} is a virtual disk; its provider may encrypt it")
        return DiskEncryption(
            "no", f"the kernel does not encrypt {disk.name}; a drive that encrypts itself is not visible"
        )

    def _is_virtual_machine(self) -> bool:
        flags = _read(self._system / "proc/cpuinfo")
        return bool(re.search(r"^flags\s*:.*\bhypervisor\b", flags, re.MULTILINE))


def _read(file: Path) -> str:
    """Return the text of a file; empty if it is absent."""
    try:
        return file.read_text("utf-8", "replace").strip()
    except OSError:
        return ""


def _is_encrypted_folder(folder: Path) -> bool:
    flags = ctypes.c_long(0)
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.ioctl(descriptor, GET_FLAGS, flags)
    except OSError:  # this file system has no flags
        return False
    finally:
        os.close(descriptor)
    return bool(flags.value & ENCRYPTED_FOLDER)


def _ask_zfs(data_set: str) -> DiskEncryption:
    program = shutil.which("zfs")
    command = [program or "zfs", "get", "-H", "-o", "value", "encryption", data_set]
    run = subprocess.run(command, capture_output=True, text=True, check=False) if program else None
    if run is None or run.returncode:
        return DiskEncryption("unknown", f"the program zfs does not tell about {data_set}")
    method = run.stdout.strip()
    return DiskEncryption("no" if method == "off" else "yes", f"encryption of {data_set} is {method}")


def _ask_file_vault() -> DiskEncryption:
    run = subprocess.run(["/usr/bin/fdesetup", "isactive"], capture_output=True, text=True, check=False)
    answer = run.stdout.strip()
    answers: dict[str, EncryptionAnswer] = {"true": "yes", "false": "no"}
    return DiskEncryption(answers.get(answer, "unknown"), f"FileVault: {answer or 'no answer'}")
