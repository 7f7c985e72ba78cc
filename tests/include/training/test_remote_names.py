"""Names and labels that Kubernetes takes, one for each task instance and the same over its tries."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from include.training.remote_names import (
    MANAGED,
    TaskKey,
    label_value,
    remote_annotations,
    remote_labels,
    remote_name,
    task_of,
)

KEY = TaskKey(dag_id="train_flight_delays", run_id="asset_triggered__2013-04-01T00:00:00+00:00", task_id="train")
DNS_LABEL = re.compile(r"^[a-z]([-a-z0-9]{0,61}[a-z0-9])$")
LABEL_VALUE = re.compile(r"^[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$")


def test_each_task_instance_has_a_name_of_its_own() -> None:
    others = [
        KEY,
        replace(KEY, dag_id="other"),
        replace(KEY, run_id="other"),
        replace(KEY, task_id="other"),
        replace(KEY, map_index=0),
        replace(KEY, map_index=1),
    ]
    names = {remote_name("flight_delays", key, lake="s3://lake") for key in others}
    assert len(names) == len(others)
    assert remote_name("flight_delays", replace(KEY), lake="s3://lake") in names


def test_two_deployments_have_two_names_for_the_same_task() -> None:
    assert remote_name("flight_delays", KEY, lake="s3://staging") != remote_name("flight_delays", KEY, lake="s3://prod")


@pytest.mark.parametrize("model", ["a", "flight_delays", "x" * 63, "a_" * 31, f"{'a' * 33}_b"])
def test_a_name_leaves_room_for_what_a_job_adds_to_it(model: str) -> None:
    assert DNS_LABEL.match(f"{remote_name(model, KEY, lake='s3://lake')}-99-abcde")


@pytest.mark.parametrize("model", ["flight_delays", "customer_lifetime_value_regression", "x" * 63])
def test_a_name_leaves_room_for_what_a_train_job_adds_to_it(model: str) -> None:
    """JobSet's webhook checks the names that its pods will have, with the index of the last one."""
    assert DNS_LABEL.match(f"{remote_name(model, KEY, lake='s3://lake')}-node-0-999-abcde")


@pytest.mark.parametrize("text", ["", "..", "a" * 64, "manual__2013-03-01T00:00:00+00:00", "ü", "-a", "ok"])
def test_every_text_becomes_a_label(text: str) -> None:
    assert LABEL_VALUE.match(label_value(text))


def test_labels_say_whose_work_it_is() -> None:
    labels = remote_labels("flight_delays", KEY, job_key="2013-03-abc", lake="s3://lake")
    assert labels.items() >= MANAGED.items()
    assert labels["tradewind/job"] == "2013-03-abc"
    assert labels["tradewind/map-index"] == "none"
    assert all(LABEL_VALUE.match(value) for value in labels.values())
    assert label_value("a+b") != label_value("a:b")


def test_annotations_name_the_task_in_full() -> None:
    assert task_of(remote_annotations(KEY)) == KEY
    assert task_of(remote_annotations(replace(KEY, map_index=3))) == replace(KEY, map_index=3)
    assert task_of({}) is None
    assert task_of(remote_annotations(KEY) | {"tradewind/map-index": "x"}) is None
