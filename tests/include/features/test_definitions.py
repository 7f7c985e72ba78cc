from __future__ import annotations

import pytest

from include.errors import SpecError
from include.features.definitions import load_definitions, measured_window
from include.models.airport_weather import features
from include.spec import ModelSpec, load_spec

WEATHER = load_spec("airport_weather")


def with_windows(*, drift: int, training: int = 28) -> ModelSpec:
    return WEATHER.model_copy(
        update={
            "drift": WEATHER.drift.model_copy(update={"window_partitions": drift}),
            "training": WEATHER.training.model_copy(update={"window_partitions": training}),
        }
    )


def test_a_model_without_store_features_needs_neither_views_nor_history() -> None:
    found = load_definitions(WEATHER)
    assert (found.views_sql, found.history_days, found.lookahead_partitions) == ({}, 0, 1)


def test_views_that_model_yaml_does_not_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "VIEWS", {"by_origin": "SELECT 1"}, raising=False)
    with pytest.raises(SpecError, match=r"VIEWS must be those of features.store in model.yaml, \[\]; got"):
        load_definitions(WEATHER)


@pytest.mark.parametrize(("ahead", "is_allowed"), [(-1, False), (0, True), (27, True), (28, False)])
def test_a_window_must_be_longer_than_labels_take(
    ahead: int, is_allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "LOOKAHEAD_PARTITIONS", ahead)
    if is_allowed:
        assert load_definitions(WEATHER).lookahead_partitions == ahead
    else:
        with pytest.raises(SpecError, match=r"must be 0 or more and below training.window_partitions, 28.*got"):
            load_definitions(WEATHER)


@pytest.mark.parametrize(
    ("partition", "num", "measured"),
    [
        ("2013-03-10", 1, ("2013-03-09",)),
        ("2013-03-10", 3, ("2013-03-07", "2013-03-08", "2013-03-09")),
        ("2013-01-02", 3, ("2013-01-01",)),
        ("2013-01-01", 3, ()),
    ],
)
def test_what_is_measured_has_its_labels(partition: str, num: int, measured: tuple[str, ...]) -> None:
    assert measured_window(with_windows(drift=num), partition) == measured


def test_without_late_labels_a_partition_is_measured_itself() -> None:
    assert measured_window(load_spec("flight_delays"), "2013-06") == ("2013-06",)
