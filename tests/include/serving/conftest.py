from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.running import RunningModelServer


@pytest.fixture
def load(tmp_path: Path, model_server: RunningModelServer) -> Callable[..., str]:
    """Return a function that makes a package with a bias, loads it as a version, and returns that version."""
    from tests.tiny_models import tiny_package

    def make_and_load(version: str, **how: object) -> str:
        package = tiny_package(tmp_path / f"package-{version}", **how)
        model_server.client.load(model="flight_delays", version=version, uri=package.uri, digest=package.digest)
        return version

    return make_and_load
