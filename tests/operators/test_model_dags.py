"""A broken spec must not take other models' Dags with it, in Airflow's own Dag bag."""

import shutil
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
DAG_FILE = '''
"""A stage for the test."""
from datetime import UTC, datetime
from pathlib import Path
from airflow.sdk import DAG
from operators.model_dags import build_model_dags

def build(spec):
    return DAG(dag_id=f"stage_{spec.name}", schedule=None, start_date=datetime(2013, 1, 1, tzinfo=UTC))

globals().update(build_model_dags(build, stage="stage", models_dir=Path(MODELS_DIR)))
'''


@pytest.mark.parametrize("broken", [(), ("bad",), ("bad", "worse")])
def test_other_models_keep_their_dags(broken: tuple[str, ...], tmp_path: Path) -> None:
    from airflow.dag_processing.dagbag import DagBag

    models = tmp_path / "models"
    shutil.copytree(REPO / "include/models/flight_delays", models / "flight_delays")
    for name in broken:
        text = (models / "flight_delays/model.yaml").read_text()
        (models / name).mkdir()
        (models / name / "model.yaml").write_text(
            text.replace("max_epochs", "max_epoch").replace("flight_delays", name)
        )
    dags = tmp_path / "dags"
    dags.mkdir()
    (dags / "stage.py").write_text(DAG_FILE.replace("MODELS_DIR", repr(str(models))))

    bag = DagBag(dag_folder=dags, safe_mode=False)

    assert set(bag.dags) == {"stage_flight_delays"}
    message = "".join(bag.import_errors.values())
    assert bool(bag.import_errors) == bool(broken)
    for name in broken:
        assert f"{name}/model.yaml cannot be used; only this model's Dags are affected" in message
        assert "Did you mean 'max_epochs'" in message
