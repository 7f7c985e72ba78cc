"""A package as a registered version: one MLflow run and one version a training job, however often it is tried."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from include.errors import CorruptArtifactError, NotFoundError, PartitionError
from include.registry.models import (
    CHALLENGER,
    SIGNATURE,
    ModelVersion,
    find_version,
    list_versions,
    register_version,
    set_alias,
    set_tag,
)
from include.registry.package import LOCK, METRICS, Package, read_package, write_package
from include.registry.runs import Point, ensure_run, finish, log

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from include.lake.storage import Storage
    from include.registry.signing import Signer


def require_newer(package: Package, *, champion: ModelVersion | None, force: bool) -> None:
    """Refuse a package whose training window ends before the champion's, unless a person insists.

    Raises:
        PartitionError: It does.
    """
    window_end = package.json(LOCK)["snapshot"]["partitions"][-1]
    champion_end = champion.tags.get("window_end", "") if champion else ""
    if window_end < champion_end and not force:
        raise PartitionError(
            f"a challenger of {package.model!r} must not be older than the champion, whose window ends {champion_end}; "
            f"got {window_end}. Nothing was registered. Train a newer partition, or set `force`."
        )


def register(
    tracking_uri: str, *, package: Package, links: Mapping[str, str], storage: Storage, signer: Signer | None = None
) -> ModelVersion:
    """Register a package's version and make it the challenger.

    A local package is copied into the run's artifacts, the only place from which MLflow accepts one.

    Args:
        tracking_uri: MLflow's address.
        package: What to register.
        links: Tags that lead back: dag_id, dag_run_id.
        storage: Credentials, if the run's artifacts are in an object store.
        signer: Who vouches for the package; None: nobody, and no server that wants a signature will load it.

    Raises:
        ServiceError: MLflow does not answer; a retry continues.
    """
    signature = {SIGNATURE: signer.sign(model=package.model, digest=package.digest)} if signer else {}
    version = find_version(tracking_uri, model=package.model, job_key=package.created_by_job)
    if version is None:
        version = _create(tracking_uri, package=package, links={**links, **signature}, storage=storage)
    set_alias(tracking_uri, model=package.model, alias=CHALLENGER, version=version.version)
    return version


def sign(tracking_uri: str, *, version: ModelVersion, signer: Signer, storage: Storage) -> None:
    """Sign a registered version, if its package is the one that was registered.

    Raises:
        NotFoundError: Its package is gone.
        CorruptArtifactError: Its package is another one, or damaged.
    """
    package = read_package(version.source, storage=storage)
    if (package.model, package.digest) != (version.name, version.tags.get("digest")):
        raise CorruptArtifactError(
            f"package of {version.name!r} v{version.version} must have its registered digest "
            f"{version.tags.get('digest', 'none')[:16]}; got {package.digest[:16]} of {package.model!r}. It was not "
            "signed. Restore the package."
        )
    signature = signer.sign(model=package.model, digest=package.digest)
    set_tag(tracking_uri, model=version.name, version=version.version, key=SIGNATURE, value=signature)


def sign_unsigned(tracking_uri: str, *, model: str, signer: Signer, storage: Storage) -> Iterator[str]:
    """Sign each version of a model that has no signature, and yield what was done about it."""
    for version in list_versions(tracking_uri, model=model):
        if SIGNATURE in version.tags:
            continue
        try:
            sign(tracking_uri, version=version, signer=signer, storage=storage)
        except (NotFoundError, CorruptArtifactError) as error:
            yield f"{model} v{version.version} stays unsigned: {error}"
        else:
            yield f"signed {model} v{version.version}"


def _create(tracking_uri: str, *, package: Package, links: Mapping[str, str], storage: Storage) -> ModelVersion:
    lock, metrics = package.json(LOCK), package.json(METRICS)
    tags = _tags(package, lock) | dict(links)
    finished_at_ms = metrics["training"]["finished_at_ms"]  # not now: a second try must log the same points
    started_ms = finished_at_ms - int(1000 * sum(metrics["training"]["seconds"].values()))
    run = ensure_run(
        tracking_uri, experiment=package.model, name=package.created_by_job, start_ms=started_ms, tags=tags
    )
    params = _scalars(lock["training"])
    params |= {"seed": lock["seed"], "snapshot": lock["snapshot"]["sha256"], "num_rows": lock["snapshot"]["num_rows"]}
    log(tracking_uri, run=run, params=params, metrics=list(_points(metrics)), timestamp_ms=finished_at_ms)
    copied = write_package(
        f"{run.artifact_uri}/package",
        model=package.model,
        job_key=package.created_by_job,
        contents=package.contents,
        storage=storage,
    )
    finish(tracking_uri, run=run, end_ms=finished_at_ms)  # before the version: with one, a retry looks no further
    return register_version(tracking_uri, model=package.model, source=copied.uri, run_id=run.run_id, tags=tags)


def _tags(package: Package, lock: Mapping[str, Any]) -> dict[str, str]:
    partitions = lock["snapshot"]["partitions"]
    return {
        "job_key": package.created_by_job,
        "digest": package.digest,
        "commit": lock["commit"],
        "window_start": partitions[0],
        "window_end": partitions[-1],
        "snapshot": lock["snapshot"]["uri"],
        "data_versions": json.dumps(lock["snapshot"]["versions"], sort_keys=True),
        "parameters": json.dumps({**_scalars(lock["training"]), "seed": lock["seed"]}, sort_keys=True),
    }


def _scalars(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if not isinstance(value, dict)}


def _points(metrics: Mapping[str, Any]) -> Iterator[Point]:
    """Return the metrics worth a curve or a column in MLflow; the slices stay in metrics.json."""
    for step, epoch in enumerate(metrics["training"]["epochs"]):
        for name, value in epoch.items():
            yield Point(key=name, value=value, step=step)
    named = {"held_out": metrics["validation"], "trees": metrics["trees"], "baseline": metrics["baseline"]}
    named |= {"champion": metrics["champion"] or {}}
    named |= {name: metrics["compression"].get(name, {}) for name in ("fp32", "int8")}
    for group, found in named.items():
        for name, value in found.items():
            if isinstance(value, int | float):
                yield Point(key=f"{group}/{name}", value=value)
        for rows, median in found.get("latency_us", {}).items():
            yield Point(key=f"{group}/latency_us_{rows}_rows", value=median)
    taken = {"resources": metrics.get("resources", {}), "seconds": metrics["training"]["seconds"]}
    for group, found in taken.items():
        yield from (Point(key=f"{group}/{name}", value=value) for name, value in found.items())
