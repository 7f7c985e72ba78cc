from __future__ import annotations

import json
from typing import Any

import pytest

from include.errors import SetupError
from include.lake.connection import VARIABLE, current_storage, storage_from
from include.lake.storage import Storage

OWN = Storage(root="/own")


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({"path": "/lake"}, Storage(root="/lake")),
        (
            {"lake_root": "s3://b/p", "local_path": "/disk", "endpoint_url": "http://h:1", "region_name": "eu"},
            Storage(
                root="s3://b/p",
                local_root="/disk",
                options={
                    "AWS_ACCESS_KEY_ID": "key",
                    "AWS_SECRET_ACCESS_KEY": "secret",
                    "AWS_REGION": "eu",
                    "AWS_ENDPOINT_URL": "http://h:1",
                    "AWS_ALLOW_HTTP": "true",
                },
            ),
        ),
    ],
)
def test_a_connection_names_a_folder_or_a_bucket(extra: dict[str, Any], expected: Storage) -> None:
    assert storage_from(name="lake", extra=extra, login="key", password="secret") == expected


def test_a_connection_without_a_place_is_refused() -> None:
    with pytest.raises(SetupError, match=r"connection 'lake' must have `path` .* got the keys \['bucket'\]"):
        storage_from(name="lake", extra={"bucket": "b"}, login=None, password=None)


def test_the_environment_names_the_lake_for_the_command_line_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert current_storage(OWN) is OWN

    monkeypatch.setenv(VARIABLE, json.dumps({"conn_type": "aws", "login": "key", "extra": {"lake_root": "s3://b"}}))
    assert current_storage(OWN) == Storage(root="s3://b", options={"AWS_ACCESS_KEY_ID": "key"})

    monkeypatch.setenv(VARIABLE, json.dumps({"conn_type": "fs", "extra": json.dumps({"path": "/text"})}))
    assert current_storage(OWN).root == "/text"


def test_what_cannot_be_read_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "aws://key:secret@")

    with pytest.raises(SetupError, match="must be a connection as JSON") as caught:
        current_storage(OWN)
    assert "secret@" not in str(caught.value)
