from __future__ import annotations

import json
import logging
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from operators.hooks.ledger import LedgerHook
from operators.notifiers.slack import SlackNotifier, alert_on_failure

if TYPE_CHECKING:
    from airflow.sdk import Context

    from include.rollout.ledger import Ledger
    from tests.fakes import FakeSlack

pytestmark = pytest.mark.usefixtures("connections")


def context(*, task_id: str = "fit", try_number: int = 2, run_id: str = "r1", **others: Any) -> Context:
    task = SimpleNamespace(
        dag_id="train_flight_delays",
        task_id=task_id,
        run_id=run_id,
        map_index=-1,
        try_number=try_number,
        log_url="http://airflow/log",
    )
    dag_run = SimpleNamespace(partition_key="2013-06")
    return {"ti": task, "dag_run": dag_run, "exception": ValueError("no rows"), **others}  # type: ignore[return-value]


@pytest.fixture
def ledger() -> Ledger:
    return LedgerHook().get_conn()


@pytest.fixture
def token(slack: FakeSlack, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = {"conn_type": "slack", "password": slack.token, "extra": {"base_url": slack.base_url}}
    monkeypatch.setenv("AIRFLOW_CONN_SLACK_DEFAULT", json.dumps(connection))


def test_without_a_connection_a_failure_is_logged_and_kept(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        alert_on_failure("flight_delays")(context())
    (entry,) = ledger.entries("flight_delays", "alert")
    assert entry.subject == "train_flight_delays.fit"
    assert entry.evidence["text"] == (
        "train_flight_delays.fit failed for 2013-06, try 2, run r1\nValueError: no rows\nhttp://airflow/log"
    )
    assert entry.evidence["is_delivered"] is False
    assert "ValueError: no rows" in caplog.text


def test_a_connection_without_a_token_is_no_error(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_SLACK_DEFAULT", json.dumps({"conn_type": "slack"}))
    alert_on_failure("flight_delays")(context())
    assert ledger.entries()[0].evidence["problem"] == "no Slack token is set"


@pytest.mark.usefixtures("token")
def test_failures_of_one_run_share_a_thread(ledger: Ledger, slack: FakeSlack) -> None:
    for task_id, run_id in (("fit", "r1"), ("export", "r1"), ("fit", "r2")):
        alert_on_failure("flight_delays")(context(task_id=task_id, run_id=run_id))
    first, second, other = slack.messages
    assert "thread_ts" not in first
    assert second["thread_ts"] == "1700000000.000001"
    assert "thread_ts" not in other
    assert [entry.evidence["is_delivered"] for entry in ledger.entries(kind="alert")] == [True, True, True]
    assert first["channel"] == "#ml-alerts"


@pytest.mark.usefixtures("token")
def test_a_callback_that_runs_again_tells_nothing_new_and_another_try_does(slack: FakeSlack) -> None:
    for try_number in (1, 1, 2):
        alert_on_failure("flight_delays")(context(try_number=try_number))
    assert len(slack.messages) == 2


@pytest.mark.usefixtures("token")
def test_a_text_is_templated(ledger: Ledger, slack: FakeSlack) -> None:
    notifier = SlackNotifier(model="flight_delays", text="{{ dag_run.partition_key }} drifted", channel="#{{ team }}")
    notifier(context(team="ml"))
    assert (slack.messages[0]["text"], slack.messages[0]["channel"]) == ("2013-06 drifted", "#ml")
    assert ledger.entries()[0].model == "flight_delays"


@pytest.mark.usefixtures("token")
def test_a_slack_that_fails_does_not_fail_the_callback(slack: FakeSlack, ledger: Ledger) -> None:
    slack.status = 503
    alert_on_failure("flight_delays")(context())
    assert "HTTP 503" in ledger.entries()[0].evidence["problem"]


def test_a_secret_in_an_errors_message_is_masked(ledger: Ledger) -> None:
    from airflow.sdk.log import mask_secret

    mask_secret("hunter2-hunter2")
    alert_on_failure("flight_delays")(context(exception=ValueError("login hunter2-hunter2 refused")))
    assert "ValueError: login *** refused" in ledger.entries()[0].evidence["text"]
