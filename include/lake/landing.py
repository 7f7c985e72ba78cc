"""What an upstream system delivers: a partition's files, then a marker that says they are complete."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from include.errors import BadInputError, NotFoundError
from include.lake.files import delete_file, file_exists, read_bytes, write_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from include.lake.storage import Storage


def marker_uri(*, storage: Storage, model: str, partition: str, marker: str) -> str:
    """Return where the marker of a landed partition lies."""
    return f"{storage.landing(model, partition)}/{marker}"


def is_landed(*, storage: Storage, model: str, partition: str, marker: str) -> bool:
    """Return whether a partition's marker is there."""
    return file_exists(marker_uri(storage=storage, model=model, partition=partition, marker=marker), storage=storage)


def land_files(*, storage: Storage, model: str, partition: str, marker: str, files: Mapping[str, bytes]) -> None:
    """Deliver a partition as upstream systems do: take the marker away, write the files, write the marker.

    The marker lists the SHA-256 of each file in the format of `sha256sum`, so that a cut or mixed delivery is found.
    """
    folder = storage.landing(model, partition)
    at = marker_uri(storage=storage, model=model, partition=partition, marker=marker)
    delete_file(at, storage=storage)
    for name, content in files.items():
        write_bytes(f"{folder}/{name}", content, storage=storage)
    lines = [f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files.items()]
    write_bytes(at, "".join(lines).encode(), storage=storage)


def read_landed(
    *, storage: Storage, model: str, partition: str, marker: str, names: tuple[str, ...]
) -> dict[str, bytes]:
    """Return the content of a landed partition's files, by name.

    A marker with lines in the format of `sha256sum` is held against the files; an empty one promises nothing.

    Raises:
        BadInputError: No marker yet, a file is missing, or one does not match the marker.
    """
    folder = storage.landing(model, partition)
    at = marker_uri(storage=storage, model=model, partition=partition, marker=marker)
    try:
        promised = _digests(read_bytes(at, storage=storage))
    except NotFoundError as error:
        raise BadInputError(
            f"landed partition {folder!r} needs its marker {marker!r}, which is written last; got none. Nothing was "
            "ingested. Wait for the upstream system, or write the marker once all files are complete."
        ) from error
    found: dict[str, bytes] = {}
    for name in names:
        try:
            found[name] = read_bytes(f"{folder}/{name}", storage=storage)
        except NotFoundError as error:
            raise BadInputError(
                f"landed partition {folder!r} needs the files {', '.join(names)}; got none named {name!r}. Nothing was "
                "ingested. Land the file, then the marker again."
            ) from error
        digest = hashlib.sha256(found[name]).hexdigest()
        if promised.get(name, digest) != digest:
            raise BadInputError(
                f"file '{folder}/{name}' must have the SHA-256 that its marker lists, {promised[name]}; got {digest} "
                f"({len(found[name])} bytes). Nothing was ingested. Land the file again, whole, then the marker."
            )
    return found


def _digests(marker: bytes) -> dict[str, str]:
    lines = (line.split(maxsplit=1) for line in marker.decode(errors="replace").splitlines())
    return {parts[1].lstrip("*"): parts[0] for parts in lines if len(parts) == 2}  # noqa: PLR2004 - digest, name
