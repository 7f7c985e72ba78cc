"""Dags are unpaused once they are there, consumers first."""

import threading
from collections.abc import Iterator

import pytest

from include.errors import ServiceError
from include.runtime.airflow_api import AirflowApi
from tests.fake_airflow import PASSWORD, FakeAirflow

STAGES = ("train", "ingest")


@pytest.fixture
def airflow() -> Iterator[FakeAirflow]:
    fake = FakeAirflow(paused={"ingest_old": True, "train_old": True})
    server = fake.start()
    yield fake
    server.shutdown()
    server.server_close()


def api_of(airflow: FakeAirflow) -> AirflowApi:
    return AirflowApi(base_url=airflow.base_url, username="reconciler", password=PASSWORD)


def test_a_model_that_was_just_added_is_waited_for(airflow: FakeAirflow) -> None:
    adds = threading.Timer(0.5, lambda: airflow.paused.update({"ingest_new": True, "train_new": True}))
    adds.start()

    known = api_of(airflow).unpause_in_order(STAGES, timeout_s=20, expected=["ingest_new", "train_new"])

    adds.join()
    assert known == ["ingest_new", "ingest_old", "train_new", "train_old"]
    assert not any(airflow.paused.values())


def test_a_dag_that_never_appears_keeps_no_other_paused(airflow: FakeAirflow) -> None:
    known = api_of(airflow).unpause_in_order(STAGES, timeout_s=0.1, expected=["ingest_new"])

    assert known == ["ingest_old", "train_old"]
    assert not any(airflow.paused.values())


def test_a_stage_without_any_dag_is_an_error(airflow: FakeAirflow) -> None:
    with pytest.raises(ServiceError, match=r"Dags of the stages \['deploy'\] must appear within 0 s"):
        api_of(airflow).unpause_in_order(("deploy", *STAGES), timeout_s=0.1)
    assert all(airflow.paused.values())


def test_what_a_person_has_paused_stays_so(airflow: FakeAirflow) -> None:
    api_of(airflow).unpause_in_order(STAGES, timeout_s=1, known=["ingest_old"])

    assert airflow.paused == {"ingest_old": True, "train_old": False}
