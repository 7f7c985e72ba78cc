import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from include.backup.capture import copy_sqlite
from include.cli.deployment import find_deployment
from include.cli.options import DEFAULT_HOME, HomeOption, ModelArgument
from include.cli.scratch import make_scratch
from include.cli.stages import STAGES, Reach, chain, check_settings
from include.errors import BadInputError
from include.lake.connection import VARIABLE, current_storage
from include.lake.storage import Storage
from include.runtime.home import REPO, Home
from include.runtime.secrets import Secrets
from include.runtime.services import Deployment, Ports


def _complete_stage(incomplete: str) -> list[tuple[str, str]]:
    return [(name, stage.does) for name, stage in STAGES.items() if name.startswith(incomplete)]


def run(  # its parameters are the usage
    stage: Annotated[str, typer.Argument(autocompletion=_complete_stage, help=f"One of {', '.join(STAGES)}.")],
    model: ModelArgument,
    partition: Annotated[str, typer.Option("--partition", "-p", help="Key of the partition.", show_default=False)] = "",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Argument of the operator, for example version=2."),
    ] = None,
    lake: Annotated[
        Path | None, typer.Option(resolve_path=True, help="Work on this lake instead of the deployment's.")
    ] = None,
    *,
    scratch: Annotated[
        bool, typer.Option("--scratch", help="Work on a new lake that holds what the lake holds now.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Record in the ledger; needed where routes or aliases change.")
    ] = False,
    use_pdb: Annotated[bool, typer.Option("--pdb", help="Open the debugger where an error was raised.")] = False,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Run one stage here, without a scheduler, and print what its operator returns.

    It executes the operator that the Dag would, after those whose results it needs, with the deployment's connections.
    Airflow need not run and does not hear of it: no event is sent, nothing downstream starts. What it writes, and
    where, is said first. Without --yes, a decision is taken on a copy of the ledger and recorded nowhere.

    Examples: run validate flight_delays -p 2013-03 --scratch; run train flight_delays -p 2013-03 --set
    'overrides={"max_epochs": 1}' --pdb; run rollback flight_delays --yes.
    """
    from include.spec import load_spec

    chosen = _settings(settings or [])
    check_settings(stage, chosen)
    load_spec(model)
    reach = max((STAGES[step].reach for step in chain(stage)), key=list(Reach).index)
    if reach is Reach.SERVING and not yes:
        raise BadInputError(
            f"stage {stage!r} changes {STAGES[stage].writes}, so it needs --yes; got none. Nothing was changed. Add "
            "--yes if that is meant."
        )
    with tempfile.TemporaryDirectory(prefix="tradewind-") as folder:
        deployment = _deployment(home, lake=lake, folder=Path(folder))
        own = current_storage(deployment.home.storage)
        storage = Storage(root=str(lake)) if lake else own
        if scratch:
            storage = make_scratch(storage, model=model, below=deployment.home.root / "scratch")
        ledger = deployment.home.ledger
        if reach is Reach.LEDGER and not yes:
            ledger = _copied(ledger, into=Path(folder))
        _announce(stage, model=model, partition=partition, storage=storage, is_recorded=yes)
        environment = _environment(deployment, lake=None if storage is own else storage, ledger=ledger)
        job = {"stage": stage, "model": model, "partition": partition, "settings": chosen, "pdb": use_pdb}
        command = (sys.executable, "-P", "-m", "operators.by_hand", json.dumps(job))
        code = subprocess.run(command, env=environment, check=False).returncode
    if code:
        raise typer.Exit(code)


def _settings(given: list[str]) -> dict[str, str]:
    split = [text.partition("=") for text in given]
    for name, equals, _ in split:
        if not equals:
            raise typer.BadParameter(f"must be NAME=VALUE; got {name!r}.", param_hint="--set")
    return {name: value for name, _, value in split}


def _deployment(home: Path, *, lake: Path | None, folder: Path) -> Deployment:
    """Return the deployment; a lake of one's own needs none, and gets an empty one that is gone after the run."""
    if lake and not home.exists():
        return Deployment(home=Home(root=folder), secrets=Secrets(), ports=Ports())
    return find_deployment(home)


def _copied(ledger: Path, *, into: Path) -> Path:
    copy = into / "ledger-copy.sqlite"
    if ledger.exists():
        copy_sqlite(ledger, copy)
    return copy


def _announce(stage: str, *, model: str, partition: str, storage: Storage, is_recorded: bool) -> None:
    of = " ".join(filter(None, (model, partition)))
    typer.echo(f"{stage} of {of}, by hand: no event is sent. Lake: {storage.root}", err=True)
    for step in chain(stage):
        writes = STAGES[step].writes.format(model=model, partition=partition)
        is_copy = STAGES[step].reach is Reach.LEDGER and not is_recorded
        typer.echo(f"  {step:12} writes {writes}{' (a copy; --yes records it)' if is_copy else ''}", err=True)


def _environment(deployment: Deployment, *, lake: Storage | None, ledger: Path) -> dict[str, str]:
    """Return what a task of the deployment finds in its environment, with the lake and the ledger that were chosen."""
    connections = {"AIRFLOW_CONN_TRADEWIND_LEDGER": json.dumps({"conn_type": "sqlite", "host": str(ledger)})}
    if lake is not None:
        connections[VARIABLE] = json.dumps({"conn_type": "fs", "extra": {"path": lake.root}})
    terminal = {name: os.environ[name] for name in ("TERM", "COLUMNS") if name in os.environ}
    return deployment.airflow_env() | terminal | {"PYTHONPATH": str(REPO)} | connections
