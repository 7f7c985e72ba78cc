from __future__ import annotations

from typing import TYPE_CHECKING, Any

from include.spec import load_spec
from operators.hooks.lake import LakeHook
from operators.hooks.mlflow import MlflowHook
from operators.hooks.model_server import ModelServerHook
from operators.partition_operator import PartitionOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from include.drift.champion import Champion
    from include.drift.monitor import Measurement


class MeasureDriftOperator(PartitionOperator):
    """Joins a partition's served predictions to their labels and publishes drift and performance, one row a version.

    What the labels say of a version that is just rolled out, the model server is told: they are evidence of its
    rollout. Rows go to the Delta table `performance`; equal ones make no new version. Without predictions nothing is
    written. Killed and run again, it ends in the same table.

    Args:
        model: Name of the model's folder.
        partition: Key of the partition.
        lake_conn_id: Connection of the lake.
        mlflow_conn_id: Connection of the registry, which names the champion.
        model_server_conn_id: Connection of the model server, whose prediction log is flushed first.

    Returns:
        `partition`, `champion` (its version or None), `versions` with their counts and losses, `prediction_psi`,
        `label_psi`, `drifted_inputs`, `expected_gain`.

    Raises:
        PartitionError: The partition key is missing or names no partition.
        NotFoundError: The partition was never published.
        CorruptArtifactError: The champion's package or a file of the prediction log cannot be read.
        ServiceError: The registry or the model server does not answer.
    """

    def __init__(
        self,
        *,
        mlflow_conn_id: str = MlflowHook.default_conn_name,
        model_server_conn_id: str = ModelServerHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.mlflow_conn_id = mlflow_conn_id
        self.model_server_conn_id = model_server_conn_id

    def execute(self, context: Context) -> dict[str, Any]:  # noqa: ARG002 - Airflow passes it by name
        """Measure the partition; what comes back is small and JSON."""
        measurement = self.measure(self.find_champion())
        limits = load_spec(self.model).drift
        return {
            "partition": measurement.partition,
            "champion": measurement.champion_version,
            "versions": {
                found.model_version: {
                    "num_predictions": found.num_predictions,
                    "num_labelled": found.num_labelled,
                    "loss": found.loss,
                    "baseline_loss": found.baseline_loss,
                }
                for found in measurement.versions
            },
            "prediction_psi": measurement.prediction_psi,
            "label_psi": measurement.label_psi,
            "drifted_inputs": [item.name for item in measurement.inputs if item.exceeds(limits)],
            "expected_gain": measurement.gain.mean if measurement.gain else None,
        }

    def find_champion(self) -> Champion | None:
        """Return the version that serves now."""
        from include.drift.champion import load_champion

        tracking_uri = MlflowHook(self.mlflow_conn_id).get_conn()
        storage = LakeHook(self.lake_conn_id).get_conn()
        return load_champion(tracking_uri=tracking_uri, model=self.model, storage=storage)

    def measure(self, champion: Champion | None) -> Measurement:
        """Return what the partition's predictions say, after the model server has written all of them."""
        from include.drift.monitor import measure_partition
        from include.drift.paired import post_label_evidence

        on = self.subject()
        if champion is not None and on.spec.rollout.target == "local":  # else there is no server, or none yet
            server = ModelServerHook(self.model_server_conn_id).get_conn()
            server.flush()
            told = post_label_evidence(spec=on.spec, storage=on.storage, partition=on.partition, client=server)
            self.log.info("labels of the version that is rolled out: %s", told or "none is")
        return measure_partition(spec=on.spec, storage=on.storage, partition=on.partition, champion=champion)
