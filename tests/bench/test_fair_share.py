"""A model with a long backlog, beside another with one run, under a real scheduler: the other does not wait for it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from include.runtime import stack
from include.runtime.airflow_api import AirflowApi
from tests.bench.many_models import REPO, TEXT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from include.runtime.services import Deployment

NUM_QUEUED = 40
MAX_RUNS_BEFORE_THE_OTHER = 12
GREEDY, MODEST = "greedy", "modest"
DAG_FILE = '''
"""Two stages whose tasks only sleep, with the limits, pools and runs at once of Tradewind's own."""
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG
from include.spec.limits import training_pool
from operators.model_dags import build_model_dags

def build_ingest(spec):
    with DAG(f"ingest_{spec.name}", schedule=None, max_active_runs=spec.limits.max_active_partitions) as dag:
        ingest = BashOperator(task_id="ingest", bash_command="sleep 0.5")
        ingest >> BashOperator(task_id="validate", bash_command="sleep 0.5")
    return dag

def build_train(spec):
    pool, slots = training_pool(spec)
    with DAG(f"train_{spec.name}", schedule=None, max_active_runs=1) as dag:
        BashOperator(task_id="train", bash_command="sleep 3", pool=pool, pool_slots=slots)
    return dag

globals().update(build_model_dags(build_ingest, stage="ingest"))
globals().update(build_model_dags(build_train, stage="train"))
'''


@contextmanager
def airflow_with(models: Path, bundle: Path) -> Iterator[AirflowApi]:
    """Run API server, scheduler and Dag processor of a temporary deployment over one Dag folder."""
    root = Path(tempfile.mkdtemp(prefix="tw-"))
    root.chmod(0o711)
    deployment = stack.open_deployment(root / "home", ports=stack.free_ports())
    named = {"name": "sleeping", "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle"}
    env = {
        **deployment.airflow_env(),
        "TRADEWIND_MODELS": str(models),
        "PYTHONPATH": str(REPO),
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps([{**named, "kwargs": {"path": str(bundle)}}]),
    }
    try:
        deployment.postgres.start()
        airflow = (sys.executable, "-m", "airflow")
        subprocess.run([*airflow, "db", "migrate"], env=env, check=True, capture_output=True)
        commands = (("api-server", "--port", str(deployment.ports.airflow)), ("scheduler",), ("dag-processor",))
        with ExitStack() as started, (root / "log").open("wb") as log:
            for command in commands:
                process = subprocess.Popen([*airflow, *command], env=env, cwd=root, stdout=log, stderr=log)
                started.callback(process.wait, 60)
                started.callback(process.terminate)
            yield api_of(deployment)
    finally:
        stack.down(deployment.home, say=lambda _: None)
        shutil.rmtree(root)


def api_of(deployment: Deployment) -> AirflowApi:
    return AirflowApi(base_url=deployment.airflow_url, password=deployment.secrets.admin_password, outage_s=120)


def wait_until(is_so: Callable[[], bool], *, timeout_s: float = 240) -> None:
    until_s = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < until_s, f"not so after {timeout_s:g} s"
        time.sleep(0.5)


def trigger(api: AirflowApi, stage: str, model: str, *, times: int) -> None:
    for number in range(times):
        api.post(f"dags/{stage}_{model}/dagRuns", {"dag_run_id": f"r{number}", "logical_date": None})


def num_done(api: AirflowApi, stage: str, model: str) -> int:
    runs = api.get(f"dags/{stage}_{model}/dagRuns", limit=1, state="success")
    return int(runs["total_entries"])


@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_a_backlog_of_one_model_keeps_no_other_waiting(tmp_path: Path) -> None:
    models, bundle = tmp_path / "models", tmp_path / "bundle"
    for name in (GREEDY, MODEST):
        (models / name).mkdir(parents=True)
        (models / name / "model.yaml").write_text(TEXT.replace("name: flight_delays", f"name: {name}", 1))
    bundle.mkdir()
    (bundle / "sleeping.py").write_text(DAG_FILE)
    dag_ids = {f"{stage}_{model}" for stage in ("ingest", "train") for model in (GREEDY, MODEST)}
    with airflow_with(models, bundle) as api:
        wait_until(lambda: dag_ids <= set(api.dag_ids()))
        api.post("pools", {"name": "train_local", "slots": 1})
        for dag_id in sorted(dag_ids):
            api.patch(f"dags/{dag_id}", {"is_paused": False})
        for stage in ("ingest", "train"):
            trigger(api, stage, GREEDY, times=NUM_QUEUED)
        wait_until(lambda: num_done(api, "ingest", GREEDY) > 0 and num_done(api, "train", GREEDY) > 0)
        for stage in ("ingest", "train"):
            trigger(api, stage, MODEST, times=1)
        before = {stage: num_done(api, stage, GREEDY) for stage in ("ingest", "train")}
        during: dict[str, int] = {}

        def are_done() -> bool:
            for stage in ("ingest", "train"):
                if stage not in during and num_done(api, stage, MODEST):
                    during[stage] = num_done(api, stage, GREEDY) - before[stage]
            return len(during) == len(before)

        wait_until(are_done)
    # Each task of the other waits for those that run, and for its turn: never for the backlog.
    assert during["ingest"] <= MAX_RUNS_BEFORE_THE_OTHER, during
    assert during["train"] <= 2, during  # the one that runs, and one that had its slot by then
