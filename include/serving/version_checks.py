"""What a version must be before it enters the server, takes traffic, or leaves; these check, and change nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from include.errors import BadInputError
from include.serving.protocol import RequestReader
from include.spec import load_spec

if TYPE_CHECKING:
    from collections.abc import Collection

    from include.serving.router import Routes
    from include.serving.served_model import ServedModel
    from include.serving.versions import LoadedVersion


def require_champions_inputs(loaded: LoadedVersion, *, served: ServedModel | None, max_rows: int) -> None:
    """Refuse a version of other inputs or outputs than the routed champion's: one reader serves all versions.

    Args:
        loaded: The version that is to enter.
        served: What is served of its model; None: nothing yet.
        max_rows: Most rows of a request.

    Raises:
        BadInputError: Its graph, or model.yaml since the champion was loaded, names other inputs, kinds or outputs.
    """
    champion = served.champion if served else None
    if served is None or champion is None:
        return
    asked = RequestReader.of(load_spec(loaded.model), max_rows=max_rows)
    differing = champion.input_kinds.items() ^ loaded.input_kinds.items()
    differing |= served.reader.input_kinds.items() ^ asked.input_kinds.items()
    names = {name for name, _ in differing} | ({"label"} if served.reader.output != asked.output else set())
    if names:
        raise BadInputError(
            f"version {loaded.version} of model {loaded.model!r} must have the inputs and the label of champion "
            f"{champion.version}; got a difference in {', '.join(sorted(names))}. It was not loaded; the "
            "champion goes on serving. Give the model a new name, or route nothing first."
        )


def require_routable(routes: Routes, *, model: str, loaded: Collection[str]) -> None:
    """Refuse routes that name a version that is not loaded.

    Raises:
        BadInputError: They do.
    """
    for version in (routes.champion, routes.canary, routes.shadow):
        if version is not None and version not in loaded:
            raise BadInputError(
                f"routes of model {model!r} must name loaded versions ({', '.join(loaded) or 'none'}); got "
                f"{version}. The routes stay as they were. Load it first."
            )


def require_unrouted(version: str, *, model: str, routes: Routes) -> None:
    """Refuse to unload a version that a route names.

    Raises:
        BadInputError: One does.
    """
    if role := routes.role_of(version):
        raise BadInputError(
            f"version {version} of model {model!r} must take no traffic to be unloaded; got {role}. It stays "
            "loaded. Set other routes first."
        )
