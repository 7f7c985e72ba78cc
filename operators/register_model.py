from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowSkipException

from operators.assets import challenger_asset
from operators.hooks.lake import LakeHook
from operators.hooks.mlflow import MlflowHook

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow.sdk import Context


class RegisterModelOperator(BaseOperator):
    """Registers a package's version in MLflow with the alias `challenger`, and emits the challenger asset.

    One training job makes one MLflow run and one version: killed and run again, it finds both. It is skipped, without
    an event, for the version that is the champion already.

    Args:
        model: Name of the model's folder.
        package: What `CompressModelOperator` returned.
        force: Whether a version may be older than the champion; text `True` or `False`.
        lake_conn_id: Connection of the lake.
        mlflow_conn_id: Connection of MLflow; its extra names the key that signs the package.

    Returns:
        `model`, `version`, `uri` of its package, `digest`, `job_key`, `run_id`, `window`: also the event's extra.

    Raises:
        AirflowSkipException: The version is the champion.
        PartitionError: Its window ends before the champion's.
        CorruptArtifactError: The package is damaged.
        ServiceError: MLflow does not answer.
    """

    template_fields: ClassVar[Sequence[str]] = ("model", "package", "force", "lake_conn_id", "mlflow_conn_id")

    def __init__(
        self,
        *,
        model: str,
        package: Mapping[str, Any],
        force: bool | str = False,
        lake_conn_id: str = LakeHook.default_conn_name,
        mlflow_conn_id: str = MlflowHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(outlets=[challenger_asset(model)], **kwargs)
        self.model = model
        self.package = package
        self.force = force
        self.lake_conn_id = lake_conn_id
        self.mlflow_conn_id = mlflow_conn_id

    def execute(self, context: Context) -> dict[str, Any]:
        """Register the version; what comes back is small and JSON."""
        from include.registry.models import CHAMPION, get_alias
        from include.registry.package import read_package
        from include.registry.register import register, require_newer

        storage = LakeHook(self.lake_conn_id).get_conn()
        mlflow = MlflowHook(self.mlflow_conn_id)
        tracking_uri = mlflow.get_conn()
        package = read_package(self.package["package_uri"], storage=storage)
        champion = get_alias(tracking_uri, model=self.model, alias=CHAMPION)
        if champion and champion.tags.get("job_key") == package.created_by_job:
            raise AirflowSkipException(f"version {champion.version} of {self.model!r} is the champion already")
        require_newer(package, champion=champion, force=str(self.force) == "True")
        links = {"dag_id": self.dag_id, "dag_run_id": str(context.get("run_id", "by-hand"))}
        version = register(tracking_uri, package=package, links=links, storage=storage, signer=mlflow.get_signer())
        registered = {
            "model": self.model,
            "version": version.version,
            "uri": version.source,
            "digest": version.tags["digest"],
            "job_key": version.tags["job_key"],
            "run_id": version.run_id,
            "window": [version.tags["window_start"], version.tags["window_end"]],
        }
        if "outlet_events" in context:
            context["outlet_events"][challenger_asset(self.model)].extra = registered
        self.log.info("Version %s is the challenger", version.version)
        return registered
