"""Ed25519 signatures, on `cryptography`. `access` decides which key signs."""

SECRET_BYTES = 32


class SigningKey:
    """A private key of Ed25519 of SECRET_BYTES; `public_key`: its public key in hex."""

    def __init__(self, secret: bytes) -> None:
        """Raises ValueError for a secret of another length."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415

        self._key = Ed25519PrivateKey.from_private_bytes(secret)
        self.public_key = self._key.public_key().public_bytes_raw().hex()

    def sign(self, data: bytes) -> str:
        return self._key.sign(data).hex()


def is_signed_by(public_key: str, data: bytes, signature: str) -> bool:
    """True if `signature` (hex) is of `data` by the owner of `public_key` (hex)."""
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415

    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key)).verify(bytes.fromhex(signature), data)
    except (ValueError, InvalidSignature):
        return False
    return True
