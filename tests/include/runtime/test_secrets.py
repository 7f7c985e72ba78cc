"""What is secret stays private in files, on command lines, in messages and in logs."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pytest

from include.doctor.deployment import check_database
from include.errors import ServiceError, SetupError
from include.registry.signing import Signer, Trust
from include.runtime import stack
from include.runtime.databases import Database, databases_of
from include.runtime.secrets import SIGNING_KEY, TOKEN_FILE, TRUSTED_KEYS, load_secrets

if TYPE_CHECKING:
    from pathlib import Path

PASSWORD = "hunter2"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_files_that_were_copied_open_are_closed_again(tmp_path: Path) -> None:
    load_secrets(tmp_path)
    tmp_path.chmod(0o755)
    for file in tmp_path.iterdir():
        file.chmod(0o644)
    load_secrets(tmp_path)
    assert mode(tmp_path) == 0o700
    assert {mode(file) for file in tmp_path.iterdir()} == {0o600}


def test_keys_and_token_are_made_once_and_then_kept(tmp_path: Path) -> None:
    def read() -> dict[str, str]:
        load_secrets(tmp_path)
        return {file.name: file.read_text() for file in tmp_path.iterdir()}

    made = read()
    assert {TOKEN_FILE, SIGNING_KEY, TRUSTED_KEYS} <= set(made)
    assert read() == made
    (tmp_path / TRUSTED_KEYS).unlink()  # it follows from the other
    assert read() == made
    (tmp_path / SIGNING_KEY).unlink()  # a new pair, never halves of two
    assert read()[TRUSTED_KEYS] != made[TRUSTED_KEYS]
    signature = Signer(key_file=tmp_path / SIGNING_KEY).sign(model="m", digest="d")
    Trust(keys_file=tmp_path / TRUSTED_KEYS).require(model="m", digest="d", signature=signature)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql+psycopg2://me:{PASSWORD}@127.0.0.1:1/{{database}}",
        f"postgresql://me@127.0.0.1:1/{{database}}?password={PASSWORD}",
        f"mysql://me:{PASSWORD}@host/{{database}}",
        f"postgresql://me:{PASSWORD}@[bad/{{database}}",
    ],
)
def test_a_database_url_is_never_shown_with_its_password(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRADEWIND_DATABASE_URL", url)
    deployment = stack.open_deployment(tmp_path / "home", ports=stack.free_ports())
    with pytest.raises((ServiceError, SetupError)) as caught:
        databases_of(deployment)["airflow"].tables()
    assert PASSWORD not in f"{caught.value}{caught.value!r}"
    assert PASSWORD not in repr(check_database(deployment))
    assert PASSWORD not in repr(deployment)


def test_a_database_keeps_its_password_apart() -> None:
    found = Database.from_url(f"postgresql+psycopg2://me:{PASSWORD}@db.example:5432/airflow?sslmode=require")
    assert found.password == PASSWORD
    assert PASSWORD not in f"{found}{found!r}{found._address}"
    assert found.parameters["sslmode"] == "require"
