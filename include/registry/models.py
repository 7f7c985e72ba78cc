"""The model registry: versions of a model, the aliases that point at them, the tags that trace them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from include.errors import NotFoundError, ServiceError
from include.registry.package import folder_of
from include.registry.rest import AlreadyExistsError, get, post

if TYPE_CHECKING:
    from collections.abc import Mapping

CHAMPION = "champion"
CHALLENGER = "challenger"
SIGNATURE = "signature"
"""Tag of a version: who vouches for its package (`include.registry.signing`)."""


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """One registered version.

    Args:
        name: The model's name.
        version: Its number, as text.
        source: Folder of its package: a path, or `s3://bucket/prefix`.
        run_id: MLflow run that made it.
        tags: window_start, window_end, job_key, commit, dag_id, dag_run_id, digest, signature, snapshot.
        created_at_ms: When it was registered, milliseconds since 1970.
    """

    name: str
    version: str
    source: str
    run_id: str
    tags: Mapping[str, str] = field(default_factory=dict)
    created_at_ms: int = 0


def get_version(tracking_uri: str, *, model: str, version: str) -> ModelVersion:
    """Return a version.

    Raises:
        NotFoundError: There is none.
        ServiceError: MLflow does not answer.
    """
    try:
        answer = get(tracking_uri, "model-versions/get", {"name": model, "version": version})
    except NotFoundError as error:
        raise NotFoundError(
            f"model {model!r} must have version {version} in MLflow at {tracking_uri}; got none. Nothing was changed. "
            "Name one that exists."
        ) from error
    return _parse(answer["model_version"])


def get_alias(tracking_uri: str, *, model: str, alias: str) -> ModelVersion | None:
    """Return the version that an alias points at, None if it points at none.

    Raises:
        ServiceError: MLflow does not answer.
    """
    try:
        answer = get(tracking_uri, "registered-models/alias", {"name": model, "alias": alias})
    except NotFoundError:
        return None
    return _parse(answer["model_version"])


def set_alias(tracking_uri: str, *, model: str, alias: str, version: str) -> None:
    """Point an alias at a version; it may point there already.

    Raises:
        NotFoundError: There is no such version.
        ServiceError: MLflow does not answer.
    """
    post(tracking_uri, "registered-models/alias", {"name": model, "alias": alias, "version": version})


def set_tag(tracking_uri: str, *, model: str, version: str, key: str, value: str) -> None:
    """Give a version a tag, in place of one of the same key.

    Raises:
        NotFoundError: There is no such version.
        ServiceError: MLflow does not answer.
    """
    post(tracking_uri, "model-versions/set-tag", {"name": model, "version": version, "key": key, "value": value})


def delete_alias(tracking_uri: str, *, model: str, alias: str) -> None:
    """Remove an alias, if it is there.

    Raises:
        ServiceError: MLflow does not answer.
    """
    try:
        post(tracking_uri, "registered-models/alias", {"name": model, "alias": alias}, method="DELETE")
    except NotFoundError:
        return


def find_version(tracking_uri: str, *, model: str, job_key: str) -> ModelVersion | None:
    """Return the version that a training job made, None if it was not registered yet.

    Raises:
        ServiceError: MLflow does not answer.
    """
    found = list_versions(tracking_uri, model=model, job_key=job_key)
    return found[0] if found else None


def list_versions(tracking_uri: str, *, model: str, job_key: str | None = None) -> list[ModelVersion]:
    """Return the versions of a model, or those of one training job, oldest first.

    Raises:
        ServiceError: MLflow does not answer.
    """
    condition = f"name = '{model}'" + (f" AND tags.job_key = '{job_key}'" if job_key else "")
    versions: list[ModelVersion] = []
    page = ""
    while True:
        asked = {"filter": condition, "max_results": "1000"} | ({"page_token": page} if page else {})
        answer = get(tracking_uri, "model-versions/search", asked)
        versions += [_parse(raw) for raw in answer.get("model_versions", ())]
        page = answer.get("next_page_token", "")
        if not page:
            return sorted(versions, key=lambda version: int(version.version))


def register_version(
    tracking_uri: str, *, model: str, source: str, run_id: str, tags: Mapping[str, str]
) -> ModelVersion:
    """Return the version of a training job, creating it if that job has none; `tags` must hold its `job_key`.

    Args:
        tracking_uri: MLflow's address.
        model: The model's name; it is registered if it is not yet.
        source: URI of the package. MLflow refuses a local one outside the run's artifacts.
        run_id: The MLflow run.
        tags: Tags of a new version.

    Raises:
        ServiceError: MLflow does not answer, or refuses the source.
    """
    try:
        post(tracking_uri, "registered-models/create", {"name": model})
    except AlreadyExistsError:
        found = find_version(tracking_uri, model=model, job_key=tags["job_key"])
        if found:
            return found
    body = {"name": model, "source": source, "run_id": run_id, "tags": _pairs(tags)}
    answer = post(tracking_uri, "model-versions/create", body)
    return _parse(answer["model_version"])


def _pairs(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in values.items()]


def _parse(raw: Mapping[str, Any]) -> ModelVersion:
    try:
        return ModelVersion(
            name=raw["name"],
            version=raw["version"],
            source=folder_of(raw["source"]),
            run_id=raw.get("run_id", ""),
            tags={tag["key"]: tag.get("value", "") for tag in raw.get("tags", ())},
            created_at_ms=int(raw.get("creation_timestamp", 0)),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ServiceError(
            f"MLflow must answer with a model version; got {error!r}. Nothing was changed. Check the server's version."
        ) from error
