"""TRADEWIND_MODELS names another folder of models, for specs and for their modules."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from include.training.commit import current_commit

REPO = Path(__file__).parents[3]
SHOW = (
    "from include.spec import model_names, load_spec; from include.features.definitions import load_definitions as d; "
)
SHOW += "print(model_names(), d(load_spec('moved')).history_days)"


def test_specs_and_modules_come_from_the_named_folder(tmp_path: Path) -> None:
    shutil.copytree(REPO / "include/models/flight_delays", tmp_path / "moved")
    spec = tmp_path / "moved" / "model.yaml"
    spec.write_text(spec.read_text().replace("name: flight_delays", "name: moved"))
    features = tmp_path / "moved" / "features.py"
    features.write_text(features.read_text().replace("HISTORY_DAYS = 28", "HISTORY_DAYS = 29"))
    environment = {**os.environ, "TRADEWIND_MODELS": str(tmp_path)}
    shown = subprocess.run(
        [sys.executable, "-c", SHOW], env=environment, cwd=REPO, capture_output=True, text=True, check=True
    )
    assert shown.stdout.split() == ["['moved']", "29"]


def test_models_elsewhere_are_part_of_the_commit(tmp_path: Path) -> None:
    (tmp_path / "features.py").write_text("A = 1\n")
    first = current_commit(models_dir=tmp_path)
    (tmp_path / "features.py").write_text("A = 2\n")
    assert first.startswith(f"{current_commit()}+models-")
    assert current_commit(models_dir=tmp_path) != first
