from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.running import RunningModelServer


@pytest.fixture
def load(tmp_path: Path, model_server: RunningModelServer) -> Callable[..., str]:
    """Return a function that makes a package with a bias, loads it as a version, and returns that version."""
    from tests.tiny_models import tiny_package

    def make_and_load(version: str, **how: Any) -> str:
        package = tiny_package(tmp_path / f"package-{version}", **how)
        model_server.client.load(model="flight_delays", version=version, uri=package.uri, digest=package.digest)
        return version

    return make_and_load


@pytest.fixture
def champion(model_server: RunningModelServer, load: Callable[..., str]) -> RunningModelServer:
    """Run the model server with version 1 as champion."""
    model_server.client.set_routes(model="flight_delays", champion=load("1"))
    return model_server
