"""The database of a home, a file of SQLite or PostgreSQL: its consistent copy, and a copy made a database again.

PostgreSQL is copied by its own programs, which must be at least as new as the server. The password of the URL is passed
in the environment, because other users can read command lines.
"""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from secrets import token_hex
from typing import NamedTuple, Protocol
from urllib.parse import SplitResult, unquote, urlsplit

from archwright.access.checkpoint_anchor import ANCHORS, read_anchors
from archwright.backup.manifest import DATABASE_FILE, POSTGRES_DUMP
from archwright.errors import ErrorLocation, MissingError, OperateError
from archwright.home import Home
from archwright.settings import child_environment
from archwright.sqlite_files import copy_sqlite_file
from archwright.store import Store

MESSAGE_CHARACTERS = 300


class HomeDatabase(Protocol):
    """`file_name`: the name of the copy in a backup."""

    file_name: str

    def copy_to(self, target: Path) -> bool:
        """Write a consistent copy to a new file; False if there is no database yet."""

    def read_anchor(self, copy: Path, public_key: str) -> int:
        """Return the number of the newest checkpoint of a key that the copy states, 0 if it states none.

        Without a number, even the first checkpoint may cover later records than the copy."""


class FileDatabase:
    """A file of SQLite."""

    file_name = DATABASE_FILE

    def __init__(self, path: Path) -> None:
        self._path = path

    def copy_to(self, target: Path) -> bool:
        if not self._path.exists():
            return False
        copy_sqlite_file(self._path, target)
        return True

    def read_anchor(self, copy: Path, public_key: str) -> int:
        with closing(Store(f"sqlite:///{copy}")) as store:
            anchors = read_anchors(store)
        return max((anchor.number for anchor in anchors if anchor.public_key == public_key), default=0)


class PostgresDatabase:
    """A database of a PostgreSQL server."""

    file_name = POSTGRES_DUMP

    def __init__(self, url: str) -> None:
        self._url = url
        self._login = _read_login(url)

    def copy_to(self, target: Path) -> bool:
        """Raises MissingError AW-GET-15, OperateError AW-OPS-76."""
        target.touch(0o600, exist_ok=False)
        options = ("--format=custom", "--compress=0", "--no-owner", "--no-privileges", f"--file={target}")
        _run_program("pg_dump", self._login, (*options, f"--dbname={self._login.address}"))
        return True

    def read_anchor(self, copy: Path, public_key: str) -> int:
        options = ("--data-only", f"--table={ANCHORS.name}", "--file=-", str(copy))
        script = _run_program("pg_restore", self._login, options)
        return max(_find_anchors(script.splitlines(), public_key), default=0)

    def load_copy(self, copy: Path) -> None:
        """Make the tables of a copy in this database, which has none of them; all or nothing."""
        options = ("--no-owner", "--no-privileges", "--exit-on-error", "--single-transaction")
        _run_program("pg_restore", self._login, (*options, f"--dbname={self._login.address}", str(copy)))

    @contextmanager
    def create_scratch(self) -> Iterator[str]:
        """Yield the URL of an empty database of the same server, which is removed in the end."""
        name = f"backup_drill_{token_hex(4)}"
        server = f"--maintenance-db={self._login.address}"
        _run_program("createdb", self._login, (server, name))
        try:
            yield urlsplit(self._url)._replace(path=f"/{name}").geturl()
        finally:
            _run_program("dropdb", self._login, (server, "--force", name))


def open_database(url: str, home: Home) -> FileDatabase | PostgresDatabase:
    """Return the database of a URL of the settings; the home's own for an empty one."""
    split = urlsplit(url)
    if not split.scheme:
        return FileDatabase(home.root / DATABASE_FILE)
    if split.scheme == "sqlite":
        return FileDatabase(Path(unquote(split.path.removeprefix("/"))))
    return PostgresDatabase(url)


class _Login(NamedTuple):
    """The address of a database for its own programs, and the password, which is not in it."""

    address: str
    password: str


def _read_login(url: str) -> _Login:
    split = urlsplit(url)
    user = f"{split.username}@" if split.username else ""
    host = split.netloc.rpartition("@")[2]
    address = SplitResult("postgresql", user + host, split.path, split.query, "").geturl()
    return _Login(address, unquote(split.password or ""))


def _find_anchors(lines: Sequence[str], public_key: str) -> Iterator[int]:
    """Yield the numbers of a key in the script of pg_restore: `COPY table (columns) FROM stdin;`, rows, `\\.`."""
    columns: list[str] = []
    for line in lines:
        if line.startswith("COPY "):
            columns = line.partition("(")[2].partition(")")[0].replace('"', "").split(", ")
        elif line == "\\.":
            columns = []
        elif columns:
            row = dict(zip(columns, line.split("\t"), strict=True))
            if row["public_key"] == public_key:
                yield int(row["number"])


def _run_program(name: str, login: _Login, options: Sequence[str]) -> str:
    """Run a program of PostgreSQL and return its output."""
    environment = child_environment({"PGPASSWORD": login.password} if login.password else {})
    where = ErrorLocation(login.address)
    try:
        run = subprocess.run([name, *options], env=environment, capture_output=True, check=False)
    except FileNotFoundError as error:
        message = f"the program {name} of PostgreSQL is not installed"
        hint = "install the clients of PostgreSQL, at least as new as the server: apt-get install postgresql-client"
        raise MissingError("AW-GET-15", message, where=where, hint=hint) from error
    if run.returncode:
        reason = " ".join(run.stderr.decode("utf-8", "replace").split())[:MESSAGE_CHARACTERS]
        hint = "check address, rights and version of the database; to restore, it must be empty"
        raise OperateError("AW-OPS-76", f"{name} failed: {reason}", where=where, hint=hint)
    return run.stdout.decode("utf-8", "replace")
