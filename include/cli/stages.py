"""The tasks that `./tradewind run` can do by hand: what each writes, and what has to be done before it."""

from dataclasses import dataclass
from enum import StrEnum

from include.errors import BadInputError


class Reach(StrEnum):
    """How far a task's effects go."""

    NOTHING = "nothing"
    LAKE = "lake"
    LEDGER = "ledger"
    SERVING = "serving"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One task of the Dags.

    Args:
        does: What it does, in a line.
        writes: What it writes, `{model}` and `{partition}` to be filled; paths are below the lake.
        reach: How far that goes.
        after: The task whose result it needs, which is then done first; what is complete is not made again.
        settings: Arguments of the operator that `--set` may give.
    """

    does: str
    writes: str
    reach: Reach = Reach.LAKE
    after: str | None = None
    settings: tuple[str, ...] = ()


STAGES = {
    "ingest": Stage(does="landed files into staged tables", writes="lake/{model}/staged_*"),
    "validate": Stage(
        does="expectations, quarantine, publishing",
        writes="lake/{model}/ (the source's tables, quarantine), reports/{model}/{partition}/",
    ),
    "features": Stage(does="store features of a partition", writes="lake/{model}/features_*"),
    "materialize": Stage(does="store features into the online store", writes="feast/online.db"),
    "parity": Stage(does="feature tables against the online store", writes="nothing", reach=Reach.NOTHING),
    "snapshot": Stage(
        does="point-in-time training set", writes="snapshots/{model}/", settings=("window_partitions", "force")
    ),
    "train": Stage(
        does="a training, or its kept result", writes="jobs/{model}/", after="snapshot", settings=("overrides",)
    ),
    "evaluate": Stage(
        does="gates against champion and baselines",
        writes="jobs/{model}/, and `gate` in the ledger",
        reach=Reach.LEDGER,
        after="train",
    ),
    "compress": Stage(does="int8, measured, and the package", writes="jobs/{model}/", after="evaluate"),
    "register": Stage(
        does="the version in MLflow",
        writes="a run and a version in MLflow, the alias `challenger`",
        reach=Reach.SERVING,
        after="compress",
        settings=("force",),
    ),
    "drift": Stage(does="drift and loss of what was served", writes="lake/{model}/performance"),
    "monitor": Stage(
        does="drift, and whether to train",
        writes="lake/{model}/performance, and `retrain_decision` in the ledger",
        reach=Reach.LEDGER,
    ),
    "report": Stage(
        does="Evidently's report against a version",
        writes="reports/{model}/{partition}/drift.html",
        settings=("version",),
    ),
    "score": Stage(does="batch scores of a version", writes="lake/{model}/scores", settings=("version",)),
    "rollback": Stage(
        does="all requests back to the former champion",
        writes="the model server's routes, MLflow's alias `champion`, `roll_back` in the ledger",
        reach=Reach.SERVING,
        settings=("version", "reason"),
    ),
}


def find_stage(name: str) -> Stage:
    """Return a stage by name.

    Raises:
        BadInputError: There is none.
    """
    from include.spec.errors import nearest

    if name not in STAGES:
        raise BadInputError(f"stage must be one that runs by hand; got {name!r}; {nearest(name, list(STAGES))}")
    return STAGES[name]


def chain(name: str) -> tuple[str, ...]:
    """Return a stage and those whose results it needs, in the order in which they run.

    >>> chain("evaluate")
    ('snapshot', 'train', 'evaluate')
    """
    before = find_stage(name).after
    return (*(chain(before) if before else ()), name)


def check_settings(name: str, settings: dict[str, str]) -> None:
    """Check that a chain takes the settings.

    Raises:
        BadInputError: It does not.
    """
    from include.spec.errors import nearest

    allowed = [setting for step in chain(name) for setting in STAGES[step].settings]
    for given in settings:
        if given not in allowed:
            takes = nearest(given, allowed) if allowed else "it takes none."
            raise BadInputError(f"stage {name!r} must get settings that it knows; got {given!r}; {takes}")
