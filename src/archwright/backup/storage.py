"""Places of backups: a folder, or a prefix of a bucket of S3. Both store whole objects under names with slashes."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from archwright.errors import ErrorLocation, OperateError, from_os_error
from archwright.home import write_atomic
from archwright.lake.lazy_modules import pa_fs
from archwright.lake.sources import s3_source

ABSENT = (errno.ENOENT, errno.ENOTDIR)


class BackupStorage(Protocol):
    """Objects by name. `write` shows an object only when it is complete."""

    address: str

    def read(self, name: str) -> bytes | None:
        """Return the object, None if it is absent."""

    def write(self, name: str, data: bytes) -> None: ...

    def list_names(self, prefix: str) -> list[str]:
        """Return the sorted names below the prefix, a name without a slash at its end."""

    def remove(self, name: str) -> None: ...


class FolderStorage:
    """A folder of this machine: a disk, or a mounted file system."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder)
        self._folder = folder

    def read(self, name: str) -> bytes | None:
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        if not self._folder.is_dir():
            self._folder.mkdir(mode=0o700, parents=True)
        write_atomic(self._folder / name, data)

    def list_names(self, prefix: str) -> list[str]:
        found = (self._folder / prefix).rglob("*")
        visible = (path for path in found if not path.name.startswith(".") and path.is_file())
        return sorted(path.relative_to(self._folder).as_posix() for path in visible)

    def remove(self, name: str) -> None:
        (self._folder / name).unlink(missing_ok=True)


class BucketStorage:
    """A prefix of a bucket of S3, by the client of the lake; the client's variables hold the credentials."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._prefix = address.removeprefix(s3_source.SCHEME).rstrip("/")
        self._bucket: Any = s3_source.open_bucket()

    def read(self, name: str) -> bytes | None:
        with self._translate_errors():
            try:
                with self._bucket.open_input_stream(f"{self._prefix}/{name}") as stream:
                    data: bytes = stream.read()
                    return data
            except OSError as error:
                if error.errno in ABSENT:
                    return None
                raise

    def write(self, name: str, data: bytes) -> None:
        with self._translate_errors(), self._bucket.open_output_stream(f"{self._prefix}/{name}") as stream:
            stream.write(data)

    def list_names(self, prefix: str) -> list[str]:
        selector = pa_fs.FileSelector(f"{self._prefix}/{prefix}", allow_not_found=True, recursive=True)
        with self._translate_errors():
            found = self._bucket.get_file_info(selector)
        start = f"{self._prefix}/"
        return sorted(entry.path.removeprefix(start) for entry in found if entry.is_file)

    def remove(self, name: str) -> None:
        with self._translate_errors():
            self._bucket.delete_file(f"{self._prefix}/{name}")

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise from_os_error(error) from error
            reason = " ".join(str(error).split())[:300]
            hint = "check bucket, AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            message = f"S3 refused: {reason}"
            raise OperateError("AW-OPS-89", message, where=ErrorLocation(self.address), hint=hint) from error


def open_storage(address: str) -> BackupStorage:
    """Return the place: an address s3://BUCKET/PREFIX, else a folder."""
    if address.startswith(s3_source.SCHEME):
        return BucketStorage(address)
    return FolderStorage(Path(address).absolute())
