from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException

if TYPE_CHECKING:
    from include.alerts.slack import SlackPoster


class SlackHook(BaseHook):
    """Resolves the connection of Slack, whose password is the bot's token, into what posts there.

    The connection may be missing. Its extra may name `base_url`.
    """

    conn_name_attr = "slack_conn_id"
    default_conn_name = "slack_default"
    hook_name = "Slack"

    def __init__(self, slack_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.slack_conn_id = slack_conn_id

    def get_conn(self) -> SlackPoster | None:
        """Return what posts to Slack; None where no connection or no token is set."""
        from include.alerts.slack import DEFAULT_BASE_URL, SlackPoster

        try:
            connection = self.get_connection(self.slack_conn_id)
        except AirflowNotFoundException:
            return None
        if not connection.password:
            return None
        return SlackPoster(
            token=connection.password, base_url=connection.extra_dejson.get("base_url") or DEFAULT_BASE_URL
        )
