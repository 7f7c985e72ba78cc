from __future__ import annotations

from airflow.sdk import BaseHook

from include.rollout.ledger import Ledger


class LedgerHook(BaseHook):
    """Resolves the connection of the ledger, whose host is the path of its SQLite file, into a `Ledger`."""

    conn_name_attr = "ledger_conn_id"
    default_conn_name = "tradewind_ledger"
    hook_name = "Tradewind ledger"

    def __init__(self, ledger_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.ledger_conn_id = ledger_conn_id

    def get_conn(self) -> Ledger:
        """Return the ledger that the connection names."""
        return Ledger(path=self.get_connection(self.ledger_conn_id).host)
