"""Everything that can be wrong with a model, found before it runs: by file and line where there is one."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from include.authoring.check_spec import check_spec
from include.authoring.problems import EXPECTATIONS, FEATURES, NETWORK, Problem, problem_of

if TYPE_CHECKING:
    from include.authoring.check_rows import CheckRows
    from include.authoring.dry_run import DryRun
    from include.lake.storage import Storage
    from include.spec import ModelSpec

_MAX_BAD_FRAC = 0.05
_NO_SENSE = "made-up rows say nothing about expectations, values and labels; land a partition, or pass --sample"


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What a check found.

    Args:
        model: Which model.
        problems: What must be mended.
        notes: What was seen, and what could not be tried.
    """

    model: str
    problems: tuple[Problem, ...]
    notes: tuple[str, ...] = ()

    @property
    def is_good(self) -> bool:
        """Whether nothing must be mended."""
        return not self.problems


def check_model(name: str, *, models_dir: Path, storage: Storage, sample: Path | None = None) -> Checked:
    """Check a model's spec, then its code, then a dry run on rows; each only if what it builds on is good.

    Args:
        name: The model.
        models_dir: Folder of all models.
        storage: The deployment's, where landed rows may be.
        sample: Rows to try instead.
    """
    folder = models_dir / name
    spec, problems = check_spec(folder)
    if spec is None or problems:
        return Checked(model=name, problems=tuple(problems), notes=("the rest was not tried",))
    problems = _check_code(spec, folder=folder)
    if problems:
        return Checked(model=name, problems=tuple(problems), notes=("no row was tried",))
    with tempfile.TemporaryDirectory(prefix="tradewind-check-") as aside:
        return _try(spec, folder=folder, storage=storage, sample=sample, aside=Path(aside))


def _check_code(spec: ModelSpec, *, folder: Path) -> list[Problem]:
    from include.authoring.check_code import check_expectations, check_features, check_network

    return [
        *check_features(spec, folder=folder),
        *check_expectations(spec, folder=folder),
        *check_network(spec, folder=folder),
    ]


def _try(spec: ModelSpec, *, folder: Path, storage: Storage, sample: Path | None, aside: Path) -> Checked:
    import duckdb

    from include.authoring.check_rows import choose_rows
    from include.authoring.dry_run import dry_run

    (aside / "rows").mkdir()
    rows: CheckRows | None = None
    try:
        rows = choose_rows(spec, named=sample, model_folder=folder, storage=storage, aside=aside / "rows")
        run = dry_run(spec=spec, sample=rows.folder, folder=aside / "run", is_checked=not rows.are_made_up)
    except Exception as error:  # noqa: BLE001 - whatever a model's own code raises
        problem = _of_stage(error, folder=folder)
        if rows and rows.are_made_up and isinstance(error.__cause__, duckdb.Error):  # its SQL cannot read their values
            return Checked(model=spec.name, problems=(), notes=(f"{_NO_SENSE}; the SQL said: {problem.text}",))
        return Checked(model=spec.name, problems=(problem,))
    return Checked(
        model=spec.name,
        problems=tuple(_of_run(run, rows=rows, folder=folder)),
        notes=tuple(_notes(run, rows=rows)),
    )


def _of_stage(error: Exception, *, folder: Path) -> Problem:
    """Return an error of the dry run at the file that it is about."""
    import duckdb

    from include.authoring.dry_run import StageError

    if isinstance(error, StageError) and error.__cause__ is not None:
        cause = error.__cause__
        file = FEATURES if isinstance(cause, duckdb.Error) else error.file
        return problem_of(cause, folder=folder, file=file)
    return problem_of(error, folder=folder, file=FEATURES)


def _of_run(run: DryRun, *, rows: CheckRows, folder: Path) -> list[Problem]:
    """Return what the rows showed; made-up ones show nothing about expectations and labels."""
    if rows.are_made_up:
        return []
    expectations, features = str(folder / EXPECTATIONS), str(folder / FEATURES)
    found = [Problem(file=expectations, line=None, text=f"refuses {failure}") for failure in run.failures]
    if found:
        return found
    if run.num_quarantined > _MAX_BAD_FRAC * run.num_rows:
        bad = f"{run.num_quarantined} of {run.num_rows}"
        text = f"at most {_MAX_BAD_FRAC:.0%} of the rows should go to quarantine; got {bad}"
        found.append(Problem(file=expectations, line=None, text=text))
    if not run.num_labelled:
        text = f"EXAMPLES_SQL must label some rows; got none of {run.num_examples}"
        found.append(Problem(file=features, line=None, text=text))
    elif run.num_labels < 2:  # noqa: PLR2004 - nothing to tell apart
        found.append(Problem(file=features, line=None, text="the labels must differ; got one and the same"))
    return found


def _notes(run: DryRun, *, rows: CheckRows) -> list[str]:
    counts = f"{run.num_rows:,} rows, {run.num_quarantined:,} quarantined, {run.num_examples:,} examples"
    notes = [f"{rows.what}: {counts}, {run.num_labelled:,} labelled"]
    if rows.are_made_up:
        notes.append(_NO_SENSE)
    if run.loss is None and not run.failures:
        from include.authoring.dry_run import MIN_LABELLED

        notes.append(f"{NETWORK} was not trained: that needs {MIN_LABELLED} labelled rows with different labels")
    elif run.loss is not None:
        notes.append(f"one epoch: loss {run.loss:.4f} held out; ONNX graph of {(run.graph_bytes or 0) / 1024:.0f} KiB")
    return notes
