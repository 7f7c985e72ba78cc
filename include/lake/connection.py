"""What Airflow's connection of the lake says, as a `Storage`; operators and the command line read it alike."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from include.errors import SetupError
from include.lake.storage import Storage

if TYPE_CHECKING:
    from collections.abc import Mapping

VARIABLE = "AIRFLOW_CONN_TRADEWIND_LAKE"
"""Environment variable by which Airflow is told another lake than the deployment's own folder."""


def storage_from(*, name: str, extra: Mapping[str, Any], login: str | None, password: str | None) -> Storage:
    """Return the storage that a connection names.

    Its extra has `path` (a folder), or `lake_root` (s3://bucket/prefix) and, if need be, `region_name`, `endpoint_url`
    and `local_path`, the folder for what needs a disk.

    Raises:
        SetupError: It names neither a folder nor a bucket.
    """
    if path := extra.get("path"):
        return Storage(root=path)
    if root := extra.get("lake_root"):
        named = {
            "AWS_ACCESS_KEY_ID": login,
            "AWS_SECRET_ACCESS_KEY": password,
            "AWS_REGION": extra.get("region_name"),
            "AWS_ENDPOINT_URL": extra.get("endpoint_url"),
        }
        options = {key: value for key, value in named.items() if value}
        if str(extra.get("endpoint_url", "")).startswith("http://"):
            options["AWS_ALLOW_HTTP"] = "true"
        return Storage(root=root, local_root=extra.get("local_path", ""), options=options)
    raise SetupError(
        f"connection {name!r} must have `path` (a folder) or `lake_root` (s3://bucket/prefix) in its extra; got the "
        f"keys {sorted(extra)}. Nothing was read. Add one of them."
    )


def current_storage(default: Storage) -> Storage:
    """Return the storage that the environment names for Airflow, the default one if it names none.

    Raises:
        SetupError: The variable is not a connection of a lake in JSON.
    """
    text = os.environ.get(VARIABLE)
    if text is None:
        return default
    try:
        raw = json.loads(text)
        extra = raw.get("extra", {})
        extra = json.loads(extra) if isinstance(extra, str) else extra
        login, password = raw.get("login"), raw.get("password")
    except (ValueError, AttributeError) as error:
        raise SetupError(
            f"{VARIABLE} must be a connection as JSON; got {type(error).__name__}, and its text may hold secrets. "
            "Nothing was read. Write it as docs/pages/to-a-cluster.md shows."
        ) from error
    return storage_from(name="tradewind_lake", extra=extra, login=login, password=password)
