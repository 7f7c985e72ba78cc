"""The archive of a backup: one compressed tar whose every file is named with its SHA-256.

`backup.json` comes first and says what the archive is; `SHA256SUMS`, in the format of `sha256sum`, comes last, so that
a cut archive is found. `tar --zstd -xf FILE && sha256sum -c SHA256SUMS` reads it without Tradewind.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import tarfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

from include.errors import CorruptArtifactError, SetupError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

HEADER = "backup.json"
SUMS = "SHA256SUMS"
_CHUNK_BYTES = 1 << 20


@dataclass(kw_only=True)
class ArchiveWriter:
    """Adds files to an archive; made by `write_archive`."""

    tar: tarfile.TarFile
    sums: dict[str, str] = field(default_factory=dict)

    def add_bytes(self, name: str, content: bytes) -> None:
        """Add a file of the given content."""
        self._add(name, io.BytesIO(content), num_bytes=len(content), mtime=0)

    def add_file(self, name: str, path: Path) -> bool:
        """Add a file as long as it is now, whatever is appended meanwhile; return False if it is gone.

        Raises:
            CorruptArtifactError: It became shorter while it was read.
        """
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return False
        with file:
            found = os.fstat(file.fileno())
            self._add(name, file, num_bytes=found.st_size, mtime=found.st_mtime)
        return True

    def _add(self, name: str, file: IO[bytes], *, num_bytes: int, mtime: float) -> None:
        entry = tarfile.TarInfo(name)
        entry.size, entry.mtime, entry.mode = num_bytes, mtime, 0o600
        hashing = _Hashing(file=file)
        try:
            self.tar.addfile(entry, hashing)
        except OSError as error:
            if error.errno is not None:  # the archive's disk, not the file's end
                raise
            raise CorruptArtifactError(
                f"file {name!r} must stay as long as it was, {num_bytes} bytes; got {hashing.num_bytes}. No backup was "
                "written. Start it again."
            ) from error
        self.sums[name] = hashing.digest.hexdigest()


@dataclass(kw_only=True)
class _Hashing:
    file: IO[bytes]
    num_bytes: int = 0
    digest: Any = field(default_factory=hashlib.sha256)

    def read(self, size: int = -1, /) -> bytes:
        chunk = self.file.read(size)
        self.num_bytes += len(chunk)
        self.digest.update(chunk)
        return chunk


@dataclass(frozen=True, kw_only=True)
class _Content:
    """One file of an archive that is being read; whatever is wrong while reading is wrong with the archive."""

    archive: Path
    name: str
    file: IO[bytes]

    def read(self, size: int = -1) -> bytes:
        try:
            return self.file.read(size)
        except (OSError, EOFError, tarfile.TarError) as error:
            raise _unreadable(self.archive, self.name, error) from error


@contextmanager
def write_archive(path: Path, *, header: Mapping[str, Any]) -> Iterator[ArchiveWriter]:
    """Yield the writer of an archive that only its user can read, and that is there when its last byte is verified.

    Raises:
        CorruptArtifactError: What was written reads differently.
        SetupError: The disk is full.
    """
    import pyarrow as pa

    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        os.close(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
        with (
            pa.OSFile(str(aside), mode="w") as file,
            pa.CompressedOutputStream(file, "zstd") as packed,
            tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
        ):
            writer = ArchiveWriter(tar=tar)
            writer.add_bytes(HEADER, json.dumps(header, indent=1).encode())
            yield writer
            lines = "".join(f"{sha256}  {name}\n" for name, sha256 in writer.sums.items())
            writer.add_bytes(SUMS, lines.encode(errors="surrogateescape"))
        with aside.open("rb") as written:
            os.fsync(written.fileno())
        verify_archive(aside)
        aside.replace(path)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise SetupError(
            f"backup {path} needs room on its disk; got none left. Nothing was written. Free some, or name "
            "another disk."
        ) from error
    finally:
        aside.unlink(missing_ok=True)


def read_header(path: Path) -> dict[str, Any]:
    """Return what an archive says of itself.

    Raises:
        CorruptArtifactError: It is no archive of a backup.
    """
    for name, file in _members(path):
        if name == HEADER:
            header: dict[str, Any] = json.loads(file.read())
            return header
        break
    raise _damaged(path, f"{HEADER} must come first; got another file, or none")


def verify_archive(path: Path, *, into: Path | None = None) -> int:
    """Read all of an archive and return its number of files; with `into`, write them there too.

    Raises:
        CorruptArtifactError: A file differs from its SHA-256, is missing, or is not listed; the message names it.
    """
    found: dict[str, str] = {}
    listed: dict[str, str] | None = None
    for name, file in _members(path):
        if name == SUMS:
            lines = file.read().decode(errors="surrogateescape").split("\n")[:-1]
            listed = {line[66:]: line[:64] for line in lines}
            continue
        found[name] = _copy(file, into / name if into else None)
    if listed is None:
        raise _damaged(path, f"{SUMS} must come last; got an archive that was cut after {len(found)} files")
    for name in sorted(found.keys() | listed.keys()):
        if found.get(name) != listed.get(name):
            what = "is missing" if name not in found else "is not listed" if name not in listed else "differs"
            raise _damaged(path, f"file {name!r} must have the SHA-256 of {SUMS}; it {what}")
    return len(found)


def _members(path: Path) -> Iterator[tuple[str, _Content]]:
    """Yield name and content of each file, in order.

    Raises:
        CorruptArtifactError: The archive cannot be read to its end, or a name leads outside.
    """
    import pyarrow as pa

    name = HEADER
    try:
        with (
            pa.OSFile(str(path)) as file,
            pa.CompressedInputStream(file, "zstd") as unpacked,
            tarfile.open(fileobj=unpacked, mode="r|") as tar,
        ):
            for entry in tar:
                name = entry.name
                content = tar.extractfile(entry) if entry.isfile() else None
                if content is None or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                    raise _damaged(path, f"{name!r} must be a plain file below the archive's root; it is not")
                yield name, _Content(archive=path, name=name, file=content)
    except (OSError, EOFError, tarfile.TarError, ValueError, KeyError) as error:
        raise _unreadable(path, name, error) from error


def _copy(file: _Content, target: Path | None) -> str:
    digest = hashlib.sha256()
    if target is None:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
        return digest.hexdigest()
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as written:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            written.write(chunk)
        written.flush()
        os.fsync(written.fileno())
    return digest.hexdigest()


def _unreadable(path: Path, name: str, error: Exception) -> CorruptArtifactError:
    return _damaged(path, f"it must be readable to its end; got, in or after file {name!r}: {error}")


def _damaged(path: Path, what: str) -> CorruptArtifactError:
    return CorruptArtifactError(f"backup {path} is damaged: {what}. Nothing was restored. Use another backup.")
