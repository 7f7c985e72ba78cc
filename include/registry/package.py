"""The model package: one folder with everything that a version is, and the digests that prove it is whole.

`package.json` is written last and names the SHA-256 of every other file; a folder without it is no package.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from include.errors import BadInputError, CorruptArtifactError, NotFoundError
from include.lake.files import delete_file, read_bytes, write_bytes
from include.lake.storage import Storage

if TYPE_CHECKING:
    from collections.abc import Mapping

MANIFEST = "package.json"
SERVED_GRAPH = "model.onnx"
FP32_GRAPH = "model.fp32.onnx"
INT8_GRAPH = "model.int8.onnx"
ENCODING = "encoding.json"
GOLDEN = "golden.json"
METRICS = "metrics.json"
LOCK = "lock.json"
CARD = "card.md"
DRIFT_REFERENCE = "drift_reference.json"


@dataclass(frozen=True, kw_only=True)
class Package:
    """A package whose every byte was verified when it was read.

    Args:
        uri: Its folder: an absolute path, or `s3://bucket/prefix`.
        model: The model's name.
        digest: SHA-256 over the sorted lines `name sha256`; names the package's content.
        files: Name -> SHA-256.
        created_by_job: Key of the training job.
        contents: Name -> bytes.
    """

    uri: str
    model: str
    digest: str
    files: Mapping[str, str]
    created_by_job: str
    contents: Mapping[str, bytes] = field(repr=False)

    def json(self, name: str) -> Any:
        """Return the content of one of its JSON files.

        Raises:
            CorruptArtifactError: The package has no such file, or it is no JSON.
        """
        try:
            return json.loads(self.contents[name])
        except (KeyError, ValueError) as error:
            raise CorruptArtifactError(
                f"package {self.uri} must hold {name} as JSON; got {error!r}. Nothing was changed. Register the "
                "version again."
            ) from error


def folder_of(uri: str) -> str:
    """Return a `file://` URI as the path that it names, and any other URI as it is, without a trailing slash.

    >>> folder_of("file:///srv/mlflow/1/abc/artifacts/")
    '/srv/mlflow/1/abc/artifacts'
    """
    parts = urlsplit(uri)
    return (unquote(parts.path) if parts.scheme == "file" else uri).rstrip("/")


def digest_of(files: Mapping[str, str]) -> str:
    """Return the digest of a package from its files' digests."""
    lines = "".join(f"{name} {sha256}\n" for name, sha256 in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def write_package(
    uri: str, *, model: str, job_key: str, contents: Mapping[str, bytes], storage: Storage | None = None
) -> Package:
    """Write a package, its manifest last. One that is there and equal is kept; another one is replaced.

    Args:
        uri: Folder to write to.
        model: The model's name.
        job_key: Key of the training job.
        contents: File name -> bytes.
        storage: Where credentials of an object store come from; a local folder needs none.

    Raises:
        BadInputError: A name is a path, or the manifest's own.
    """
    for name in contents:
        if name == MANIFEST or "/" in name or name.startswith("."):
            raise BadInputError(
                f"a package's files must have plain names other than {MANIFEST}; got {name!r}. Nothing was written. "
                "Rename it."
            )
    folder, target = folder_of(uri), _target(uri, storage)
    files = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    package = Package(
        uri=folder, model=model, digest=digest_of(files), files=files, created_by_job=job_key, contents=dict(contents)
    )
    if _found_digest(folder, target) == package.digest:
        return package
    delete_file(f"{folder}/{MANIFEST}", storage=target)  # from here on it is no package until the manifest is back
    for name, content in contents.items():
        write_bytes(f"{folder}/{name}", content, storage=target)
    manifest = {"model": model, "files": files, "digest": package.digest, "created_by_job": job_key}
    write_bytes(f"{folder}/{MANIFEST}", json.dumps(manifest, indent=1, sort_keys=True).encode(), storage=target)
    return package


def read_package(uri: str, *, storage: Storage | None = None) -> Package:
    """Read a package and verify every byte of it.

    Args:
        uri: Its folder: a path, a `file://` URI, or `s3://bucket/prefix`.
        storage: Where credentials of an object store come from; a local folder needs none.

    Raises:
        NotFoundError: There is no package.
        CorruptArtifactError: A file is missing or differs from its digest, or the manifest cannot be read.
    """
    folder, target = folder_of(uri), _target(uri, storage)
    raw = read_bytes(f"{folder}/{MANIFEST}", storage=target)
    try:
        manifest = json.loads(raw)
        files = {str(name): str(sha256) for name, sha256 in manifest["files"].items()}
        model, job_key, digest = str(manifest["model"]), str(manifest["created_by_job"]), str(manifest["digest"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _corrupt(folder, MANIFEST, f"{error!r}") from error
    if digest_of(files) != digest:
        raise _corrupt(folder, MANIFEST, "another digest than its own list of files has")
    contents: dict[str, bytes] = {}
    for name, sha256 in files.items():
        try:
            contents[name] = read_bytes(f"{folder}/{name}", storage=target)
        except NotFoundError as error:
            raise _corrupt(folder, name, "no such file") from error
        found = hashlib.sha256(contents[name]).hexdigest()
        if found != sha256:
            raise _corrupt(folder, name, f"SHA-256 {found[:16]} where {sha256[:16]} is recorded")
    return Package(uri=folder, model=model, digest=digest, files=files, created_by_job=job_key, contents=contents)


def _found_digest(folder: str, target: Storage) -> str | None:
    """Return the digest of the package that is there, None if there is none or it is damaged."""
    try:
        return read_package(folder, storage=target).digest
    except (NotFoundError, CorruptArtifactError):
        return None


def _target(uri: str, storage: Storage | None) -> Storage:
    """Return a storage that can open the URI, which may lie outside the lake: MLflow's artifacts often do."""
    return Storage(root=folder_of(uri), options=storage.options if storage else {})


def _corrupt(folder: str, name: str, found: str) -> CorruptArtifactError:
    return CorruptArtifactError(
        f"package {folder}: {name} must match its recorded digest; got {found}. Nothing was loaded. Restore the folder "
        "from a copy, or train the version again."
    )
