"""The answer about a disk: from what Linux shows of mounts and devices, in the form of a real machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from archwright.diagnosis.disk_encryption import check_disk_encryption, find_disk_encryption, find_mount

PROCESSOR = "processor\t: 0\nflags\t\t: fpu vme de pse tsc msr\n"
DISK = "devices/pci0000:00/0000:00:17.0/ata1/host0/target0:0:0/0:0:0:0/block/sda"
DRIVE = "devices/pci0000:00/0000:00:1d.0/nvme/nvme0/nvme0n1"
CRYPT, VOLUME = "devices/virtual/block/dm-0", "devices/virtual/block/dm-1"


class Machine:
    """A folder with proc, sys and dev as Linux shows them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "proc/self").mkdir(parents=True)
        (root / "proc/cpuinfo").write_text(PROCESSOR)
        for folder in ("sys/dev/block", "sys/class/block", "dev"):
            (root / folder).mkdir(parents=True)

    def add_device(
        self, number: str, path: str, files: dict[str, str] | None = None, slaves: tuple[str, ...] = ()
    ) -> None:
        folder = self.root / "sys" / path
        (folder / "slaves").mkdir(parents=True)
        (self.root / "sys/dev/block" / number).symlink_to(folder)
        (self.root / "sys/class/block" / folder.name).symlink_to(folder)
        for name, text in (files or {}).items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text + "\n")
        for slave in slaves:
            (folder / "slaves" / Path(slave).name).symlink_to(self.root / "sys" / slave)

    def mount(self, number: str, kind: str, source: str, folder: str = "/") -> None:
        with (self.root / "proc/self/mountinfo").open("a") as file:
            file.write(f"27 1 {number} / {folder} rw,relatime shared:1 - {kind} {source} rw\n")

    def answer(self, folder: str = "/srv/home") -> tuple[str, str]:
        return tuple(find_disk_encryption(Path(folder), self.root))  # type: ignore[return-value]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_partition_of_a_plain_drive_is_not_encrypted(machine: Machine) -> None:
    machine.add_device("8:0", DISK)
    machine.add_device("8:1", f"{DISK}/sda1", {"partition": "1"})
    machine.mount("8:1", "ext4", "/dev/sda1")
    answer, detail = machine.answer()
    assert answer == "no" and "sda" in detail


def test_a_logical_volume_on_dm_crypt_is_encrypted(machine: Machine) -> None:
    machine.add_device("8:0", DISK)
    machine.add_device("8:2", f"{DISK}/sda2", {"partition": "2"})
    machine.add_device("253:0", CRYPT, {"dm/uuid": "CRYPT-LUKS2-0123-main", "dm/name": "main"}, (f"{DISK}/sda2",))
    machine.add_device("253:1", VOLUME, {"dm/uuid": "LVM-0123", "dm/name": "vg-root"}, (CRYPT,))
    machine.mount("253:1", "ext4", "/dev/mapper/vg-root")
    assert machine.answer() == ("yes", "dm-crypt at main")


def test_one_plain_drive_of_an_array_is_enough_for_no(machine: Machine) -> None:
    array = "devices/virtual/block/md0"
    machine.add_device("8:0", DISK)
    machine.add_device("259:0", DRIVE)
    machine.add_device("253:0", CRYPT, {"dm/uuid": "CRYPT-LUKS2-0123-main"}, (DISK,))
    machine.add_device("9:0", array, {}, (CRYPT, DRIVE))
    machine.mount("9:0", "xfs", "/dev/md0")
    answer, detail = machine.answer()
    assert answer == "no" and "nvme0n1" in detail


def test_the_mount_of_btrfs_is_found_by_its_source(machine: Machine) -> None:
    machine.add_device("253:0", CRYPT, {"dm/uuid": "CRYPT-LUKS2-0123-main", "dm/name": "main"})
    (machine.root / "dev/mapper").mkdir()
    (machine.root / "dev/mapper/main").symlink_to("../dm-0")
    machine.mount("0:31", "btrfs", "/dev/mapper/main")
    assert machine.answer()[0] == "yes"


@pytest.mark.parametrize(
    ("number", "kind", "source"),
    [
        ("0:40", "tmpfs", "tmpfs"),
        ("0:41", "nfs4", "server:/export"),
        ("0:42", "overlay", "overlay"),
        ("254:0", "ext4", "/dev/vda"),
    ],
)
def test_what_the_kernel_does_not_show_is_unknown(machine: Machine, number: str, kind: str, source: str) -> None:
    """A provider may encrypt a virtual disk, so "no" would be a guess."""
    machine.add_device("254:0", "devices/pci0000:00/0000:00:02.0/virtio1/block/vda")
    machine.mount(number, kind, source)
    assert machine.answer()[0] == "unknown"


def test_a_drive_of_a_virtual_machine_is_unknown(machine: Machine) -> None:
    machine.add_device("259:0", DRIVE)
    (machine.root / "proc/cpuinfo").write_text(PROCESSOR.replace("msr", "msr hypervisor"))
    machine.mount("259:0", "ext4", "/dev/nvme0n1")
    assert machine.answer()[0] == "unknown"


@pytest.mark.parametrize("kind", ["ecryptfs", "fuse.gocryptfs"])
def test_a_file_system_that_encrypts_is_enough(machine: Machine, kind: str) -> None:
    machine.add_device("8:0", DISK)
    machine.mount("8:0", "ext4", "/dev/sda")
    machine.mount("0:50", kind, "/srv/.hidden", "/srv/home")
    assert machine.answer()[0] == "yes"
    assert machine.answer("/srv/homes")[0] == "no", "a folder with a longer name is not below the mount"


def test_the_last_of_two_mounts_on_a_folder_counts() -> None:
    lines = "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 8:2 / /a\\040b rw - ext4 /dev/sda2 rw\n"
    lines += "3 1 0:9 / /a\\040b rw - tmpfs tmpfs rw\n"
    assert find_mount(Path("/a b/c"), lines).device == "0:9"
    assert find_mount(Path("/a"), lines).device == "8:1"


def test_this_machine_gets_an_answer(tmp_path: Path) -> None:
    found = find_disk_encryption(tmp_path)
    assert found.answer in ("yes", "no", "unknown") and found.detail
    shown = check_disk_encryption(tmp_path)
    assert shown.state == {"yes": "ok", "no": "warning", "unknown": "unknown"}[found.answer]
    assert bool(shown.hint) == (found.answer == "no")
