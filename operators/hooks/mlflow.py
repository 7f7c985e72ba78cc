from __future__ import annotations

from pathlib import Path

from airflow.sdk import BaseHook

from include.registry.signing import Signer


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

    def get_signer(self) -> Signer | None:
        """Return what signs packages: the key in the file that the connection's extra names as `signing_key_file`."""
        key_file = self.get_connection(self.mlflow_conn_id).extra_dejson.get("signing_key_file")
        return Signer(key_file=Path(key_file)) if key_file else None
