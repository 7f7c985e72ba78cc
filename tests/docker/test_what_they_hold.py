"""What the images would hold starts: the trainer without Airflow, and Airflow with every Dag."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from include.training.result import read_result
from tests.docker.images import AIRFLOW, ROOT, TRAINER, Assembled, assemble
from tests.snapshots import small_job

if TYPE_CHECKING:
    from include.lake.storage import Storage
    from include.training.job import Job

COMMIT = "1234567890123456789012345678901234567890"
BARE = str(Path(__file__).with_name("bare.py"))
LOCK = "requirements-train.txt"
LIST_DAGS = """
import json
from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.dag_processing.dagbag import BundleDagBag
path = DagBundlesManager().get_bundle("tradewind").path
bag = BundleDagBag(dag_folder=path, bundle_path=path)
import operators, include.training.commit
print(json.dumps([sorted(bag.dags), bag.import_errors, operators.__file__, include.training.commit.current_commit()]))
"""


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Assembled:
    """Return the trainer's code, stamped and compiled as its build does it, beside this environment's packages."""
    image = assemble(TRAINER, tmp_path_factory.mktemp("trainer") / "tradewind")
    image.build(1, COMMIT=COMMIT)
    return image


def run(command: list[str], *, folder: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, check=False, cwd=folder, env=env, capture_output=True, text=True, timeout=120)


def train(image: Assembled, job: Job, *start: str) -> subprocess.CompletedProcess[str]:
    return run([*start, "include.training", "--job", job.uri], folder=image.code, env=image.env())


def require_training(image: Assembled, storage: Storage, *start: str) -> None:
    """Train a job of the image's commit, and let it refuse one of another."""
    job = small_job(storage, commit=COMMIT)
    done = train(image, job, *start)
    assert done.returncode == 0, done.stdout + done.stderr
    assert read_result(job, storage=storage) is not None
    refused = train(image, small_job(storage, commit="another"), *start)
    assert refused.returncode == 64
    assert f"must be trained by the code of commit another; got {COMMIT}." in refused.stdout


def test_the_trainer_starts_from_what_its_image_holds(trainer: Assembled, storage: Storage) -> None:
    require_training(trainer, storage, sys.executable, BARE, LOCK)


def test_without_the_lock_the_trainer_does_not_start(trainer: Assembled, storage: Storage, tmp_path: Path) -> None:
    empty = tmp_path / "lock.txt"
    empty.write_text("pip==1\n")
    done = train(trainer, small_job(storage, commit=COMMIT), sys.executable, BARE, str(empty))
    assert done.returncode == 1
    assert "the lock has none" in done.stderr


def test_an_image_without_a_commit_is_not_built(trainer: Assembled) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        trainer.build(1, COMMIT="")


@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_the_trainer_starts_in_an_environment_of_its_own(tmp_path: Path, storage: Storage) -> None:
    image = assemble(TRAINER, tmp_path / "tradewind", packages=tmp_path / "venv")
    image.build(0, LOCK=LOCK, TORCH_BACKEND="")
    image.build(1, COMMIT=COMMIT)
    python = str(image.packages / "bin" / "python")
    absent = run([python, "-c", "import airflow"], folder=image.code, env=image.env())
    assert "No module named 'airflow'" in absent.stderr
    require_training(image, storage, python, "-m")
    endless = small_job(storage, commit=COMMIT, max_epochs=100_000, patience_epochs=100_000)
    command = [python, "-m", "include.training", "--job", endless.uri]
    with subprocess.Popen(command, cwd=image.code, env=image.env(), stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        assert any("epoch 2" in line for line in child.stdout)
        child.send_signal(signal.SIGTERM)
        assert "a checkpoint is saved" in child.stdout.read()
    assert child.returncode == 75
    print(json.dumps(measures(image)))  # noqa: T201 - `make chaos` shows it


def measures(image: Assembled) -> dict[str, int]:
    """Return how many packages an image has, and their size on a disk."""
    packages = image.packages / "lib" / "python3.11" / "site-packages"
    size = sum(path.stat().st_size for path in packages.rglob("*") if path.is_file())
    return {"num_packages": len(list(packages.glob("*.dist-info"))), "size_mib": size >> 20}


def test_airflow_starts_from_what_its_image_holds_and_imports_every_dag(tmp_path: Path) -> None:
    image = assemble(AIRFLOW, tmp_path / "tradewind")
    image.build(1, COMMIT=COMMIT)
    home = tmp_path / "airflow"
    home.mkdir()
    shutil.copy2(image.code / "airflow.cfg", home)  # as the Dockerfile's last COPY
    env = image.env(AIRFLOW_HOME=str(home), PYTHONWARNINGS="ignore")
    python = str(image.packages / "bin" / "python")
    done = run([python, "-c", LIST_DAGS], folder=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    dags, errors, operators, commit = json.loads(done.stdout.splitlines()[-1])
    assert errors == {}
    assert {"train_flight_delays", "deploy_flight_delays", "reconcile"} <= set(dags)
    assert Path(operators).is_relative_to(image.code)
    assert commit == COMMIT
    version = run([python, "-m", "airflow", "version"], folder=tmp_path, env=env).stdout.strip()
    assert f"apache-airflow=={version}\n" in (ROOT / "requirements.txt").read_text()
