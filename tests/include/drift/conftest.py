"""A partition of real flights, what a model answered about them, and a version that was trained on another one."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING

import pytest

from include.drift.champion import Champion
from include.drift.reference import parse_reference
from include.spec import ModelSpec, load_spec
from tests.flights import log_predictions, publish_month, reference_of_month

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    from include.lake.storage import Storage


@pytest.fixture(scope="session")
def spec() -> ModelSpec:
    return load_spec("flight_delays")


@pytest.fixture
def publish(spec: ModelSpec, storage: Storage) -> Callable[..., None]:
    return partial(publish_month, spec=spec, storage=storage)


@pytest.fixture
def served(spec: ModelSpec, storage: Storage) -> Callable[..., pa.Table]:
    return partial(log_predictions, spec=spec, storage=storage)


@pytest.fixture
def champion(spec: ModelSpec, storage: Storage, publish: Callable[..., None]) -> Champion:
    """Return version 1, trained on March."""
    publish(partition="2013-03")
    made = reference_of_month(spec=spec, storage=storage, partition="2013-03")
    return Champion(
        version="1",
        reference=parse_reference(json.dumps(made)),
        validation_loss=0.5,
        window_start="2013-01",
        window_end="2013-03",
    )
