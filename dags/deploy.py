"""Deploy a challenger under live traffic, or roll it back.

**What.** Loads the challenger, scores its golden requests, lets it score copies of all requests (shadow), gives it a
rising share of them (canary), and makes it the champion; or, when a stage fails, takes it out again. A first version
has nobody to be compared with: after its golden requests it becomes champion, recorded as a bootstrap.

**When.** A version passed its gates (the challenger asset): that one, or none if a newer one took over while the run
waited. By hand: Trigger with a partition key such as `2013-06`; without `version` it is the alias `challenger`'s.

**In.** The version's package, what MLflow says of it, the model server's counters.

**Out.** The model server's routes, MLflow's alias `champion`, entries in the ledger for each stage with its evidence,
and the events `champion` (if it was promoted) and `closed` (in all cases: the partition's decisions are all taken).

**If it fails.** A stage that failed is the verdict on the version: `roll_back` has taken it out, the champion answers
everything, and the ledger says why. To begin again, trigger with `version`. If `roll_back` failed too, the partition is
not closed yet: clear `promote` if its message says so, else `roll_back`, and it goes on. Servers that are away are
waited for, some minutes. Approval: in the UI, under Required Actions; it names the version.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from airflow.sdk import DAG, Param, PartitionedAssetTimetable, chain

from operators.assets import challenger_asset, champion_asset, closed_asset
from operators.deploy_model import DeployModelOperator
from operators.model_dags import build_model_dags
from operators.notifiers.slack import SlackNotifier, alert_on_failure
from operators.promote_model import PromoteModelOperator
from operators.retries import retry_args
from operators.roll_back_model import RollBackModelOperator
from operators.rollout_tasks import approver, choice_tasks, comparison_tasks, end_tasks
from operators.rollouts import ATTEMPTED_VERSION, CHOSEN_VERSION, SKIPS_SUPERSEDED

if TYPE_CHECKING:
    from include.spec import ModelSpec

_OUTCOME = (
    "{% set done = ti.xcom_pull() -%}{{ done['model'] }} {% if done['version'] %}v{{ done['version'] }}{% endif %}: "
    "{{ done['outcome'] }}. {{ done.get('reasons', []) | join('; ') }}"
)


def form(_spec: ModelSpec) -> dict[str, Param]:
    """Return the form of the Trigger button."""
    return {
        "version": Param(
            None,
            type=["null", "string"],
            pattern="^[0-9]+$",
            title="Version",
            description="Version of the model in MLflow; empty: the one with the alias challenger.",
        ),
        "force": Param(
            default=False,
            type="boolean",
            title="Force",
            description="Deploy it although the champion was trained on newer data.",
        ),
    }


def build(spec: ModelSpec) -> DAG:
    """Return the Dag `deploy_<model>`."""
    with DAG(
        dag_id=f"deploy_{spec.name}",
        description=f"A challenger of {spec.name} becomes champion under live traffic, or is rolled back",
        doc_md=__doc__,
        schedule=PartitionedAssetTimetable(assets=challenger_asset(spec.name)),
        start_date=datetime(2013, 1, 1, tzinfo=UTC),
        catchup=False,
        max_active_runs=1,
        tags=["tradewind", "deploy", spec.name],
        default_args={
            # A server that restarts says nothing about the challenger.
            **retry_args(execution_timeout=timedelta(minutes=10), outage=timedelta(minutes=3)),
            "owner": spec.owner,
            "on_failure_callback": alert_on_failure(spec.name),
        },
    ) as dag:
        choice, stages = choice_tasks(spec), comparison_tasks(spec)
        deploy = DeployModelOperator(
            task_id="deploy",
            model=spec.name,
            version=CHOSEN_VERSION,
            force="{{ params.force }}",
            approved_by=approver(spec),
            skip_if_superseded=SKIPS_SUPERSEDED,
            rival_task_ids=[stage.task_id for stage in stages],
        )
        told = SlackNotifier(model=spec.name, text=_OUTCOME)
        promote = PromoteModelOperator(
            task_id="promote",
            model=spec.name,
            approved_by=approver(spec),
            trigger_rule="none_failed_min_one_success",  # a first version skips the stages, a superseded one all
            outlets=[champion_asset(spec.name), closed_asset(spec.name)],
            on_success_callback=told,
        )
        roll_back = RollBackModelOperator(
            task_id="roll_back",
            model=spec.name,
            version=ATTEMPTED_VERSION,
            trigger_rule="one_failed",
            outlets=[closed_asset(spec.name)],
            on_success_callback=told,
        )
        compared = [*choice, deploy, *stages]
        chain(*compared, promote, end_tasks(spec))
        deploy >> promote
        [*compared, promote] >> roll_back
    return dag


globals().update(build_model_dags(build, stage="deploy", form=form))
