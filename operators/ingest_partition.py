from __future__ import annotations

from typing import TYPE_CHECKING, Any

from operators.partition_operator import PartitionOperator

if TYPE_CHECKING:
    from airflow.sdk import Context


class IngestPartitionOperator(PartitionOperator):
    """Writes a landed partition's files, typed and strictly checked, into the model's staged tables.

    Returns the version, rows and checksum of each table. Equal content landed again makes no new version. A file that
    is not what model.yaml declares fails the task before any table is written. Killed and run again, it ends in the
    same state.

    Args:
        model: Folder of the model below `include/models`.
        partition: Key of the partition.
        lake_conn_id: Connection of the lake.
    """

    def execute(self, context: Context) -> dict[str, Any]:
        """Ingest the partition; return its staged versions.

        Raises:
            BadInputError: The partition is unknown or incomplete, or a file is not what model.yaml declares.
        """
        from include.lake.ingest import ingest_partition

        on = self.subject()
        commits = ingest_partition(
            spec=on.spec, storage=on.storage, partition=on.partition, run_id=str(context.get("run_id", ""))
        )
        for table, commit in commits.items():
            state = "new" if commit.is_new else "equal content, unchanged"
            rows, version = commit.num_rows, commit.version
            self.log.info("%s %s: %d rows, version %d (%s)", table, on.partition, rows, version, state)
        return {
            "model": self.model,
            "partition": on.partition,
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
