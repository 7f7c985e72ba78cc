"""A broken spec must not take other models' Dags with it, in Airflow's own Dag bag; nor may a model starve others."""

import importlib.util
import json
import shutil
from pathlib import Path
from types import ModuleType

import pytest
from airflow.sdk import DAG
from airflow.sdk.definitions.context import _AIRFLOW_PARSING_CONTEXT_DAG_ID
from airflow.sdk.definitions.param import ParamsDict

from include.partitions import EXAMPLES, Grain
from include.spec import ModelSpec, load_spec
from include.testing.tasks import run_task
from operators.model_dags import build_model_dags

MODEL = "flight_delays"
REPO = Path(__file__).parents[2]
DAG_FILE = '''
"""A stage for the test."""
from datetime import UTC, datetime
from pathlib import Path
from airflow.sdk import DAG
from operators.model_dags import build_model_dags

def build(spec):
    if spec.name == "odd":
        raise ValueError("no such zone")
    return DAG(dag_id=f"stage_{spec.name}", schedule=None, start_date=datetime(2013, 1, 1, tzinfo=UTC))

globals().update(build_model_dags(build, stage="stage", models_dir=Path(MODELS_DIR)))
'''
BROKEN_FILE = """
from pathlib import Path
from operators.model_dags import require_readable_specs

require_readable_specs(Path(MODELS_DIR))
"""


@pytest.mark.parametrize("broken", [(), ("bad",), ("bad", "worse"), ("bad", "odd")])
def test_other_models_keep_their_dags(
    broken: tuple[str, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from airflow.dag_processing.dagbag import DagBag

    models = tmp_path / "models"
    shutil.copytree(REPO / "include/models/flight_delays", models / "flight_delays")
    for name in broken:
        text = (models / "flight_delays/model.yaml").read_text()
        (models / name).mkdir()
        mistaken = text if name == "odd" else text.replace("max_epochs", "max_epoch")
        (models / name / "model.yaml").write_text(mistaken.replace("flight_delays", name))
    dags = tmp_path / "dags"
    dags.mkdir()
    for file, text in {"stage.py": DAG_FILE, "broken.py": BROKEN_FILE}.items():
        (dags / file).write_text(text.replace("MODELS_DIR", repr(str(models))))

    bag = DagBag(dag_folder=dags, safe_mode=False)

    assert set(bag.dags) == {"stage_flight_delays"}
    message = "".join(bag.import_errors.values())
    # Airflow would stop every Dag of a file with an import error, so only the file without Dags may have one.
    assert [Path(file).name for file in bag.import_errors] == (["broken.py"] if "bad" in broken else [])
    for name in set(broken) - {"odd"}:
        assert f"{name}/model.yaml cannot be used; only this model's Dags are affected" in message
        assert "Did you mean 'max_epochs'" in message
    assert ("the Dag stage_odd cannot be made" in caplog.text) == ("odd" in broken)


LIMITS = """
limits: {max_active_tasks: 2, max_active_partitions: 3, priority: 7, pool: slow, training_pool: night}
"""
STAGES = ("deploy", "ingest", "materialize", "monitor", "rollback", "score", "train")


def stage_module(stage: str) -> ModuleType:
    found = importlib.util.spec_from_file_location(f"{stage}_under_test", REPO / "dags" / f"{stage}.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> dict[str, DAG]:
    """Return stage -> Dag of a model that declares its limits."""
    models = tmp_path_factory.mktemp("models")
    (models / MODEL).mkdir()
    text = (REPO / "include/models" / MODEL / "model.yaml").read_text()
    (models / MODEL / "model.yaml").write_text(text + LIMITS)
    dags = {}
    for stage in STAGES:
        module = stage_module(stage)
        form = getattr(module, "form", None)
        (dags[stage],) = build_model_dags(module.build, stage=stage, form=form, models_dir=models).values()
    return dags


@pytest.mark.parametrize("stage", STAGES)
def test_a_models_limits_are_on_each_of_its_dags_and_tasks(limited: dict[str, DAG], stage: str) -> None:
    dag = limited[stage]
    assert dag.max_active_tasks == 2
    assert dag.max_active_runs == (3 if stage == "ingest" else 1)
    for task in dag.tasks:
        assert task.priority_weight == (1_000_000 if stage == "rollback" else 7)
        assert task.max_active_tis_per_dag == (2 if stage == "ingest" else None)
        assert task.pool == ("night" if task.task_id == "train" else "slow")


def test_a_task_knows_the_form_though_only_its_dag_holds_it(limited: dict[str, DAG]) -> None:
    dag = limited["train"]
    assert "seed" in dag.params
    assert [dict(task.params) for task in dag.tasks if task.params] == []
    trained = run_task(dag.get_task("train"), partition="2013-03", conf={"seed": 5})
    assert json.loads(trained.rendered["overrides"])["seed"] == 5


@pytest.mark.parametrize("grain", EXAMPLES)
@pytest.mark.parametrize("stage", STAGES)
def test_a_form_accepts_its_own_defaults(stage: str, grain: Grain) -> None:
    # Airflow would check this of `DAG(params=...)` when it has a schedule.
    spec = load_spec(MODEL)
    source = spec.source.model_copy(update={"grain": grain, "first_partition": EXAMPLES[grain]})
    if form := getattr(stage_module(stage), "form", None):
        ParamsDict(form(spec.model_copy(update={"source": source}))).validate()


def test_a_task_that_runs_has_its_own_dag_made_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (REPO / "include/models" / MODEL / "model.yaml").read_text()
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.yaml").write_text(text.replace(f"name: {MODEL}", f"name: {name}"))
    made = []

    def build(spec: ModelSpec) -> DAG:
        made.append(spec.name)
        return DAG(dag_id=f"stage_{spec.name}", schedule=None)

    assert set(build_model_dags(build, stage="stage", models_dir=tmp_path)) == {"stage_one", "stage_other"}
    made.clear()
    monkeypatch.setenv(_AIRFLOW_PARSING_CONTEXT_DAG_ID, "stage_one")  # as Airflow's task runner does
    assert set(build_model_dags(build, stage="stage", models_dir=tmp_path)) == {"stage_one"}
    assert made == ["one"]
