"""What is secret stays private in files, on command lines, in messages and in logs."""

from __future__ import annotations

import ast
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from include.doctor.deployment import check_database
from include.errors import ServiceError, SetupError
from include.runtime import stack
from include.runtime.databases import Database, databases_of
from include.runtime.secrets import load_secrets

if TYPE_CHECKING:
    from collections.abc import Iterator

REPO = Path(__file__).parents[3]
PASSWORD = "hunter2"
SECRET = re.compile(r"token|password|secret", re.IGNORECASE)


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


def comparisons() -> Iterator[tuple[Path, ast.Compare]]:
    for folder in ("include", "operators", "sensors", "plugins"):
        for path in (REPO / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Compare):
                    yield path, node


def test_no_secret_is_compared_in_a_time_that_depends_on_it() -> None:
    """`==` ends at the first byte that differs; `hmac.compare_digest` does not."""
    found = []
    for path, node in comparisons():
        names = {item.id for item in ast.walk(node) if isinstance(item, ast.Name)}
        names |= {item.attr for item in ast.walk(node) if isinstance(item, ast.Attribute)}
        is_by_value = any(isinstance(kind, ast.Eq | ast.NotEq) for kind in node.ops)
        if is_by_value and any(SECRET.search(name) for name in names):
            found.append(f"{path}:{node.lineno}: {ast.unparse(node)}")
    assert found == []
    assert "hmac.compare_digest(" in (REPO / "include/serving/admin.py").read_text()
