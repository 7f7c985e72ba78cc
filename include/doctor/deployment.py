"""Whether a deployment's folder, ports and servers are as they must be."""

from __future__ import annotations

import os
import socket
import stat
import urllib.error
import urllib.request
from dataclasses import asdict
from typing import TYPE_CHECKING

from include.doctor.finding import Level, fail, ok, warn
from include.doctor.listening import listening_addresses, open_to_others
from include.errors import CorruptArtifactError, TradewindError
from include.lake.connection import current_storage
from include.registry.rest import post
from include.rollout.ledger import Ledger
from include.runtime import processes
from include.runtime.airflow_api import AirflowApi
from include.runtime.databases import databases_of
from include.runtime.services import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator
    from pathlib import Path

    from include.doctor.finding import Finding
    from include.runtime.home import Home
    from include.runtime.services import Deployment

_OWNERS = {"airflow": "api-server", "mlflow": "mlflow", "model_server": "model-server"}
_TIMEOUT_S = 5.0
_MAX_SHOWN = 3
_FOR_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def check_deployment(deployment: Deployment) -> list[Finding]:
    """Return findings about a deployment, running or not."""
    home = deployment.home
    running = {process.name for process in processes.find(home.pids) if process.is_running}
    return [
        *check_ports(deployment, running=running),
        *check_servers(deployment, running=running),
        check_lake(deployment),
        check_ledger(home),
        judge_slack(has_connection=_has_slack(deployment, is_running="api-server" in running)),
    ]


def check_servers(deployment: Deployment, *, running: Container[str]) -> list[Finding]:
    """Check the connection to each server that runs."""
    servers: dict[str, tuple[str, Callable[[Deployment], Finding]]] = {
        "database": ("postgres", check_database),
        "airflow": ("api-server", check_airflow),
        "mlflow": ("mlflow", check_mlflow),
        "model server": ("model-server", check_model_server),
    }
    if not any(process in running for process, _ in servers.values()):
        return [warn("servers", "none runs", "make up")]
    is_elsewhere = {"postgres": not deployment.uses_embedded_postgres}
    return [
        check(deployment)
        if process in running or is_elsewhere.get(process)
        else fail(name, f"{process} does not run", "make up")
        for name, (process, check) in servers.items()
    ]


def check_permissions(home: Home) -> Finding:
    """Check that secrets, data and logs are for their user only; the root itself may be passed through.

    To be asked before the secrets are read: that makes their file private again.
    """
    folders = (home.secrets, home.data, home.logs, home.pids, home.serving, home.mlflow, home.ledger.parent)
    private = [folder for folder in folders if folder.exists()] + sorted(home.secrets.iterdir())
    is_open = [path for path in private if path.stat().st_mode & _FOR_OTHERS]
    foreign = [path for path in (home.root, *private) if path.stat().st_uid != os.getuid()]
    if foreign:
        return fail("files", f"{_names(foreign, home)} belong to another user", f"chown -R {os.getuid()} {home.root}")
    if is_open:
        remedy = f"chmod go= {' '.join(str(path) for path in is_open)}"
        return fail("files", f"others may read {_names(is_open, home)}", remedy)
    return ok("files", f"{len(private)} files and folders are private, secrets among them")


def check_ports(deployment: Deployment, *, running: Container[str]) -> Iterator[Finding]:
    """Check each port: free, or held on loopback by the process of this deployment that it is for."""
    for name, port in asdict(deployment.ports).items():
        owner = _OWNERS.get(name, name)
        exposed = open_to_others(listening_addresses(port))
        if owner in running and exposed:
            remedy = "bind it to 127.0.0.1, or put something that asks for a login before it"
            yield warn(
                f"port {port}", f"held by our {owner}, and open to other machines on {', '.join(exposed)}", remedy
            )
        elif owner in running:
            yield ok(f"port {port}", f"held by our {owner}, on loopback only")
        elif _is_free(port):
            yield ok(f"port {port}", f"free for {owner}")
        else:
            remedy = f"stop what listens there (ss -ltnp 'sport = :{port}'), or set TRADEWIND_{name.upper()}_PORT"
            yield fail(f"port {port}", f"taken by something else than our {owner}", remedy)


def check_database(deployment: Deployment) -> Finding:
    """Check that Airflow's database answers; its password is never shown."""
    kind = "embedded" if deployment.uses_embedded_postgres else "TRADEWIND_DATABASE_URL"
    try:
        [(version,)] = databases_of(deployment)["airflow"].query("SHOW server_version")
    except TradewindError as error:
        return fail("database", f"{kind}: {error}", f"see {deployment.home.logs / 'postgres.log'}")
    return ok("database", f"{kind}, PostgreSQL {version}")


def check_airflow(deployment: Deployment) -> Finding:
    """Check that Airflow answers us as admin, and that all Dag files could be read."""
    api = AirflowApi(base_url=deployment.airflow_url, password=deployment.secrets.admin_password)
    try:
        num_dags = len(api.dag_ids())
        broken = api.get("importErrors")["import_errors"]
    except TradewindError as error:
        return fail("airflow", str(error), f"see {deployment.home.logs / 'api-server.log'}")
    if broken:
        named = ", ".join(str(item["filename"]) for item in broken[:_MAX_SHOWN])
        return fail("airflow", f"{num_dags} Dags, and {len(broken)} files cannot be read: {named}", "./tradewind check")
    return ok("airflow", f"{deployment.airflow_url}, {num_dags} Dags")


def check_mlflow(deployment: Deployment) -> Finding:
    """Check that MLflow answers from its database."""
    try:
        post(deployment.mlflow_url, "experiments/search", {"max_results": 1})
        with urllib.request.urlopen(f"{deployment.mlflow_url}/version", timeout=_TIMEOUT_S) as response:  # noqa: S310 - our own loopback URL
            version = response.read().decode()
    except (TradewindError, urllib.error.URLError, OSError) as error:
        return fail("mlflow", str(error), f"see {deployment.home.logs / 'mlflow.log'}")
    return ok("mlflow", f"{deployment.mlflow_url}, version {version}")


def check_model_server(deployment: Deployment) -> Finding:
    """Check that the model server takes our token, can score what it routes, and lost no row of its log."""
    client = deployment.model_server(timeout_s=_TIMEOUT_S)
    log = deployment.home.logs / "model-server.log"
    try:
        answer = client.get_all_routes()
    except TradewindError as error:
        return fail("model server", str(error), f"see {log}")
    if not client.is_ready():
        return fail("model server", "a version that it routes cannot score", f"see {log}; ./tradewind run rollback")
    dropped = int(answer["log"].get("dropped", 0))
    said = f"{deployment.model_server_url}, {len(answer['models'])} models"
    if dropped:
        return warn("model server", f"{said}; {dropped} rows of its prediction log were dropped", "look at the disk")
    return ok("model server", said)


def check_lake(deployment: Deployment) -> Finding:
    """Check that the lake can be written."""
    storage = current_storage(deployment.home.storage)
    if not storage.is_local:
        return ok("lake", storage.root)
    if not os.access(storage.root, os.W_OK | os.X_OK):
        return fail(
            "lake", f"{storage.root} cannot be written", f"mkdir {storage.root}, or give it to user {os.getuid()}"
        )
    return ok("lake", storage.root)


def check_ledger(home: Home) -> Finding:
    """Check every link of the ledger's chain."""
    if not home.ledger.exists():
        return ok("ledger", "empty")
    try:
        num_entries = Ledger(path=home.ledger).verify()
    except CorruptArtifactError as error:
        return fail("ledger", str(error), "./tradewind restore")
    except TradewindError as error:
        return warn("ledger", str(error), "run doctor again")
    return ok("ledger", f"{num_entries} entries, chain verified")


def judge_slack(*, has_connection: bool | None) -> Finding:
    """Say whether alerts go to Slack; the token itself is never read here."""
    if has_connection:
        return ok("slack", "a connection slack_default is set")
    said = "no token" if has_connection is not None else "no token in the environment; Airflow's are not seen"
    return ok("slack", f"{said}: alerts are kept in the ledger and printed")


def worst(findings: list[Finding]) -> Level:
    """Return the worst level among findings."""
    return max((found.level for found in findings), key=list(Level).index, default=Level.OK)


def _has_slack(deployment: Deployment, *, is_running: bool) -> bool | None:
    """Return whether Airflow has the connection; None when only the environment could be looked at."""
    if "AIRFLOW_CONN_SLACK_DEFAULT" in os.environ:
        return True
    if not is_running:
        return None
    api = AirflowApi(base_url=deployment.airflow_url, password=deployment.secrets.admin_password)
    try:
        found = api.get("connections", connection_id_pattern="slack_default")["connections"]
    except TradewindError:
        return None
    return any(item["connection_id"] == "slack_default" for item in found)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def _names(paths: list[Path], home: Home) -> str:
    shown = ", ".join(str(path.relative_to(home.root)) for path in paths[:_MAX_SHOWN])
    return f"{shown} and {len(paths) - _MAX_SHOWN} more" if len(paths) > _MAX_SHOWN else shown
