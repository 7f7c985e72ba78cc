from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import BaseHook

from include.lake.connection import storage_from

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from include.lake.storage import Storage


class LakeHook(BaseHook):
    """Resolves the connection of the lake into a `Storage`.

    A connection of type `fs` names a local folder in its extra `path`. One of type `aws` names `s3://bucket/prefix` in
    its extra `lake_root`; login, password, `region_name` and `endpoint_url` become delta-rs storage options. Its extra
    `local_path` names a folder for what needs a disk: the online store and the prediction log of the model server.
    """

    conn_name_attr = "lake_conn_id"
    default_conn_name = "tradewind_lake"
    hook_name = "Tradewind lake"

    def __init__(self, lake_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.lake_conn_id = lake_conn_id

    def get_conn(self) -> Storage:
        """Return the storage that the connection names.

        Raises:
            SetupError: The connection names neither a folder nor a bucket.
        """
        return self._storage(self.get_connection(self.lake_conn_id))

    async def aget_conn(self) -> Storage:
        """Return the storage that the connection names, from within an event loop, as triggers need it.

        Raises:
            SetupError: As for `get_conn`.
        """
        return self._storage(await self.aget_connection(self.lake_conn_id))

    def _storage(self, connection: Connection) -> Storage:
        return storage_from(
            name=self.lake_conn_id,
            extra=connection.extra_dejson,
            login=connection.login,
            password=connection.password,
        )
