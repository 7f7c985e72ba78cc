from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from include import partitions
from include.spec import load_spec
from operators.hooks.lake import LakeHook

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context


class IngestPartitionOperator(BaseOperator):
    """Writes a landed partition's files, typed and strictly checked, into the model's staged tables.

    Returns the version, rows and checksum of each table. Equal content landed again makes no new version. A file that
    is not what model.yaml declares fails the task before any table is written. Killed and run again, it ends in the
    same state.

    Args:
        model: Folder of the model below `include/models`.
        partition: Key of the partition.
        lake_conn_id: Connection of the lake.
    """

    template_fields: Sequence[str] = ("partition",)

    def __init__(
        self,
        *,
        model: str,
        partition: str = "{{ dag_run.partition_key }}",
        lake_conn_id: str = LakeHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.partition = partition
        self.lake_conn_id = lake_conn_id

    def execute(self, context: Context) -> dict[str, Any]:
        """Ingest the partition; return its staged versions.

        Raises:
            BadInputError: The partition is unknown or incomplete, or a file is not what model.yaml declares.
        """
        from include.lake.ingest import ingest_partition

        spec = load_spec(self.model)
        partition = partitions.require(self.partition, source=spec.source, model=self.model)
        storage = LakeHook(self.lake_conn_id).get_conn()
        commits = ingest_partition(
            spec=spec, storage=storage, partition=partition, run_id=str(context.get("run_id", ""))
        )
        for table, commit in commits.items():
            state = "new" if commit.is_new else "equal content, unchanged"
            self.log.info("%s %s: %d rows, version %d (%s)", table, partition, commit.num_rows, commit.version, state)
        return {
            "model": self.model,
            "partition": partition,
            "tables": {
                table: {
                    "version": commit.version,
                    "num_rows": commit.num_rows,
                    "checksum": commit.checksum,
                    "is_new": commit.is_new,
                }
                for table, commit in commits.items()
            },
        }
