"""The steps of the README of target systemd, which a nightly test follows on a machine with a real systemd."""

from __future__ import annotations

import pytest
from tests.deploy.booted_machine import PACKAGES
from tests.deploy.conftest import MadeBundle
from tests.deploy.readme_steps import read_commands

from archwright import __version__


@pytest.fixture
def readme(made_bundle: MadeBundle) -> str:
    return made_bundle("desk", "systemd").files["README.md"].text


def test_the_readme_names_each_package_that_the_platform_needs(readme: str) -> None:
    install = read_commands(readme, "Before you apply")[0]
    packages = set(install.removeprefix("apt-get install ").split())
    assert packages == set(PACKAGES) - {"dbus", "systemd"}, "the machine of the nightly test has these and no more"


def test_each_section_has_the_commands_that_the_nightly_test_runs(readme: str) -> None:
    release, current = f"/opt/archwright/{__version__}", "/opt/archwright/current"
    assert read_commands(readme, "Before you apply")[1:] == [
        f"python3 -m venv {release}",
        f"{release}/bin/pip install 'archwright[local]=={__version__}'",
        f"ln -s {__version__} {current}",
    ]
    *_, enable, create_key = read_commands(readme, "Apply")
    assert enable == "systemctl enable --now archwright.target"
    assert create_key == "archwright-run key create"
    assert [command.split()[0] for command in read_commands(readme, "Upgrade")] == ["ln", "systemctl", "systemctl"]
    assert read_commands(readme, "Take down") == ["systemctl disable --now archwright.target"]


def test_commands_are_blocks_of_shell_and_spans_with_more_than_one_word() -> None:
    readme = "# A\n\n## B\n\nThe file `x`: `run x`.\n\n  ```sh\n  a\n  b\n  ```\n\n## C\n\n`no y`\n"
    assert read_commands(readme, "B") == ["run x", "a\nb\n"]
