"""Starts an engine process with an allow-listed environment, and as another user if one is set.

Design: an engine parses files and requests of strangers, so it gets no secret. An engine with its own user cannot
search the home (0700). It runs in a folder with hard links to its files and knows that folder as its home.
"""

import errno
import os
import pwd
import shutil
import sys
from pathlib import Path
from subprocess import PIPE, Popen
from typing import IO, Any

from archwright.contract.plan import ProcessSpec
from archwright.engines.engine_config import find_model_files
from archwright.errors import ErrorLocation, OperateError
from archwright.home import Home
from archwright.python_process import build_python_command
from archwright.settings import engine_environment

# The kernel resolves this path to the working folder, whose parents the engine's user cannot search.
OWN_ROOT = "/proc/self/cwd"


def start_engine(spec: ProcessSpec, home: Home, log: IO[bytes], user: str = "", life: int = PIPE) -> Popen[bytes]:
    """Start the engine whose configuration file is in the home; it ends with its stdin, a pipe.

    `life`: the pipe, opened for this engine alone; by default it ends with this process. `user`: the name of its
    user; empty: ours. Raises OperateError AW-OPS-23 if it cannot run as this user.
    """
    config = home.config(spec.name)
    names = {"{home}": str(home.root), "{config}": str(config)}
    environment = {"PYTHONUNBUFFERED": "1", **spec.environment}
    identity: dict[str, Any] = {}
    if user:
        account = _find_account(user)
        groups = os.getgrouplist(user, account.pw_gid)
        identity = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": groups}
        identity["cwd"] = _share_files(spec, home, account)
        names = {"{home}": OWN_ROOT, "{config}": f"{OWN_ROOT}/run/{config.name}"}
        environment["HOME"] = account.pw_dir
    argv = build_python_command(*(names.get(part, part) for part in spec.argv))
    env = engine_environment(environment)
    try:
        return Popen(argv, stdin=life, stdout=log, stderr=log, env=env, start_new_session=True, **identity)
    except PermissionError as error:
        hint = "install archwright where this user can read it, for example below /opt"
        raise _user_error(f"the user {user!r} cannot run {sys.executable}", hint) from error


def _find_account(user: str) -> pwd.struct_passwd:
    if os.geteuid() != 0:
        hint = "start archwright as root, or remove the setting engine_user"
        raise _user_error("only root can run engines as another user", hint)
    try:
        return pwd.getpwnam(user)
    except KeyError as error:
        hint = f"create it: useradd --system --shell /usr/sbin/nologin {user}"
        raise _user_error(f"there is no user {user!r}", hint) from error


def _user_error(message: str, hint: str) -> OperateError:
    return OperateError("AW-OPS-23", message, where=ErrorLocation(field="engine_user"), hint=hint)


def _share_files(spec: ProcessSpec, home: Home, account: pwd.struct_passwd) -> Path:
    """Return a new folder of the user with configuration and models; the home's socket becomes a link into it."""
    root = home.engine_root(spec.name)
    shutil.rmtree(root, ignore_errors=True)
    for folder in (root.parent, root):
        folder.mkdir(mode=0o700, exist_ok=True)
    own = Home(root)
    folders = {own.folder("models"), own.folder("run"), root}
    for source in filter(Path.is_file, find_model_files(spec.config, home)):
        link = root / source.relative_to(home.root)
        link.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folders.update(folder for folder in link.parents if folder.is_relative_to(root))
        share_model(source.resolve(), link, account.pw_gid)
    shutil.copyfile(home.config(spec.name), own.config(spec.name))
    for path in (own.config(spec.name), *folders):
        os.chown(path, account.pw_uid, account.pw_gid)
    if spec.ready_socket is not None:
        socket = home.socket(spec.ready_socket)
        socket.unlink(missing_ok=True)
        socket.symlink_to(own.folder("run") / f"{spec.ready_socket}.sock")
    return root


def share_model(source: Path, link: Path, group: int) -> None:
    """Let the group read the model, and link it into the engine's folder."""
    os.chown(source, -1, group)
    source.chmod(source.stat().st_mode | 0o040)
    try:
        os.link(source, link)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        link.symlink_to(source)  # on another file system; the user must be able to reach it there
