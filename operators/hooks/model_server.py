from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from airflow.sdk import BaseHook

from include.serving.client import ModelServerClient

if TYPE_CHECKING:
    from airflow.sdk import Connection


class ModelServerHook(BaseHook):
    """Resolves the connection of the model server into a client.

    Its password is the admin token, or its extra names a `token_file`, which is read at each call: a token that is
    rotated meanwhile stops no task.
    """

    conn_name_attr = "model_server_conn_id"
    default_conn_name = "model_server_default"
    hook_name = "Model server"

    def __init__(self, model_server_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.model_server_conn_id = model_server_conn_id

    def get_conn(self) -> ModelServerClient:
        """Return a client of the server's inference and admin calls."""
        return self._client(self.get_connection(self.model_server_conn_id))

    async def aget_conn(self) -> ModelServerClient:
        """Return the client, from within an event loop, as triggers need it; its calls themselves would block one."""
        return self._client(await self.aget_connection(self.model_server_conn_id))

    def _client(self, connection: Connection) -> ModelServerClient:
        scheme = connection.schema or "http"
        token_file = connection.extra_dejson.get("token_file")
        return ModelServerClient(
            base_url=f"{scheme}://{connection.host}:{connection.port}",
            admin_token=connection.password or "",
            token_file=Path(token_file) if token_file else None,
        )
