"""The deployment that `--home` names, as a command finds it; nothing is made and nothing is started."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from include.errors import SetupError
from include.runtime.home import DEFAULT_HOME, Home
from include.runtime.secrets import load_secrets
from include.runtime.services import Deployment, Ports

if TYPE_CHECKING:
    from pathlib import Path

    from include.progress.read import Sources


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
    """Return the ports that a deployment was started with last, or the default ones."""
    recorded = home.root / "ports.json"
    return Ports(**json.loads(recorded.read_text())) if recorded.exists() else Ports()


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
