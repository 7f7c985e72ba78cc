"""The servers of one deployment on this machine: commands, environment, and how each shows that it is ready."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from include.runtime import processes
from include.runtime.checks import AcceptsConnections, Answers, Heartbeats
from include.runtime.home import REPO
from include.runtime.postgres import Postgres

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from include.runtime.checks import Check
    from include.runtime.home import Home
    from include.runtime.secrets import Secrets
    from include.serving.client import ModelServerClient

LOOPBACK = "127.0.0.1"
MODEL_SERVER_GRACE_S = 26.0
"""More than the server takes at most to answer what is in hand (`include.serving.ending.END_S`)."""
_QUICK_RECOVERY = {
    # Airflow takes over what a dead scheduler or triggerer had in hand when its heartbeat is so old. On one machine,
    # where the supervisor ends a dead one's processes before it starts the next, three missed heartbeats say enough.
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "15",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "5",
    "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "15",
    # A task that cannot reach the API server while that starts again, half a minute on a busy machine, keeps asking.
    "AIRFLOW__WORKERS__EXECUTION_API_RETRIES": "12",
    "AIRFLOW__WORKERS__EXECUTION_API_RETRY_WAIT_MAX": "8",
}


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Loopback ports of the servers that people and programs talk to."""

    airflow: int = 8080
    mlflow: int = 5000
    model_server: int = 8500


@dataclass(frozen=True, kw_only=True)
class Service:
    """One server process.

    Args:
        name: Also the name of its log file.
        command: Its command line; it never holds a secret, since every local user can read command lines.
        env: What it needs beyond the common environment.
        check: Says whether it works. A model server that cannot load one of its models works all the same: Airflow is
            needed to mend that.
        needs: Names of the services without which it is not started again, and is not to blame for ending.
        before_start: Clears away what a killed predecessor left behind.
        niceness: Higher for what nobody waits for at the start.
        grace_s: Seconds that it may take to end when it is asked to.
    """

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str]
    check: Check
    needs: tuple[str, ...] = ()
    before_start: Callable[[], None] = lambda: None
    niceness: int = 0
    grace_s: float = 8.0


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """What the processes of one deployment share."""

    home: Home
    secrets: Secrets
    ports: Ports

    @property
    def postgres(self) -> Postgres:
        """The embedded database server."""
        return Postgres(home=self.home, password=self.secrets.postgres_password)

    @property
    def uses_embedded_postgres(self) -> bool:
        """Whether no other database was named by TRADEWIND_DATABASE_URL."""
        return "TRADEWIND_DATABASE_URL" not in os.environ

    def database_url(self, database: str, *, driver: str = "postgresql+psycopg2") -> str:
        """Return the URL of `airflow` or `mlflow`; TRADEWIND_DATABASE_URL holds `{database}` where the name goes."""
        if self.uses_embedded_postgres:
            return self.postgres.url(database, driver=driver)
        return os.environ["TRADEWIND_DATABASE_URL"].replace("{database}", database)

    @property
    def airflow_url(self) -> str:
        """Airflow's UI and REST API."""
        return f"http://{LOOPBACK}:{self.ports.airflow}"

    @property
    def mlflow_url(self) -> str:
        """MLflow's UI and tracking API."""
        return f"http://{LOOPBACK}:{self.ports.mlflow}"

    @property
    def model_server_url(self) -> str:
        """The model server."""
        return f"http://{LOOPBACK}:{self.ports.model_server}"

    def model_server(self, *, timeout_s: float = 30.0) -> ModelServerClient:
        """Return a client of the model server, with the right to change it."""
        from include.serving.client import ModelServerClient

        token_file = self.home.model_server_token
        return ModelServerClient(base_url=self.model_server_url, token_file=token_file, timeout_s=timeout_s)

    def airflow_env(self) -> dict[str, str]:
        """Return the environment of Airflow's processes: where the deployment is, and its secrets."""
        home, secrets = self.home, self.secrets
        bundle = {
            "name": "tradewind",
            "classpath": "model_folders.ModelFoldersBundle",  # in plugins/
            "kwargs": {"path": str(REPO), "refresh_interval": 5},
        }
        env = {
            **_base_env(),
            "AIRFLOW_HOME": str(home.airflow),
            "AIRFLOW_CONFIG": str(REPO / "airflow.cfg"),
            "AIRFLOW__CORE__FERNET_KEY": secrets.fernet_key,
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPO / "plugins"),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.airflow_url}/execution/",
            # The reconciler may start runs; connections, variables and settings are none of its business.
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin,reconciler:user",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home.secrets / "airflow_passwords.json"),
            "AIRFLOW__API__PORT": str(self.ports.airflow),
            "AIRFLOW__API__BASE_URL": self.airflow_url,
            "AIRFLOW__API__SECRET_KEY": secrets.api_secret_key,
            "AIRFLOW__API_AUTH__JWT_SECRET": secrets.jwt_secret,
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": self.database_url("airflow"),
            "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps([bundle]),
            # The bundle tells of changes; without one it takes no time from the tasks.
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "120",
            # Airflow's own 30 s would pass over a model that is changed again, or soon after the last parse.
            "AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": "5",
            # What is wrong with a spec is shown first; by the files' times, it would come when all Dags are parsed.
            "AIRFLOW__DAG_PROCESSOR__FILE_PARSING_SORT_MODE": "alphabetical",
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home.logs / "tasks"),
        }
        if self.uses_embedded_postgres:
            env["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC"] = self.database_url("airflow", driver="postgresql+asyncpg")
        return env | self._connections()

    def _connections(self) -> dict[str, str]:
        """Return Airflow's connections by environment variable; operators know them by their default names."""
        connections: dict[str, dict[str, object]] = {
            "tradewind_lake": {"conn_type": "fs", "extra": {"path": self.home.storage.root}},
            "tradewind_ledger": {"conn_type": "sqlite", "host": str(self.home.ledger)},
            "mlflow_default": {
                "conn_type": "http",
                "host": LOOPBACK,
                "port": self.ports.mlflow,
                "extra": {"signing_key_file": str(self.home.signer.key_file)},
            },
            "model_server_default": {
                "conn_type": "http",
                "host": LOOPBACK,
                "port": self.ports.model_server,
                "extra": {"token_file": str(self.home.model_server_token)},
            },
            "airflow_api_default": {
                "conn_type": "http",
                "host": LOOPBACK,
                "port": self.ports.airflow,
                "login": "reconciler",
                "password": self.secrets.reconciler_password,
            },
        }
        named = {f"AIRFLOW_CONN_{name.upper()}": json.dumps(value) for name, value in connections.items()}
        return {name: value for name, value in named.items() if name not in os.environ}

    def services(self) -> tuple[Service, ...]:
        """Return all that runs, in the order in which it is started; the database only if it is the embedded one."""
        database = (self.database(),) if self.uses_embedded_postgres else ()
        needs = tuple(service.name for service in database)
        return (*database, *self._airflow_services(needs=needs), self._model_server(), self._mlflow(needs=needs))

    def database(self) -> Service:
        """Return the embedded PostgreSQL."""
        server = self.postgres
        return Service(
            name=processes.DATABASE,
            command=tuple(server.command()),
            env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"},
            check=AcceptsConnections(postgres=server),
            before_start=server.forget_stale_pid,
        )

    def _airflow_services(self, *, needs: tuple[str, ...]) -> tuple[Service, ...]:
        airflow_env = self.airflow_env() | _QUICK_RECOVERY
        # The triggerer and the API server do not get the Dag bundle's path from Airflow; workers do, and must not have
        # the repository here, since a run pinned to a commit would then import another one's code.
        with_repo = airflow_env | {"PYTHONPATH": str(REPO)}
        return (
            Service(
                name="api-server",
                command=(*_airflow(), "api-server", "--port", str(self.ports.airflow)),
                env=with_repo,
                check=Answers(url=f"{self.airflow_url}/execution/health"),
                needs=needs,
            ),
            Service(
                name="scheduler",
                command=(*_airflow(), "scheduler", "--skip-serve-logs"),
                env=airflow_env,
                check=self._heartbeats("scheduler"),
                needs=needs,
            ),
            Service(
                name="dag-processor",
                command=(*_airflow(), "dag-processor"),
                env=airflow_env,
                check=self._heartbeats("dag_processor"),
                needs=needs,
            ),
            Service(
                name="triggerer",
                command=(*_airflow(), "triggerer", "--skip-serve-logs"),
                env=with_repo,
                check=self._heartbeats("triggerer"),
                needs=needs,
            ),
        )

    def _heartbeats(self, component: str) -> Heartbeats:
        return Heartbeats(url=f"{self.airflow_url}/api/v2/monitor/health", component=component)

    def _model_server(self) -> Service:
        home = self.home
        files = ("--state", str(home.serving), "--storage", home.storage.root)
        trusted = ("--token-file", str(home.model_server_token), "--trusted-key-file", str(home.trusted_keys))
        port = ("--port", str(self.ports.model_server))
        return Service(
            name="model-server",
            command=(sys.executable, "-m", "include.serving", *port, *files, *trusted),
            env=_base_env() | {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"},
            check=Answers(url=f"{self.model_server_url}/v2/health/live"),
            niceness=5,
            grace_s=MODEL_SERVER_GRACE_S,
        )

    def _mlflow(self, *, needs: tuple[str, ...]) -> Service:
        artifacts = ("--no-serve-artifacts", "--default-artifact-root", self.home.mlflow.as_uri())
        env = _base_env() | {
            "MLFLOW_BACKEND_STORE_URI": self.database_url("mlflow"),
            # Its job workers would be eight more processes and 2 GB for features that Tradewind does not use.
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        return Service(
            name="mlflow",
            command=(
                *(sys.executable, "-m", "mlflow", "server", "--host", LOOPBACK, "--port", str(self.ports.mlflow)),
                *("--workers", "1", *artifacts),
            ),
            env=env,
            check=Answers(url=f"{self.mlflow_url}/health"),
            needs=needs,
            niceness=10,
        )


def _airflow() -> tuple[str, ...]:
    return (sys.executable, "-m", "airflow")


def _base_env() -> dict[str, str]:
    """Return the user's environment without what would point Python or Airflow elsewhere."""
    dropped = ("PYTHONPATH", "PYTHONHOME", "AIRFLOW_HOME", "AIRFLOW_CONFIG", "TRADEWIND_DATABASE_URL")
    kept = {key: value for key, value in os.environ.items() if key not in dropped and "AIRFLOW__" not in key}
    telemetry = {"DO_NOT_TRACK": "1", "FEAST_USAGE": "False", "MLFLOW_DISABLE_TELEMETRY": "true"}
    return kept | telemetry | {"PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "ignore", "NO_COLOR": "1"}
