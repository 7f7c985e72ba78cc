"""Many model folders under a real Dag processor on a real PostgreSQL, on two cores."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import psycopg2

from include.runtime import stack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from include.runtime.services import Deployment

REPO = Path(__file__).parents[2]
TEXT = (REPO / "include/models/flight_delays/model.yaml").read_text()
STAGES = ("deploy", "ingest", "materialize", "monitor", "rollback", "score", "train")
CORES = "0,1"
MAX_UNNOTICED_S = 6.0
"""After so long the bundle has looked for changes once more."""
_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


def write_models(folder: Path, num_models: int) -> list[str]:
    """Write the shipped spec under many names, and return them."""
    names = [f"model_{number:04d}" for number in range(num_models)]
    for name in names:
        (folder / name).mkdir()
        write_model(folder, name, TEXT)
    return names


def write_model(folder: Path, name: str, text: str) -> None:
    """Write a model.yaml as an editor does: aside, then in place."""
    aside = folder / name / ".model.yaml"
    aside.write_text(re.sub(r"(?m)^name: .*$", f"name: {name}", text, count=1))
    aside.replace(folder / name / "model.yaml")


@dataclass(kw_only=True)
class ParsedModels:
    """A Dag processor that parses a folder of models, and what it has written about them."""

    folder: Path
    database: Any
    database_folder: Path
    process: subprocess.Popen[bytes]
    log: Path
    started_s: float

    def count(self) -> int:
        """Return how many stage Dags Airflow knows."""
        query = "SELECT count(DISTINCT dag_id) FROM serialized_dag WHERE strpos(dag_id, '_model_') > 0"
        return int(self._ask(query)[0][0])

    def errors(self) -> dict[str, str]:
        """Return file -> import error."""
        return dict(self._ask("SELECT filename, stacktrace FROM import_error"))

    def active(self) -> int:
        """Return how many stage Dags Airflow shows as active."""
        return int(self._ask("SELECT count(*) FROM dag WHERE NOT is_stale AND strpos(dag_id, '_model_') > 0")[0][0])

    def owner_of(self, dag_id: str) -> str:
        """Return a Dag's owner, which its spec names."""
        return str(self._ask("SELECT owners FROM dag WHERE dag_id = %s", dag_id)[0][0])

    def wait_until(self, is_so: Any, *, timeout_s: float) -> float:
        """Return after how many seconds it is so."""
        began_s = time.monotonic()
        while not is_so():
            if self.process.poll() is not None or time.monotonic() - began_s > timeout_s:
                waited = f"not so after {time.monotonic() - began_s:.0f} s; exit code: {self.process.poll()}"
                said = "".join(self.log.read_text().splitlines(keepends=True)[-40:])
                raise TimeoutError(f"{waited}; errors: {self.errors()}; it said:\n{said}")
            time.sleep(0.25)
        return time.monotonic() - began_s

    def wait_until_idle(self) -> None:
        """Wait until no file is parsed, and none is asked for again."""
        processor = psutil.Process(self.process.pid)
        for _ in range(2):
            self.wait_until(lambda: not processor.children(), timeout_s=600)
            time.sleep(MAX_UNNOTICED_S)

    def cpu_s(self) -> dict[str, float]:
        """Return the CPU seconds of the processor, of the processes that it parses files in, and of PostgreSQL."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        own, children = (sum(map(int, fields[at : at + 2])) / _CLOCK_TICKS for at in (11, 13))
        return {"manager": own, "parsing": children, "database": self._database_cpu_s()}

    def _database_cpu_s(self) -> float:
        server = psutil.Process(int((self.database_folder / "postmaster.pid").read_text().splitlines()[0]))
        times = [process.cpu_times() for process in (server, *server.children(recursive=True))]
        return float(sum(time.user + time.system for time in times))

    def _ask(self, query: str, *values: str) -> list[tuple[Any, ...]]:
        with self.database.cursor() as cursor:
            cursor.execute(query, values)
            return list(cursor.fetchall())


@contextmanager
def parsing(num_models: int) -> Iterator[ParsedModels]:
    """Run a Dag processor over so many models, in a temporary deployment without any other server."""
    root = Path(tempfile.mkdtemp(prefix="tw-"))
    root.chmod(0o711)
    deployment = stack.open_deployment(root / "home", ports=stack.free_ports())
    try:
        deployment.postgres.start()
        folder = root / "models"
        folder.mkdir()
        write_models(folder, num_models)
        env = {**deployment.airflow_env(), "TRADEWIND_MODELS": str(folder)}
        subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], env=env, check=True, capture_output=True)
        with closing(_connect(deployment)) as database, (root / "log").open("wb") as log:
            command = ["taskset", "-c", CORES, sys.executable, "-m", "airflow", "dag-processor"]
            process = subprocess.Popen(command, env=env, cwd=root, stdout=log, stderr=log)
            try:
                yield ParsedModels(
                    folder=folder,
                    database=database,
                    database_folder=deployment.home.postgres / "data",
                    process=process,
                    log=root / "log",
                    started_s=time.monotonic(),
                )
            finally:
                process.send_signal(signal.SIGINT)
                process.wait(60)
    finally:
        stack.down(deployment.home, say=lambda _: None)
        shutil.rmtree(root)


def _connect(deployment: Deployment) -> Any:
    connection = psycopg2.connect(
        host=str(deployment.home.postgres / "run"),
        user="tradewind",
        dbname="airflow",
        password=deployment.secrets.postgres_password,
    )
    connection.autocommit = True
    return connection


def to_json(found: dict[str, Any], path: Path) -> None:
    """Write what was measured."""
    path.write_text(json.dumps(found, indent=1) + "\n")
