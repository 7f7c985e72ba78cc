"""Who vouches for a package: Ed25519 signatures (RFC 8032) over a model's name and its package's digest.

The private key belongs to what registers versions, the public one to what serves them. The digest names every byte of
the package, so nothing else needs a signature.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from include.errors import SetupError, UnsignedError

if TYPE_CHECKING:
    from pathlib import Path

_PEM_END = "-----END PUBLIC KEY-----"


def new_private_key() -> str:
    """Return a new private key as PEM (PKCS 8)."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return (
        Ed25519PrivateKey.generate()
        .private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        .decode()
    )


def public_key_of(private_pem: str) -> str:
    """Return the public key of a private one as PEM."""
    from cryptography.hazmat.primitives import serialization

    private = serialization.load_pem_private_key(private_pem.encode(), password=None)
    return (
        private.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


@dataclass(frozen=True, kw_only=True)
class Signer:
    """Signs packages with the private key of a file, which is read at each use."""

    key_file: Path

    def sign(self, *, model: str, digest: str) -> str:
        """Return the signature, in base64.

        Raises:
            SetupError: The file holds no Ed25519 key.
        """
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            key = load_pem_private_key(self.key_file.read_bytes(), password=None)
        except (OSError, ValueError, TypeError) as error:
            raise _no_key(self.key_file, f"{type(error).__name__}") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise _no_key(self.key_file, type(key).__name__)
        return base64.b64encode(key.sign(_signed(model, digest))).decode()


@dataclass(frozen=True, kw_only=True)
class Trust:
    """Checks signatures by the public keys of a file, which is read at each use; it may hold several."""

    keys_file: Path

    def require(self, *, model: str, digest: str, signature: str) -> None:
        """Refuse a package that none of the keys has signed.

        Raises:
            UnsignedError: There is no signature, or it is another model's, another package's or another key's.
            SetupError: The file holds no Ed25519 key.
        """
        from cryptography.exceptions import InvalidSignature

        keys = self._keys()
        try:
            raw = base64.b64decode(signature, validate=True)
        except ValueError:
            raw = b""
        for key in keys:
            try:
                key.verify(raw, _signed(model, digest))
            except InvalidSignature:
                continue
            return
        found = "one that no trusted key made of them" if signature else "none"
        raise UnsignedError(
            f"package {digest[:16]} of model {model!r} must bring a signature of its model and digest; got {found}. "
            "Nothing was loaded. Sign the version: `./tradewind sign MODEL@VERSION`."
        )

    def require_keys(self) -> None:
        """Refuse a file that can check nothing.

        Raises:
            SetupError: The file holds no Ed25519 key.
        """
        self._keys()

    def _keys(self) -> list[Any]:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        try:
            parts = self.keys_file.read_text().split(_PEM_END)[:-1]
            keys = [load_pem_public_key((part + _PEM_END).strip().encode()) for part in parts]
        except (OSError, ValueError) as error:
            raise _no_key(self.keys_file, type(error).__name__) from error
        if not keys or not all(isinstance(key, Ed25519PublicKey) for key in keys):
            raise _no_key(self.keys_file, ", ".join(type(key).__name__ for key in keys) or "none")
        return keys


def _signed(model: str, digest: str) -> bytes:
    """Return what is signed; neither part can hold a line break that would make two readings of it."""
    return b"tradewind package\n%d %b\n%d %b\n" % (len(model.encode()), model.encode(), len(digest), digest.encode())


def _no_key(path: Path, found: str) -> SetupError:
    return SetupError(
        f"{path} must hold an Ed25519 key as PEM; got {found}. Nothing was signed or loaded. Restore the file, or make "
        "a new pair and sign the versions again."
    )
