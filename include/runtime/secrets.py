"""Passwords, keys and tokens of one deployment: random, private to the user, made once and then kept."""

from __future__ import annotations

import base64
import json
import os
import secrets
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING

from include.errors import SetupError
from include.registry import signing

if TYPE_CHECKING:
    from pathlib import Path


def _token() -> str:
    return secrets.token_urlsafe(48)


def _fernet_key() -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


@dataclass(frozen=True, kw_only=True)
class Secrets:
    """Everything that must not appear in a log; `repr` shows none of it."""

    admin_password: str = field(default_factory=lambda: secrets.token_urlsafe(15), repr=False)
    postgres_password: str = field(default_factory=_token, repr=False)
    fernet_key: str = field(default_factory=_fernet_key, repr=False)
    jwt_secret: str = field(default_factory=lambda: secrets.token_urlsafe(64), repr=False)
    api_secret_key: str = field(default_factory=_token, repr=False)
    reconciler_password: str = field(default_factory=_token, repr=False)


TOKEN_FILE = "model_server_token"  # noqa: S105 - a name
"""The model server's admin token is in a file of its own, so that replacing it rotates it."""
SIGNING_KEY = "signing_key.pem"
TRUSTED_KEYS = "trusted_keys.pem"
_ADDED = ("reconciler_password",)
"""Secrets that a deployment of an older release lacks; they are made when it is opened first."""


def load_secrets(folder: Path) -> Secrets:
    """Return the deployment's secrets; the first call makes them and the files that other programs read.

    Raises:
        SetupError: The file exists and cannot be read.
    """
    path = folder / "secrets.json"
    if not path.exists():
        made = Secrets()
        write_private(path, json.dumps(asdict(made)))
    try:
        folder.chmod(0o700)  # a copy may have come with other modes
        path.chmod(0o600)
        stored = json.loads(path.read_text())
        raw = {name: value for name, value in asdict(Secrets()).items() if name in _ADDED} | stored
        found = Secrets(**{item.name: str(raw[item.name]) for item in fields(Secrets)})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SetupError(
            f"{path} must hold the deployment's secrets; got {type(error).__name__}. Nothing was started. "
            "Restore the file; or, if its databases may be lost, remove the whole deployment folder."
        ) from error
    if not set(_ADDED) <= set(stored):
        write_private(path, json.dumps(asdict(found)))
    passwords = {"admin": found.admin_password, "reconciler": found.reconciler_password}
    write_private(folder / "airflow_passwords.json", json.dumps(passwords))
    token = folder / TOKEN_FILE
    if not token.exists():
        write_private(token, _token())
    token.chmod(0o600)
    _make_keys(folder)
    return found


def _make_keys(folder: Path) -> None:
    """Make the pair that signs packages and checks their signatures, unless it is there."""
    private, public = folder / SIGNING_KEY, folder / TRUSTED_KEYS
    if not private.exists():
        write_private(private, signing.new_private_key())
        public.unlink(missing_ok=True)
    if not public.exists():
        write_private(public, signing.public_key_of(private.read_text()))
    for key in (private, public):
        key.chmod(0o600)


def rotate_token(folder: Path) -> None:
    """Replace the model server's admin token; server, tasks and commands read its file at each use."""
    write_private(folder / TOKEN_FILE, _token())


def write_private(path: Path, text: str) -> None:
    """Write a file that only its user can read, whole or not at all."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    aside.replace(path)
