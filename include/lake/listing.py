"""What lies below a folder of the storage, on a disk or in S3, and how old it is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from include.errors import ServiceError

if TYPE_CHECKING:
    from pyarrow import fs

    from include.lake.storage import Storage


@dataclass(frozen=True, kw_only=True)
class FoundFile:
    """One file.

    Args:
        uri: Where it is, in the storage's own form.
        size_bytes: Its size.
        modified_at: When it was last written, UTC.
    """

    uri: str
    size_bytes: int
    modified_at: datetime


def list_files(uri: str, *, storage: Storage) -> list[FoundFile]:
    """Return every file below a folder, at any depth, sorted by URI; none if there is no such folder.

    Raises:
        ServiceError: The object store does not answer.
    """
    from pyarrow import fs

    filesystem, folder, scheme = _open(uri, storage=storage)
    try:
        found = filesystem.get_file_info(fs.FileSelector(folder, recursive=True, allow_not_found=True))
    except OSError as error:
        raise ServiceError(f"storage must list {uri!r}; got {error}. Nothing was changed. Retry.") from error
    files = [
        FoundFile(uri=f"{scheme}{item.path}", size_bytes=item.size, modified_at=item.mtime.astimezone(UTC))
        for item in found
        if item.is_file
    ]
    return sorted(files, key=lambda item: item.uri)


def _open(uri: str, *, storage: Storage) -> tuple[fs.FileSystem, str, str]:
    """Return the file system, the folder as it names it, and what its paths lack to be URIs."""
    from pyarrow import fs

    if "://" not in uri:
        return fs.LocalFileSystem(), uri, ""
    options = storage.options
    filesystem = fs.S3FileSystem(
        access_key=options.get("AWS_ACCESS_KEY_ID"),
        secret_key=options.get("AWS_SECRET_ACCESS_KEY"),
        region=options.get("AWS_REGION"),
        endpoint_override=options.get("AWS_ENDPOINT_URL"),
    )
    scheme, _, folder = uri.partition("://")
    return filesystem, folder, f"{scheme}://"
