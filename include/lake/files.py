"""Whole files of a storage, on a disk or in S3: read, check, and write so that nobody sees a part of one."""

from __future__ import annotations

import os
import tempfile
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.errors import NotFoundError, ServiceError, SetupError

if TYPE_CHECKING:
    from include.lake.storage import Storage

_MISSING = frozenset({"404", "NoSuchKey", "NotFound"})

_PASSING_STATUSES = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})
_PASSING = frozenset(
    {
        "BadDigest",
        "ExpiredToken",
        "IncompleteBody",
        "OperationAborted",
        "RequestTimeTooSkewed",
        "RequestTimeout",
        "TokenRefreshRequired",
        "400",
    }
)
"""Refusals that another try, with newer credentials or on another machine, need not get. A HEAD has no words: its 400
is an expired token most often. A 403 for a policy or wrong keys is the same each time."""

_GIVE_KEYS = "Retry; if no role of the machine brings any, set the lake's connection or the profile's env_secret."


def file_exists(uri: str, *, storage: Storage) -> bool:
    """Return whether a file of the storage is there.

    Raises:
        ServiceError: The object store does not answer.
    """
    if storage.is_local:
        return Path(uri).is_file()
    return _ask_s3("head_object", uri, storage=storage) is not None


def read_bytes(uri: str, *, storage: Storage) -> bytes:
    """Return the content of a file of the storage.

    Raises:
        NotFoundError: No such file.
        ServiceError: The object store does not answer.
    """
    if storage.is_local:
        path = Path(uri)
        if path.is_file():
            return path.read_bytes()
    elif (answer := _ask_s3("get_object", uri, storage=storage)) is not None:
        return bytes(answer["Body"])
    raise NotFoundError(f"file {uri!r} must exist; got nothing there. Nothing was changed. Write it first.")


def write_bytes(uri: str, content: bytes, *, storage: Storage) -> None:
    """Write a file of the storage as a whole: readers see the old content or the new one, after a power cut too.

    Raises:
        ServiceError: The object store does not answer.
    """
    if not storage.is_local:
        _ask_s3("put_object", uri, storage=storage, Body=content)
        return
    path = Path(uri)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(aside).chmod(0o644)
        Path(aside).replace(path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


def send_file(path: Path, uri: str, *, storage: Storage, sha256: str) -> bool:
    """Write a local file into an object store unless it is there already, by its SHA-256; return whether it was sent.

    Raises:
        ServiceError: The object store does not answer.
    """
    found = _ask_s3("head_object", uri, storage=storage)
    if found and (found["Metadata"].get("sha256"), found["ContentLength"]) == (sha256, path.stat().st_size):
        return False
    with path.open("rb") as content:
        _ask_s3("put_object", uri, storage=storage, Body=content, Metadata={"sha256": sha256})
    return True


def holds_files(storage: Storage) -> bool:
    """Return whether an object store holds anything below a storage's root.

    Raises:
        ServiceError: The object store does not answer.
    """
    found = _ask_s3("list_objects_v2", f"{storage.root}/", storage=storage, MaxKeys=1)
    return bool(found and found["KeyCount"])


def list_files(uri: str, *, storage: Storage) -> list[str]:
    """Return the paths of all files below a folder, relative to it and in order; none if there is no such folder.

    Raises:
        ServiceError: The object store does not answer.
    """
    if storage.is_local:
        return sorted(path.relative_to(uri).as_posix() for path in Path(uri).rglob("*") if path.is_file())
    folder = f"{uri}/".partition("://")[2].partition("/")[2]
    keys: list[str] = []
    while True:
        after = {"StartAfter": keys[-1]} if keys else {}
        found = _ask_s3("list_objects_v2", f"{uri}/", storage=storage, **after) or {}
        keys += [entry["Key"] for entry in found.get("Contents", [])]
        if not found.get("IsTruncated"):
            return sorted(key.removeprefix(folder) for key in keys)


def delete_file(uri: str, *, storage: Storage) -> None:
    """Delete a file of the storage, if it is there.

    Raises:
        ServiceError: The object store does not answer.
    """
    if storage.is_local:
        Path(uri).unlink(missing_ok=True)
    else:
        _ask_s3("delete_object", uri, storage=storage)


def _ask_s3(method: str, uri: str, *, storage: Storage, **more: Any) -> dict[str, Any] | None:
    """Return S3's answer about an object, its content read, or None when there is no such object.

    Raises:
        ServiceError: It does not answer to the end, or asks to come back.
        SetupError: It refuses for good: a policy, the keys, the bucket.
    """
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError
    from urllib3.exceptions import HTTPError

    scheme, _, place = uri.partition("://")
    bucket, _, key = place.partition("/")
    if scheme != "s3" or not key:
        raise SetupError(
            f"storage must be a folder or s3://bucket/prefix; got {uri!r}. Nothing was changed. Mend the root of the "
            "lake's connection."
        )
    try:
        client = _s3_client(tuple(sorted(storage.options.items())))
        named = {"Prefix": key} if method == "list_objects_v2" else {"Key": key}
        answer = dict(getattr(client, method)(Bucket=bucket, **named, **more))
        return answer | {"Body": answer["Body"].read()} if "Body" in answer else answer
    except ClientError as error:
        code, status = error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]
        if code in _MISSING:
            return None
        is_passing = status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _PASSING_STATUSES or code in _PASSING
        raise (_no_answer if is_passing else _refused)(method, uri, error) from error
    except PartialCredentialsError as error:
        raise _refused(method, uri, error) from error
    except NoCredentialsError as error:  # a machine's role has none either when its metadata service is slow
        _s3_client.cache_clear()  # a client looks for them once, when it is made
        raise _no_answer(method, uri, error, _GIVE_KEYS) from error
    except (BotoCoreError, HTTPError) as error:
        raise _no_answer(method, uri, error) from error


@cache
def _s3_client(options: tuple[tuple[str, str], ...]) -> Any:
    """Return the client of a storage; threads may share it, and making one reads megabytes of definitions."""
    import boto3

    found = dict(options)
    return boto3.session.Session().client(
        "s3",
        aws_access_key_id=found.get("AWS_ACCESS_KEY_ID"),
        aws_secret_access_key=found.get("AWS_SECRET_ACCESS_KEY"),
        aws_session_token=found.get("AWS_SESSION_TOKEN"),
        region_name=found.get("AWS_REGION"),
        endpoint_url=found.get("AWS_ENDPOINT_URL"),
    )


def _no_answer(method: str, uri: str, error: Exception, remedy: str = "Retry.") -> ServiceError:
    return ServiceError(f"object store must answer {method} of {uri!r}; got {error}. Nothing was changed. {remedy}")


def _refused(method: str, uri: str, error: Exception) -> SetupError:
    return SetupError(
        f"object store must allow {method} of {uri!r}; got {error}. Nothing was changed. Mend the credentials (the "
        "lake's connection, the profile's env_secret) or the bucket's policy."
    )
