from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk.bases.skipmixin import SkipMixin

from include import partitions
from include.spec import load_spec
from operators.rollout_operator import RolloutOperator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context


class DeployModelOperator(RolloutOperator, SkipMixin):
    """Loads a challenger into the model server, scores its golden rows, and starts its shadow beside the champion.

    A first version has nobody to be compared with: the tasks in `rival_task_ids` are skipped, and promoting it is
    recorded as a bootstrap. A challenger whose training data ends before the champion's is refused. Killed and run
    again, it ends in the same state.

    Args:
        model: Folder of the model below `include/models`.
        partition: Key of the partition whose decisions end with this rollout.
        version: Version to deploy; empty: the one with the alias `challenger`.
        force: Deploy a version although the champion knows newer data ("True" from a template counts).
        approved_by: Who approved the rollout, for the ledger.
        skip_if_superseded: Whether a `version` that is older than the champion is recorded as superseded and the task
            skipped, as for one that waited while a newer one took over, rather than refused ("True" counts).
        rival_task_ids: Tasks that compare with a champion; skipped when there is none, or when it is this version.
        mlflow_conn_id: Connection of the model registry.
        model_server_conn_id: Connection of the model server.
        ledger_conn_id: Connection of the ledger.

    Returns:
        `version`, `champion` (version or None), `is_bootstrap`, `is_champion`, `golden`, `plan`.
    """

    inherits_from_skipmixin = True
    template_fields: ClassVar[Sequence[str]] = ("partition", "version", "force", "approved_by", "skip_if_superseded")

    def __init__(
        self,
        *,
        partition: str = "{{ dag_run.partition_key }}",
        version: str = "",
        force: bool | str = False,
        approved_by: str = "",
        skip_if_superseded: bool | str = False,
        rival_task_ids: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.partition = partition
        self.version = version
        self.force = force
        self.approved_by = approved_by
        self.skip_if_superseded = skip_if_superseded
        self.rival_task_ids = rival_task_ids

    def execute(self, context: Context) -> dict[str, Any]:
        """Deploy the version and return what was found.

        Raises:
            AirflowSkipException: A newer version has taken over.
            PartitionError: The run has no partition key, or one that does not exist.
            NotFoundError: There is no such version, or no challenger.
            CorruptArtifactError: Its package does not match its digest, or its graph crashes, hangs or does not run.
            GateError: It scores its golden rows differently or absurdly slowly, or knows older data than the champion.
            SetupError: The ledger does not know the champion.
        """
        partitions.require(self.partition, source=load_spec(self.model).source, model=self.model)
        rollout = self.rollout(context)
        if self.version and str(self.skip_if_superseded) == "True":
            self.skip_superseded(rollout, self.version)
        deployment = rollout.deploy(self.version or None, force=str(self.force) == "True", approved_by=self.approved_by)
        found = asdict(deployment)
        self.log.info("%s v%s is loaded beside champion %s", self.model, deployment.version, deployment.champion)
        for stage in deployment.plan:
            self.log.info("planned: %(name)s needs %(num_requests)d requests, %(seconds)s s of %(limit_s)s s", stage)
        if self.rival_task_ids and not deployment.has_rivals:
            # Skipping leaves through an exception, which loses what would be returned.
            context["ti"].xcom_push(key="return_value", value=found)
            self.skip(context["ti"], [context["ti"].task.dag.get_task(task_id) for task_id in self.rival_task_ids])
        return found
