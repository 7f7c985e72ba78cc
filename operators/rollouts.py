"""What the operators and the sensor of a rollout share: its parts from connections, its name from the Dag run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from include.rollout.local import LocalTarget
from include.rollout.stages import Rollout
from include.spec import load_spec
from operators.hooks.kserve import KServeHook
from operators.hooks.ledger import LedgerHook
from operators.hooks.mlflow import MlflowHook
from operators.hooks.model_server import ModelServerHook

if TYPE_CHECKING:
    from airflow.sdk import Context

    from include.rollout.target import DeploymentTarget
    from include.spec import ModelSpec

_TOLD_VERSION = (
    "(triggering_asset_events.values() | sum(start=[]) | sort(attribute='timestamp') | map(attribute='extra.version') "
    "| list | last | default('', true))"
)

ASKED_VERSION = f"{{{{ params.version or {_TOLD_VERSION} }}}}"
"""The version that a person named, or that the event names which started the run; empty: the one with the alias."""

SKIPS_SUPERSEDED = "{{ triggering_asset_events | length > 0 and not (params.version or params.force) }}"
"""Whether an event started the run, which may have waited while a newer version took over: nobody named the version."""

CHOSEN_VERSION = "{{ ti.xcom_pull(task_ids='choose')['version'] }}"
"""The version that the task `choose` of the same run chose."""

DEPLOYED_VERSION = "{{ (ti.xcom_pull(task_ids='deploy') or {}).get('version') or '' }}"
"""The version that the task `deploy` of the same run resolved; empty when it did not get that far."""

ATTEMPTED_VERSION = (
    f"{{{{ (ti.xcom_pull(task_ids='choose') or {{}}).get('version') or params.version or {_TOLD_VERSION} }}}}"
)
"""The version that `choose` chose or was to choose; empty when it was to look for the alias `challenger`."""


def rollout_of(
    context: Context, *, model: str, mlflow_conn_id: str, model_server_conn_id: str, ledger_conn_id: str
) -> Rollout:
    """Return the rollout of this Dag run; a run that a person triggered acts in that person's name.

    Raises:
        SpecError: The model's spec cannot be read.
    """
    dag_run = context.get("dag_run")
    run_key = f"{dag_run.dag_id}:{dag_run.run_id}" if dag_run else str(context.get("run_id", "by-hand"))
    person = getattr(dag_run, "triggering_user_name", None)
    spec = load_spec(model)
    return Rollout(
        spec=spec,
        target=target_of(spec, model_server_conn_id=model_server_conn_id),
        ledger=LedgerHook(ledger_conn_id).get_conn(),
        tracking_uri=MlflowHook(mlflow_conn_id).get_conn(),
        actor=f"{person} by {run_key}" if person else run_key,
        run_key=run_key,
    )


def target_of(spec: ModelSpec, *, model_server_conn_id: str) -> DeploymentTarget:
    """Return where a model serves, as its spec says.

    Args:
        spec: The model's spec.
        model_server_conn_id: Connection of that place; its default stands for `kserve_default` if that is KServe.
    """
    if spec.rollout.target == "kserve":
        is_default = model_server_conn_id == ModelServerHook.default_conn_name
        return KServeHook(KServeHook.default_conn_name if is_default else model_server_conn_id).get_conn()
    return LocalTarget(client=ModelServerHook(model_server_conn_id).get_conn())
