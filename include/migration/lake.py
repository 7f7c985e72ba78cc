"""A local lake, copied into an object store with every version of its tables.

A Delta table names its files relative to itself, so a copy of its log and of the files that the log names is the same
table with the same history. Files go first, commits follow in order: whoever reads meanwhile sees an older version.
Each object carries the SHA-256 of its file; one that is there and equal is not sent again.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from include.backup.delta import LOG, pin_table
from include.errors import BadInputError, CorruptArtifactError, SetupError
from include.lake.files import file_exists, holds_files, read_bytes, send_file, write_bytes
from include.lake.storage import Storage
from include.lake.tables import content_hash, current_version, published_partitions, read_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from include.runtime.home import Home

_SETTINGS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_ENDPOINT_URL")
_STAY = frozenset({"feast", "predictions"})
"""What the model server reads and writes on its own disk: `local_path` of the connection."""


_NOTE = "tradewind-move.json"
"""Object that says whose lake this is, and whether all of it has arrived."""


@dataclass(frozen=True, kw_only=True)
class MovedLake:
    """What is in the object store now, equal to the local lake; `num_sent` is what an earlier call had not sent."""

    num_files: int
    num_sent: int
    num_tables: int


def storage_from_environment(root: str) -> Storage:
    """Return an object store's storage with the credentials of AWS's own environment variables.

    Raises:
        BadInputError: The root is no `s3://bucket/prefix`.
    """
    scheme, _, place = root.partition("://")
    if scheme != "s3" or not place.strip("/"):
        raise BadInputError(
            f"the lake's new place must be s3://bucket/prefix; got {root!r}. Nothing was changed. Name a bucket."
        )
    options = {name: os.environ[name] for name in _SETTINGS if os.environ.get(name)}
    if "AWS_DEFAULT_REGION" in os.environ:
        options.setdefault("AWS_REGION", os.environ["AWS_DEFAULT_REGION"])
    if options.get("AWS_ENDPOINT_URL", "").startswith("http://"):
        options["AWS_ALLOW_HTTP"] = "true"
    return Storage(root=root.rstrip("/"), options=options)


def connection_of(storage: Storage, *, home: Home) -> str:
    """Return Airflow's connection to a moved lake, as JSON with places for the credentials."""
    named = {"region_name": "AWS_REGION", "endpoint_url": "AWS_ENDPOINT_URL"}
    extra = {"lake_root": storage.root, "local_path": str(home.data)}
    extra |= {key: storage.options[name] for key, name in named.items() if name in storage.options}
    return json.dumps({"conn_type": "aws", "login": "<access key>", "password": "<secret key>", "extra": extra})


def move_lake(home: Home, target: Storage, *, say: Callable[[str], None]) -> MovedLake:
    """Copy a home's lake into an object store and read all of it back; the caller holds the home, nothing runs.

    The online store and the prediction log stay where they are. The local files are left as they are.

    Args:
        home: The deployment's home.
        target: From `storage_from_environment`.
        say: Told what is being done.

    Raises:
        SetupError: There is something at the target that is not this lake's own unfinished copy.
        ServiceError: The object store does not answer; the same call goes on.
        CorruptArtifactError: What arrived differs.
    """
    _require_ours(home, target)
    num_files = num_sent = num_tables = 0
    for folder, files in _parts(home.data):
        say(f"sending {folder.relative_to(home.data)}")
        for path in files:
            uri = f"{target.root}/{path.relative_to(home.data).as_posix()}"
            sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
            num_sent += send_file(path, uri, storage=target, sha256=sha256)
            num_files += 1
            if hashlib.sha256(read_bytes(uri, storage=target)).hexdigest() != sha256:
                raise _differs(uri, f"the SHA-256 {sha256[:16]} of {path}")
        if (folder / LOG).is_dir():
            there = f"{target.root}/{folder.relative_to(home.data).as_posix()}"
            _require_equal_table(str(folder), home.storage, there, target)
            num_tables += 1
    _note(home, target, state="moved")
    return MovedLake(num_files=num_files, num_sent=num_sent, num_tables=num_tables)


def _parts(data: Path) -> Iterator[tuple[Path, list[Path]]]:
    """Yield each table and each other folder with its files, in the order in which they are sent."""
    tables = sorted(log.parent for log in data.rglob(LOG))
    for table in tables:
        pinned = pin_table(table)
        if pinned is not None:
            of_data = [name for name in pinned.files if not name.startswith(LOG)]
            of_log = [name for name in pinned.files if name.startswith(LOG)]
            yield table, [table / name for name in (*of_data, *of_log)]
    for folder in sorted(data.iterdir()):
        if folder.name in _STAY or not folder.is_dir():
            continue
        files = [
            path
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not path.name.startswith(".") and not any(path.is_relative_to(t) for t in tables)
        ]
        if files:
            yield folder, files


def _require_ours(home: Home, target: Storage) -> None:
    uri = f"{target.root}/{_NOTE}"
    if file_exists(uri, storage=target):
        found = json.loads(read_bytes(uri, storage=target))
        if found == {"lake": _identity(home), "state": "moving"}:
            return
        raise SetupError(
            f"{target.root} must be empty, or hold this lake's unfinished copy; got a lake that was moved there, "
            f"state {found.get('state')!r}. Nothing was changed. Name another prefix."
        )
    if holds_files(target):
        raise SetupError(
            f"{target.root} must be empty to take a lake; got files of others. Nothing was changed. Name another "
            "prefix."
        )
    _note(home, target, state="moving")


def _note(home: Home, target: Storage, *, state: str) -> None:
    content = json.dumps({"lake": _identity(home), "state": state}).encode()
    write_bytes(f"{target.root}/{_NOTE}", content, storage=target)


def _identity(home: Home) -> str:
    return hashlib.sha256((home.secrets / "secrets.json").read_bytes()).hexdigest()[:16]


def _require_equal_table(here: str, source: Storage, there: str, target: Storage) -> None:
    version = current_version(uri=here, storage_options=source.options)
    if current_version(uri=there, storage_options=target.options) != version:
        raise _differs(there, f"version {version} of the local table as its newest")
    for partition in sorted(published_partitions(uri=here, storage_options=source.options)):
        rows = read_table(uri=here, storage_options=source.options, partitions=[partition])
        moved = read_table(uri=there, storage_options=target.options, partitions=[partition])
        if content_hash(rows) != content_hash(moved):
            raise _differs(there, f"the local rows of partition {partition}")


def _differs(uri: str, wanted: str) -> CorruptArtifactError:
    return CorruptArtifactError(
        f"{uri} must have {wanted}; it has not. The local lake is unchanged. Run the same command again, or name "
        "another prefix."
    )
