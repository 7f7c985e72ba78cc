from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator

from include.spec import load_spec
from operators.hooks.lake import LakeHook
from operators.retries import MachinesApartMixin

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow.sdk import Context

    from include.training.local import TrainerProcess


class TrainModelOperator(MachinesApartMixin, BaseOperator):
    """Trains on this machine: runs `python -m include.training` as a child process and logs what it prints.

    The same snapshot, overrides, spec and code are the same job, and training is deterministic. So a retry, and a clear
    of a task that succeeded, return the kept result of a complete job without training again, and else continue at the
    newest checkpoint; to train anew, change the `seed`. One process at a time trains a job, and tries share it.
    `on_kill` and a timeout stop it, with a checkpoint. When the task gets SIGKILL it goes on, and the next try on this
    machine follows it; when none comes within ten minutes it saves a checkpoint and ends.

    Args:
        model: Name of the model's folder.
        snapshot: What `BuildSnapshotOperator` returned.
        overrides: JSON object of `seed` and fields of the spec's `training`; null leaves the spec's value.
        lake_conn_id: Connection of the lake.

    Returns:
        `model`, `job_uri`, `job_key`, `window`, `num_epochs`, `validation_loss`, `device`, `seconds` by step.

    Raises:
        BadInputError: The job, its data or the model's code cannot be used; no retry follows.
        SetupError: It needs more memory than there is; no retry follows.
        TrainingError: It was stopped, took too long, or the machine failed more than five times in a row without a new
            checkpoint, or fifty times in all, which use up no retry; a retry continues at the newest checkpoint.
    """

    template_fields: ClassVar[Sequence[str]] = ("model", "snapshot", "overrides", "lake_conn_id")

    def __init__(
        self,
        *,
        model: str,
        snapshot: Mapping[str, Any],
        overrides: str = "{}",
        lake_conn_id: str = LakeHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.snapshot = snapshot
        self.overrides = overrides
        self.lake_conn_id = lake_conn_id
        self._trainer: TrainerProcess | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        """Train; what comes back is small and JSON."""
        from include.training.interruptions import Interruptions
        from include.training.local import TrainerProcess
        from include.training.result import read_result
        from include.training.submit import finished_job, submit_job

        spec = load_spec(self.model)
        storage = LakeHook(self.lake_conn_id).get_conn()
        job = submit_job(spec=spec, snapshot=self.snapshot, overrides=self.overrides, storage=storage)
        if read_result(job, storage=storage) is None:
            interruptions = Interruptions.of(job.key, context.get("task_state_store"))
            self._trainer = TrainerProcess(
                job=job,
                storage=storage,
                timeout_s=spec.training.timeout_s,
                say=self.log.info,
                interruptions=interruptions,
            )
            self._trainer.run()
            interruptions.reset()
        return finished_job(job, storage=storage)

    def on_kill(self) -> None:
        """Stop the trainer; it saves a checkpoint."""
        if self._trainer is not None:
            self._trainer.terminate()
