from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseNotifier

from include.alerts.delivery import DEFAULT_CHANNEL, Alert, deliver
from operators.hooks.ledger import LedgerHook
from operators.hooks.slack import SlackHook

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context


class SlackNotifier(BaseNotifier):
    """Tells people about a task: in the ledger always, in Slack where a token is set, in the task's log otherwise.

    All messages of a Dag run go into one thread. A task try is told once. Slack being down fails nothing.

    Args:
        model: The model that the task works for.
        text: What to say, templated; without it, that the task failed and why.
        channel: Slack's channel.
        slack_conn_id: Connection whose password is the bot's token; it may be missing. Its extra may name `base_url`.
        ledger_conn_id: Connection of the ledger.
    """

    template_fields: Sequence[str] = ("model", "text", "channel")

    def __init__(
        self,
        *,
        model: str,
        text: str | None = None,
        channel: str = DEFAULT_CHANNEL,
        slack_conn_id: str = SlackHook.default_conn_name,
        ledger_conn_id: str = LedgerHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.text = text
        self.channel = channel
        self.slack_conn_id = slack_conn_id
        self.ledger_conn_id = ledger_conn_id

    def notify(self, context: Context) -> None:
        """Tell the alert of a task, once for each try."""
        from airflow.sdk.log import redact

        task = context["ti"]
        where = f"{task.dag_id}.{task.task_id}"
        kind = "failed" if self.text is None else "told"
        # An error's message may quote what it was given; only Airflow knows which parts are secret.
        text = redact(self.text or _failure_text(context, where=where))
        alert = Alert(
            key=f"alert:{where}:{task.run_id}:{task.map_index}:{task.try_number}:{kind}",
            model=self.model,
            subject=where,
            run=f"{task.dag_id}:{task.run_id}",
            actor=f"{task.dag_id}:{task.run_id}",
            channel=self.channel,
            text=str(text),
        )
        deliver(
            alert, ledger=LedgerHook(self.ledger_conn_id).get_conn(), poster=SlackHook(self.slack_conn_id).get_conn()
        )


def alert_on_failure(model: str) -> SlackNotifier:
    """Return the `on_failure_callback` of every task; for `default_args`, so that it runs in the task's process."""
    return SlackNotifier(model=model)


def _failure_text(context: Context, *, where: str) -> str:
    task = context["ti"]
    partition = getattr(context.get("dag_run"), "partition_key", None)
    about = f" for {partition}" if partition else ""
    error = context.get("exception")
    why = f"{type(error).__name__}: {error}" if isinstance(error, BaseException) else str(error or "no error was kept")
    return f"{where} failed{about}, try {task.try_number}, run {task.run_id}\n{why}\n{task.log_url}"
