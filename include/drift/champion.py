from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from include.drift.reference import Reference, parse_reference
from include.errors import CorruptArtifactError
from include.registry.models import CHAMPION, get_alias
from include.registry.package import DRIFT_REFERENCE, METRICS, read_package

if TYPE_CHECKING:
    from include.lake.storage import Storage
    from include.registry.models import ModelVersion
    from include.registry.package import Package


@dataclass(frozen=True, kw_only=True)
class Champion:
    """The version that serves now, as the monitor needs it.

    Args:
        version: Its number in the registry.
        reference: What it saw in training.
        validation_loss: Its own, on the newest rows of its window; None if its package does not say.
        window_start: First partition of its training window.
        window_end: Last one.
    """

    version: str
    reference: Reference
    validation_loss: float | None
    window_start: str | None
    window_end: str | None


def load_champion(*, tracking_uri: str, model: str, storage: Storage) -> Champion | None:
    """Return the version that the registry calls champion, None if there is none.

    Raises:
        CorruptArtifactError: Its package is damaged or holds no drift reference.
        NotFoundError: Its package is gone.
        ServiceError: The registry does not answer.
    """
    version = get_alias(tracking_uri, model=model, alias=CHAMPION)
    return None if version is None else describe(version, storage=storage)


def describe(version: ModelVersion, *, storage: Storage) -> Champion:
    """Return what the monitor needs of a version, from its tags and its package.

    Raises:
        CorruptArtifactError: Its package is damaged or holds no drift reference.
        NotFoundError: Its package is gone.
    """
    package = read_package(version.source, storage=storage)
    if DRIFT_REFERENCE not in package.contents:
        raise CorruptArtifactError(
            f"package {package.uri} must hold {DRIFT_REFERENCE}; got {', '.join(sorted(package.files))}. Nothing was "
            "measured. Train the version again."
        )
    return Champion(
        version=version.version,
        reference=parse_reference(package.contents[DRIFT_REFERENCE].decode()),
        validation_loss=_validation_loss(package),
        window_start=version.tags.get("window_start"),
        window_end=version.tags.get("window_end"),
    )


def _validation_loss(package: Package) -> float | None:
    """Return the loss that the package states for what it serves on its validation rows.

    Packages from before there were tasks call it `log_loss`.
    """
    if METRICS not in package.contents:
        return None
    metrics: Any = package.json(METRICS)
    try:
        found = metrics["validation"]
        return float(found["loss"] if "loss" in found else found["log_loss"])
    except (KeyError, TypeError, ValueError):
        return None
