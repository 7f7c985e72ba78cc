"""What worker threads see of a model: its versions that are loaded, and where its requests go."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from include.errors import NotFoundError
from include.serving.router import Routes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from include.serving.protocol import RequestReader
    from include.serving.versions import LoadedVersion
    from include.spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """One model as worker threads see it: a snapshot that is replaced, never changed.

    Args:
        spec: The model's spec.
        reader: Reads its requests.
        versions: The versions that are loaded.
        failures: Version that should be loaded -> why it could not be.
        routes: Where requests go.
        revision: Number of the last change of the routes.
    """

    spec: ModelSpec
    reader: RequestReader
    versions: Mapping[str, LoadedVersion] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)
    routes: Routes = field(default_factory=Routes)
    revision: int = 0

    @property
    def champion(self) -> LoadedVersion | None:
        """Return the routed champion, if there is one and it is loaded."""
        return self.versions.get(self.routes.champion or "")

    def require_loaded(self, version: str) -> None:
        """Refuse a version that somebody names and that is not loaded.

        Raises:
            NotFoundError: So it is.
        """
        if version not in self.versions:
            raise NotFoundError(
                f"version {version[:64]!r} of model {self.spec.name!r} must be loaded to be named; it is not. Nothing "
                "was scored. Name none, and the routes choose."
            )
