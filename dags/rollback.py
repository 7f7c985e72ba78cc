"""Give all requests back to the former champion, now.

**What.** The model server's routes go back to the version that the present champion replaced (or to the one named);
MLflow's alias `champion` follows, and the ledger records who did it and why. A running canary ends with it; beside the
first champion, which replaced none, that is all that a roll-back does.

**When.** A person presses Trigger. Pressed twice, it goes back two versions.

**In.** The ledger, which knows the former champion. It is still loaded, so going back takes no load.

**Out.** Routes, alias, an entry `roll_back` in the ledger with the person's name, the event `champion`.

**If it fails.** The message says whether requests already go to the former champion; clear the task and it goes on.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from airflow.sdk import DAG, Param

from operators.assets import champion_asset
from operators.model_dags import build_model_dags
from operators.notifiers.slack import SlackNotifier, alert_on_failure
from operators.retries import retry_args
from operators.roll_back_model import RollBackModelOperator

if TYPE_CHECKING:
    from include.spec import ModelSpec

_TOLD = (
    "{% set done = ti.xcom_pull(task_ids='roll_back') -%}"
    "{{ done['model'] }} went back to v{{ done['version'] }}: {{ done['reasons'] | join('; ') }}"
)

HIGHEST_PRIORITY = 1_000_000
"""Above all that `limits.priority` of a spec may say: it takes the next worker slot."""


def form(_spec: ModelSpec) -> dict[str, Param]:
    """Return the form of the Trigger button."""
    return {
        "version": Param(
            None,
            type=["null", "string"],
            pattern="^[0-9]+$",
            title="Version",
            description="Version to go back to; empty: the one that the present champion replaced.",
        ),
        "reason": Param("", type="string", maxLength=500, title="Reason", description="Why; it is kept in the ledger."),
    }


def build(spec: ModelSpec) -> DAG:
    """Return the Dag `rollback_<model>`."""
    with DAG(
        dag_id=f"rollback_{spec.name}",
        description=f"All requests to {spec.name} go back to the former champion, now",
        doc_md=__doc__,
        schedule=None,
        start_date=datetime(2013, 1, 1, tzinfo=UTC),
        catchup=False,
        max_active_runs=1,
        tags=["tradewind", "rollback", spec.name],
        default_args={
            **retry_args(execution_timeout=timedelta(minutes=5)),
            "owner": spec.owner,
            "on_failure_callback": alert_on_failure(spec.name),
        },
    ) as dag:
        RollBackModelOperator(
            task_id="roll_back",
            model=spec.name,
            scope="champion",
            version="{{ params.version or '' }}",
            reason="{{ params.reason }}",
            outlets=[champion_asset(spec.name)],
            priority_weight=HIGHEST_PRIORITY,
            on_success_callback=SlackNotifier(model=spec.name, text=_TOLD),
        )
    return dag


globals().update(build_model_dags(build, stage="rollback", form=form))
