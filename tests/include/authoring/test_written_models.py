"""What `new` writes works: its own tests, and every stage from landed files to a packaged version."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import include.models
from include.authoring.ask import Guesses
from include.authoring.check import check_model
from include.authoring.csv_source import open_csv
from include.authoring.decide import make_draft
from include.authoring.draft import Draft, Wishes
from include.authoring.land import land_source
from include.authoring.numbers import window_of
from include.authoring.sample import take_sample
from include.authoring.write import write_model
from include.errors import BadInputError, SetupError
from include.features.build import build_features
from include.lake.ingest import ingest_partition
from include.registry.assemble import assemble_package
from include.serving.protocol import RequestReader
from include.spec import load_spec
from include.training.command import main
from include.training.commit import current_commit
from include.training.evaluate import evaluate
from include.training.job import make_job
from include.training.snapshot import build_snapshot
from include.validation.partition import check_partition, publish_partition
from tests.include.authoring import samples

if TYPE_CHECKING:
    from collections.abc import Callable

    from include.lake.storage import Storage

REPO = Path(__file__).parents[3]
MODELS: dict[str, tuple[Callable[[Path], Path], dict[str, Any]]] = {
    "leavers": (samples.churn, {"label": "churned"}),
    "fruits": (samples.fruit, {"label": "kind", "entities": ("tree",)}),
    "rents": (samples.rent, {"label": "rent", "known_at": "none", "timezone": "Europe/Berlin"}),
}


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def drafts(models_dir: Path) -> dict[str, Draft]:
    """Write each model's folder as `./tradewind new --yes` does."""
    made = {}
    for name, (write, wishes) in MODELS.items():
        sample = take_sample(open_csv(write(models_dir / f"{name}.csv")))
        said = Wishes(**{"name": name, "owner": "me", "types": {}, "time_formats": {}, **wishes})
        made[name] = make_draft(sample, wishes=said, asker=Guesses(), now=datetime(2026, 1, 1, tzinfo=UTC))
        write_model(made[name], models_dir=models_dir)
    return made


@pytest.mark.usefixtures("drafts")
def test_the_written_tests_pass_at_once_and_the_written_code_is_clean(models_dir: Path) -> None:
    environment = {**os.environ, "TRADEWIND_MODELS": str(models_dir)}
    command: list[str | Path] = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "include.testing.plugin"]
    command += ["-c", REPO / "pytest.ini", "--rootdir", REPO, models_dir]
    tested = subprocess.run(
        [sys.executable, *map(str, command)], env=environment, cwd=REPO, capture_output=True, text=True, check=False
    )
    assert "12 passed" in tested.stdout, tested.stdout
    ruff = Path(sys.executable).with_name("ruff")
    linted = subprocess.run(
        [ruff, "check", "--config", REPO / ".ruff.toml", "--ignore", "INP001", models_dir],
        capture_output=True,
        text=True,
        check=False,
    )
    assert linted.returncode == 0, linted.stdout


@pytest.fixture
def _importable(models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(include.models, "__path__", [str(models_dir)])


@pytest.mark.usefixtures("_importable")
@pytest.mark.parametrize("name", MODELS)
def test_landed_partitions_become_a_packaged_version_that_beats_the_constant(
    name: str, drafts: dict[str, Draft], models_dir: Path, storage: Storage
) -> None:
    draft, spec = drafts[name], load_spec(name, models_dir)
    landed = land_source(draft, storage=storage)
    assert landed == draft.partitions.counts
    window = tuple(landed)[: window_of(draft)]
    for key in window:
        ingest_partition(spec=spec, storage=storage, partition=key)
        checked = check_partition(spec=spec, storage=storage, partition=key)
        published = publish_partition(spec=spec, storage=storage, checked=checked)
        assert published.quarantine.num_rows <= 0.02 * landed[key]
        build_features(spec=spec, storage=storage, partition=key, published_at=datetime.now(UTC))
    snapshot = build_snapshot(spec=spec, storage=storage, window=window).ref
    job = make_job(spec=spec, snapshot=snapshot, commit=current_commit(), storage=storage)
    assert main(["--job", job.uri]) == 0
    evaluation = evaluate(job, storage=storage, champion=None)
    assert evaluation.judgement.verdict == "pass", evaluation.report
    package = assemble_package(job, storage=storage).package
    assert package.model == name
    request = (models_dir / name / "sample" / "request.json").read_bytes()
    assert RequestReader.of(spec, max_rows=10).read(request).num_rows == 2


@pytest.mark.usefixtures("_importable")
def test_a_written_model_passes_the_check(drafts: dict[str, Draft], models_dir: Path, storage: Storage) -> None:
    checked = check_model("fruits", models_dir=models_dir, storage=storage)
    assert checked.problems == ()
    assert checked.notes[0].startswith("the rows in fruits/sample: 288 rows, 0 quarantined, 288 examples, 288 labelled")


def test_a_folder_that_is_there_is_refused_and_force_only_adds(drafts: dict[str, Draft], models_dir: Path) -> None:
    with pytest.raises(SetupError, match=r"model 'rents' must be new; got a folder .*--force"):
        write_model(drafts["rents"], models_dir=models_dir)
    folder = models_dir / "rents"
    (folder / "README.md").unlink()
    spec = (folder / "model.yaml").read_text()
    (folder / "model.yaml").write_text(f"{spec}# mine\n")
    assert write_model(drafts["rents"], models_dir=models_dir, force=True) == ["README.md"]
    assert (folder / "model.yaml").read_text() == f"{spec}# mine\n"
    (folder / "model.yaml").write_text(spec)


def test_a_name_that_no_folder_can_have_is_refused(drafts: dict[str, Draft], models_dir: Path) -> None:
    with pytest.raises(BadInputError, match=r"got 'My Model'.*For example 'my_model'"):
        write_model(replace(drafts["rents"], name="My Model"), models_dir=models_dir)
