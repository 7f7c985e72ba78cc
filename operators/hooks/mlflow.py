from __future__ import annotations

from airflow.sdk import BaseHook


class MlflowHook(BaseHook):
    """Resolves the connection of the MLflow tracking server and model registry into its URL."""

    conn_name_attr = "mlflow_conn_id"
    default_conn_name = "mlflow_default"
    hook_name = "MLflow"

    def __init__(self, mlflow_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.mlflow_conn_id = mlflow_conn_id

    def get_conn(self) -> str:
        """Return the tracking URL, for example `http://127.0.0.1:5000`."""
        connection = self.get_connection(self.mlflow_conn_id)
        scheme = connection.schema or "http"
        return f"{scheme}://{connection.host}:{connection.port}"
