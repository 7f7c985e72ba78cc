"""Whole files of a storage, on a disk or in S3: read, check, and write so that nobody sees a part of one."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.errors import NotFoundError, SetupError

if TYPE_CHECKING:
    from include.lake.storage import Storage

_MISSING = frozenset({"404", "NoSuchKey", "NotFound"})


def file_exists(uri: str, *, storage: Storage) -> bool:
    """Return whether a file of the storage is there."""
    if storage.is_local:
        return Path(uri).is_file()
    from botocore.exceptions import ClientError

    try:
        _s3(storage).head_object(**_place(uri))
    except ClientError as error:
        if error.response["Error"]["Code"] in _MISSING:
            return False
        raise
    return True


def read_bytes(uri: str, *, storage: Storage) -> bytes:
    """Return the content of a file of the storage.

    Raises:
        NotFoundError: No such file.
    """
    if storage.is_local:
        try:
            return Path(uri).read_bytes()
        except (FileNotFoundError, IsADirectoryError) as error:
            raise _not_found(uri) from error
    from botocore.exceptions import ClientError

    try:
        return bytes(_s3(storage).get_object(**_place(uri))["Body"].read())
    except ClientError as error:
        if error.response["Error"]["Code"] in _MISSING:
            raise _not_found(uri) from error
        raise


def write_bytes(uri: str, content: bytes, *, storage: Storage) -> None:
    """Write a file of the storage as a whole: readers see the old content or the new one, after a power cut too."""
    if not storage.is_local:
        _s3(storage).put_object(**_place(uri), Body=content)
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


def delete_file(uri: str, *, storage: Storage) -> None:
    """Delete a file of the storage, if it is there."""
    if storage.is_local:
        Path(uri).unlink(missing_ok=True)
    else:
        _s3(storage).delete_object(**_place(uri))


def _s3(storage: Storage) -> Any:
    import boto3

    return boto3.session.Session().client(
        "s3",
        aws_access_key_id=storage.options.get("AWS_ACCESS_KEY_ID"),
        aws_secret_access_key=storage.options.get("AWS_SECRET_ACCESS_KEY"),
        region_name=storage.options.get("AWS_REGION"),
        endpoint_url=storage.options.get("AWS_ENDPOINT_URL"),
    )


def _place(uri: str) -> dict[str, str]:
    scheme, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    if scheme != "s3" or not key:
        raise SetupError(
            f"storage must be a folder or s3://bucket/prefix; got {uri!r}. Nothing was changed. Mend the root of the "
            "lake's connection."
        )
    return {"Bucket": bucket, "Key": key}


def _not_found(uri: str) -> NotFoundError:
    return NotFoundError(f"file {uri!r} must exist; got nothing there. Nothing was changed. Write it first.")
