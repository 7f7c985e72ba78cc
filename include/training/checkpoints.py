"""Checkpoints of one job: complete or absent, and the newest whole one is found again after any kind of end.

Each is a folder named by its step. Its manifest names the other files by SHA-256 and is written after them: a folder
without one is no checkpoint, whatever stopped its writer, on a disk and in an object store alike.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from include.errors import BadInputError, CorruptArtifactError, NotFoundError, ServiceError, SetupError, TradewindError
from include.lake.files import delete_file, list_files, read_bytes, write_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from include.lake.storage import Storage
    from include.training.job import Job

MANIFEST = "manifest.json"
_STEP_DIGITS = 10
_NAME_CHARS = 12
_PART_BYTES = 1 << 30
"""An object store takes 5 GiB in one piece, and less is easier to send again."""
STORAGE_ERRORS = (OSError, ServiceError, SetupError)
"""A full disk, a silent object store, a policy that does not allow to delete; any other error is one of the code."""


class _Manifest(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    model: str
    job_hash: str
    files: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """The checkpoints of a job.

    Args:
        uri: Their folder.
        job_hash: The job; checkpoints of another one are refused.
        storage: Where the folder is.
        model: Name of the job's model, for people.
        num_kept: How many of the newest are kept. With one, a damaged one means a start from the beginning.
    """

    uri: str
    job_hash: str
    storage: Storage
    model: str = ""
    num_kept: int = 2

    @classmethod
    def of_job(cls, job: Job, *, storage: Storage) -> Checkpoints:
        """Return those of a job, as many as it wants kept."""
        kept = job.training.checkpoints_kept
        return cls(uri=job.checkpoint_uri, job_hash=job.hash, storage=storage, model=job.spec.name, num_kept=kept)

    def save(self, step: int, state: Mapping[str, Any], *, say: Callable[[str], None] = lambda _line: None) -> None:
        """Write the state after a step, of tensors, numbers, texts, lists and dicts, then delete what is too old.

        A storage that does not let it delete keeps too many, which is said.

        Raises:
            OSError: The disk does not take it; the earlier checkpoints are whole.
            ServiceError: The object store does not answer; the earlier checkpoints are whole.
        """
        try:
            self._write(step, _parts(state))
        except BaseException:
            self._delete_rest(step)  # on a full disk, half a checkpoint would stand in the way of all that follow
            raise
        try:
            self._delete_older()
        except STORAGE_ERRORS as error:
            say(f"warning: checkpoints before the {self.num_kept} newest could not be deleted, they are kept: {error}")

    def load_newest(self, *, say: Callable[[str], None] = lambda _line: None) -> tuple[int, dict[str, Any]] | None:
        """Return the newest whole state and its step, None if there is none; damaged ones are passed over, and said.

        They are deleted, lest they take a whole one's place, as far as the storage lets it.

        Raises:
            BadInputError: The folder holds the checkpoints of another job.
            ServiceError: The object store does not answer.
        """
        for step in reversed(self.steps()):
            try:
                return step, self.load(step)
            except CorruptArtifactError as error:
                say(str(error))
                self._discard(step, say=say)
        return None

    def load(self, step: int) -> dict[str, Any]:
        """Return the state after a step.

        Raises:
            BadInputError: It is of another job.
            CorruptArtifactError: It is not whole.
            ServiceError: The object store does not answer.
        """
        import torch

        folder = self._folder(step)
        sink = BytesIO()
        try:
            manifest = _Manifest.model_validate_json(read_bytes(f"{folder}/{MANIFEST}", storage=self.storage))
            self._require_own(manifest)
            for name, sha256 in sorted(manifest.files.items()):
                part = read_bytes(f"{folder}/{name}", storage=self.storage)
                if hashlib.sha256(part).hexdigest() != sha256:
                    raise _damaged(folder, f"{name} with other bytes")
                sink.write(part)
        except (NotFoundError, ValidationError) as error:
            raise _damaged(folder, str(error).splitlines()[0]) from error
        sink.seek(0)
        return dict(torch.load(sink, map_location="cpu", weights_only=True))

    def steps(self) -> list[int]:
        """Return the steps of the complete checkpoints, in order."""
        return sorted(step for step, names in self._found().items() if MANIFEST in names)

    def uris(self) -> list[str]:
        """Return where the complete checkpoints lie, oldest first; their bytes are not read."""
        return [self._folder(step) for step in self.steps()]

    def newest_uri(self) -> str | None:
        """Return where the newest complete checkpoint lies, None if there is none; its bytes are not read."""
        return next(reversed(self.uris()), None)

    def _folder(self, step: int) -> str:
        return f"{self.uri}/{step:0{_STEP_DIGITS}d}"

    def _found(self) -> dict[int, list[str]]:
        """Return the files of each step's folder, complete or not."""
        found: dict[int, list[str]] = {}
        for path in list_files(self.uri, storage=self.storage):
            folder, _, name = path.partition("/")
            if folder.isdigit() and name:
                found.setdefault(int(folder), []).append(name)
        return found

    def _write(self, step: int, parts: Iterable[bytes]) -> None:
        """Write the parts of a state, and last what makes them a checkpoint."""
        folder, files = self._folder(step), {}
        for number, part in enumerate(parts):
            sha256 = hashlib.sha256(part).hexdigest()
            name = f"state-{number:03d}-{sha256[:_NAME_CHARS]}.pt"  # never one that an earlier manifest names
            write_bytes(f"{folder}/{name}", part, storage=self.storage)
            files[name] = sha256
        manifest = _Manifest(model=self.model, job_hash=self.job_hash, files=files)
        self._flush(folder)  # a power cut must not leave the manifest without what it names
        write_bytes(f"{folder}/{MANIFEST}", manifest.model_dump_json().encode(), storage=self.storage)
        self._flush(folder)

    def _delete_older(self) -> None:
        """Delete all but the newest complete ones, and what a writer that was killed left behind."""
        found = self._found()
        complete = sorted(step for step, names in found.items() if MANIFEST in names)
        for step in found.keys() - set(complete[-self.num_kept :]):
            self._delete(step, found[step])

    def _delete_rest(self, step: int) -> None:
        """Delete what a failed write left behind, as far as the storage lets it."""
        with suppress(OSError, TradewindError):
            names = self._found().get(step, [])
            if MANIFEST not in names:
                self._delete(step, names)

    def _discard(self, step: int, *, say: Callable[[str], None]) -> None:
        """Make a damaged checkpoint none any more."""
        manifest = f"{self._folder(step)}/{MANIFEST}"
        try:
            delete_file(manifest, storage=self.storage)
        except STORAGE_ERRORS as error:
            say(f"warning: {manifest!r} of a damaged checkpoint could not be deleted, it is kept: {error}")

    def _delete(self, step: int, names: Iterable[str]) -> None:
        folder = self._folder(step)
        for name in sorted(names, key=lambda name: name != MANIFEST):
            delete_file(f"{folder}/{name}", storage=self.storage)
        if self.storage.is_local:
            Path(folder).rmdir()

    def _require_own(self, manifest: _Manifest) -> None:
        if manifest.job_hash != self.job_hash:
            raise BadInputError(
                f"checkpoints in {self.uri!r} must be of job {self.job_hash[:12]} of {self.model!r}; got those of job "
                f"{manifest.job_hash[:12]} of {manifest.model!r}. Nothing was trained. Give each job its own folder."
            )

    def _flush(self, folder: str) -> None:
        """Make the names in a local folder, and its own name, survive a power cut."""
        if not self.storage.is_local:
            return
        for path in (folder, self.uri):
            opened = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(opened)
            finally:
                os.close(opened)


def _parts(state: Mapping[str, Any]) -> Iterator[bytes]:
    """Yield a state's bytes, in pieces that an object store takes at once."""
    import torch

    sink = BytesIO()
    torch.save(dict(state), sink)
    for start in range(0, len(sink.getbuffer()), _PART_BYTES):
        yield bytes(sink.getbuffer()[start : start + _PART_BYTES])


def _damaged(folder: str, found: str) -> CorruptArtifactError:
    return CorruptArtifactError(
        f"checkpoint {folder!r} must hold the files that its manifest names; got {found}. It is passed over for the "
        "one before."
    )
