from __future__ import annotations

from airflow.sdk import BaseHook

from include.runtime.airflow_api import AirflowApi


class AirflowApiHook(BaseHook):
    """Resolves the connection of Airflow's own REST API into a client; tasks have no access to its database.

    Its login needs the right to read, trigger and delete Dag runs, no more.
    """

    conn_name_attr = "airflow_api_conn_id"
    default_conn_name = "airflow_api_default"
    hook_name = "Airflow REST API"

    def __init__(self, airflow_api_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.airflow_api_conn_id = airflow_api_conn_id

    def get_conn(self) -> AirflowApi:
        """Return a client that acts as the connection's user."""
        connection = self.get_connection(self.airflow_api_conn_id)
        port = f":{connection.port}" if connection.port else ""
        return AirflowApi(
            base_url=f"{connection.schema or 'http'}://{connection.host}{port}",
            username=connection.login or "",
            password=connection.password or "",
        )
