"""The key of a repository: an identity of age, which encrypts its objects, names them and authenticates manifests.

The user holds the identity (`AGE-SECRET-KEY-1...`), or a passphrase that encrypts an identity in the repository.
Design: a public key alone could encrypt, but anyone who knows it could forge a backup. Therefore the secret key
authenticates names and manifests, and the machine that backs up must read it.
"""

import hashlib
import hmac
from typing import Any

from archwright.backup.manifest import RepositoryHead, damaged_error
from archwright.errors import ErrorLocation, OperateError

IDENTITY_PREFIX = "AGE-SECRET-KEY-1"
LEAST_PASSPHRASE_LENGTH = 16
EXCESSIVE_WORK = "Excessive work"
MEASUREMENTS = 10


class BackupKey:
    """Encrypts, decrypts, names and authenticates the objects of one repository."""

    def __init__(self, identity: Any) -> None:
        secret = str(identity).encode()
        self._identity = identity
        self._recipient = identity.to_public()
        self._naming_key = hmac.digest(secret, b"archwright backup: names of objects", "sha256")
        self._manifest_key = hmac.digest(secret, b"archwright backup: manifests", "sha256")

    @property
    def recipient(self) -> str:
        return str(self._recipient)

    def name_piece(self, data: bytes) -> str:
        """Return the name of an object: a digest of its content that tells nothing without the key."""
        return hmac.digest(self._naming_key, hashlib.sha256(data).digest(), "sha256").hex()

    def authenticate(self, name: str, data: bytes) -> bytes:
        return hmac.digest(self._manifest_key, name.encode() + b"\0" + data, "sha256")

    def encrypt(self, data: bytes) -> bytes:
        import pyrage  # noqa: PLC0415

        encrypted: bytes = pyrage.encrypt(data, [self._recipient])
        return encrypted

    def decrypt(self, data: bytes, name: str) -> bytes:
        """Raises OperateError AW-OPS-82 if a byte was changed."""
        import pyrage  # noqa: PLC0415

        try:
            decrypted: bytes = pyrage.decrypt(data, [self._identity])
        except pyrage.DecryptError as error:
            raise damaged_error(name, "an object cannot be decrypted") from error
        return decrypted


def create_key(secret: str) -> tuple[RepositoryHead, BackupKey]:
    """Return the head of a new repository and its key. Raises OperateError AW-OPS-81."""
    import pyrage  # noqa: PLC0415

    if secret.startswith(IDENTITY_PREFIX):
        key = BackupKey(_parse_identity(secret))
        return RepositoryHead(recipient=key.recipient), key
    if len(secret) < LEAST_PASSPHRASE_LENGTH:
        raise _key_error(f"the passphrase has fewer than {LEAST_PASSPHRASE_LENGTH} characters")
    identity = pyrage.x25519.Identity.generate()
    sealed: bytes = pyrage.passphrase.encrypt(str(identity).encode(), secret)
    key = BackupKey(identity)
    return RepositoryHead(recipient=key.recipient, sealed_key=sealed.hex()), key


def open_key(secret: str, head: RepositoryHead) -> BackupKey:
    """Return the key of a repository. Raises OperateError AW-OPS-81 for another key, or another passphrase."""
    identity = secret
    if not secret.startswith(IDENTITY_PREFIX):
        identity = _open_sealed_key(secret, head)
    key = BackupKey(_parse_identity(identity))
    if key.recipient != head.recipient:
        raise _key_error("this key does not open the backups of this place")
    return key


def _open_sealed_key(passphrase: str, head: RepositoryHead) -> str:
    """Return the identity that a passphrase encrypts.

    age measures this machine first, and refuses a passphrase whose check would take it long. If other programs run,
    the measurement is wrong at times."""
    import pyrage  # noqa: PLC0415

    for _ in range(MEASUREMENTS):
        try:
            opened: bytes = pyrage.passphrase.decrypt(bytes.fromhex(head.sealed_key), passphrase)
            return opened.decode()
        except (ValueError, pyrage.DecryptError) as error:
            if not str(error).startswith(EXCESSIVE_WORK):
                raise _key_error("this passphrase does not open the backups of this place") from error
    hint = "run the command when the machine is less busy, or on a faster machine"
    message = "the passphrase cannot be checked: this machine is too slow, or too busy"
    raise OperateError("AW-OPS-81", message, where=ErrorLocation(field="backup_key"), hint=hint)


def _parse_identity(text: str) -> Any:
    import pyrage  # noqa: PLC0415

    try:
        return pyrage.x25519.Identity.from_str(text)
    except pyrage.IdentityError as error:
        raise _key_error("the key is no identity of age") from error


def _key_error(message: str) -> OperateError:
    hint = "check the setting backup_key, or pass --key: env:NAME, file:PATH or command:[...]"
    return OperateError("AW-OPS-81", message, where=ErrorLocation(field="backup_key"), hint=hint)
