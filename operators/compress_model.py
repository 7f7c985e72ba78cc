from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowSkipException

from operators.hooks.lake import LakeHook

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow.sdk import Context


class CompressModelOperator(BaseOperator):
    """Quantizes a version to int8, measures it against fp32, chooses what serves, and writes the model package.

    It is skipped, and so is all that follows, if the version's gates stopped it. A package that is complete is returned
    as it is; killed and run again, it ends with one package.

    Args:
        model: Name of the model's folder.
        evaluation: What `EvaluateModelOperator` returned.
        lake_conn_id: Connection of the lake.

    Returns:
        `model`, `package_uri`, `digest`, `job_key`, `serves` (int8 or fp32), `reasons` against int8, and what was
        measured of `fp32` and `int8`: `loss`, the task's metrics, `size_bytes`, `latency_us` by rows of a request.

    Raises:
        AirflowSkipException: The version's gates stopped it.
        CorruptArtifactError: Its snapshot or graph is damaged.
    """

    template_fields: ClassVar[Sequence[str]] = ("model", "evaluation", "lake_conn_id")

    def __init__(
        self,
        *,
        model: str,
        evaluation: Mapping[str, Any],
        lake_conn_id: str = LakeHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.evaluation = evaluation
        self.lake_conn_id = lake_conn_id

    def execute(self, context: Context) -> dict[str, Any]:  # noqa: ARG002 - Airflow passes it by name
        """Write the package; what comes back is small and JSON."""
        from include.registry.assemble import assemble_package
        from include.training.job import load_job

        if not self.evaluation["may_continue"]:
            raise AirflowSkipException(
                f"{self.evaluation['job_key']} of {self.model!r} was stopped: {'; '.join(self.evaluation['reasons'])}"
            )
        storage = LakeHook(self.lake_conn_id).get_conn()
        assembled = assemble_package(load_job(self.evaluation["job_uri"], storage=storage), storage=storage)
        compression = assembled.metrics["compression"]
        self.log.info("%s serves. Against int8: %s", compression["serves"], compression["reasons"] or "nothing")
        return {
            "model": self.model,
            "package_uri": assembled.package.uri,
            "digest": assembled.package.digest,
            "job_key": assembled.package.created_by_job,
            "serves": compression["serves"],
            "reasons": compression["reasons"],
            **{graph: compression[graph] for graph in ("fp32", "int8") if graph in compression},
        }
