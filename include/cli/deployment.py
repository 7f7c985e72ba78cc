"""The deployment that `--home` names, as a command finds it; nothing is made and nothing is started."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from include.errors import BadInputError, SetupError
from include.runtime.home import DEFAULT_HOME, Home
from include.runtime.secrets import load_secrets
from include.runtime.services import Deployment, Ports

if TYPE_CHECKING:
    from pathlib import Path

    from include.progress.read import Sources
    from include.registry.models import ModelVersion


def find_deployment(root: Path) -> Deployment:
    """Return the deployment below a folder, with the ports that it was started with last.

    Raises:
        SetupError: There is none.
    """
    home = Home(root=root)
    if not (home.secrets / "secrets.json").exists():
        named = "" if root == DEFAULT_HOME else f" TRADEWIND_HOME={root}"
        raise SetupError(
            f"{root} must hold a deployment; got none. Nothing was changed. Start one with `make up{named}`, or name "
            "another with --home."
        )
    return Deployment(home=home, secrets=load_secrets(home.secrets), ports=recorded_ports(home))


def recorded_ports(home: Home) -> Ports:
    """Return the ports that a deployment was started with last; before that, those that `make up` would take."""
    from include.runtime.stack import ports_from_environment

    recorded = home.root / "ports.json"
    return Ports(**json.loads(recorded.read_text())) if recorded.exists() else ports_from_environment()


def find_version(named: str, *, tracking_uri: str) -> ModelVersion:
    """Return the registered version that MODEL@VERSION names; instead of a number also an alias.

    Raises:
        BadInputError: It names none.
        NotFoundError: There is no such version.
    """
    from include.registry.models import get_alias, get_version

    model, _, asked = named.rpartition("@")
    if not model or not asked:
        raise BadInputError(
            f"a version must be named MODEL@VERSION, such as flight_delays@3 or flight_delays@champion; got "
            f"{named!r}. Nothing was done. Name one."
        )
    if asked.isdigit():
        return get_version(tracking_uri, model=model, version=asked)
    by_alias = get_alias(tracking_uri, model=model, alias=asked)
    if by_alias is None:
        raise BadInputError(
            f"{model!r} must have a version with the alias {asked!r}; got none. Nothing was done. Name a number."
        )
    return by_alias


def sources_of(deployment: Deployment) -> Sources:
    """Return where a deployment's state lives, for what reads it."""
    from include.lake.connection import current_storage
    from include.progress.read import Sources
    from include.rollout.ledger import Ledger
    from include.runtime.airflow_api import AirflowApi

    return Sources(
        storage=current_storage(deployment.home.storage),
        ledger=Ledger(path=deployment.home.ledger),
        tracking_uri=deployment.mlflow_url,
        server=deployment.model_server(),
        airflow=AirflowApi(base_url=deployment.airflow_url, password=deployment.secrets.admin_password),
    )
