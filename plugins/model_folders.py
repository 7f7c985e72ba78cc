"""The repository as a Dag bundle of which a change is noticed wherever it is, not in a Dag file only.

It lies here since every process of Airflow has this folder on its path, also those that know no bundle yet.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from itertools import chain
from pathlib import Path

import psutil
from airflow.configuration import conf
from airflow.dag_processing.bundles.local import LocalDagBundle

_CODE = ("dags/**/*.py", "include/**/*.py", "operators/**/*.py", "sensors/**/*.py")


class ModelFoldersBundle(LocalDagBundle):
    """A local folder whose Dag files are parsed when a model or the code that they import changes.

    Airflow notices at once when a Dag file changes, and parses it again from time to time in case that something else
    did: with a thousand models, two cores do little else. Told of changes, it need not do that often.
    """

    _seen: dict[str, int] | None = None
    _running: frozenset[int] = frozenset()
    _began_before: frozenset[int] = frozenset()

    def refresh(self) -> None:
        """Ask for all Dag files, as *Reparse* in the UI does, if something changed since the last call.

        Airflow drops the request for a file that it is parsing, which may have read what was there before; so they are
        asked for once more when such processes have ended, and Airflow has had the time to take what they made.
        """
        running = self._parsing()
        seen = self._look()
        if self._seen is not None and seen != self._seen:
            self._began_before = running
            self._ask_for_dag_files()
        elif self._began_before and not self._began_before & (running | self._running):
            self._began_before = frozenset()
            self._ask_for_dag_files()
        self._seen, self._running = seen, running

    def _parsing(self) -> frozenset[int]:
        """Return the processes that may be parsing; one that is older than Airflow lets them get, serves logs."""
        oldest_s = time.time() - conf.getfloat("dag_processor", "dag_file_processor_timeout")
        found = set()
        for child in psutil.Process().children():
            with suppress(psutil.NoSuchProcess):
                if child.create_time() > oldest_s:
                    found.add(child.pid)
        return frozenset(found)

    def _look(self) -> dict[str, int]:
        """Return when each file of which Dags are made was last written or replaced, in ns."""
        models = Path(os.environ.get("TRADEWIND_MODELS") or self.path / "include/models")
        code = chain.from_iterable(self.path.glob(pattern) for pattern in _CODE)
        changed_ns = {}
        for file in chain(models.glob("*/model.yaml"), code):
            with suppress(FileNotFoundError):
                changed_ns[str(file)] = file.stat().st_ctime_ns
        return changed_ns

    def _ask_for_dag_files(self) -> None:
        from airflow.models.dagbag import DagPriorityParsingRequest
        from airflow.utils.session import create_session
        from sqlalchemy import select

        request = DagPriorityParsingRequest
        with create_session() as session:
            asked = set(session.scalars(select(request.relative_fileloc).where(request.bundle_name == self.name)))
            files = {str(file.relative_to(self.path)) for file in self.path.glob("dags/*.py")}
            # Each request goes before the ones before it: what is wrong with a spec is shown first.
            session.add_all(request(self.name, file) for file in sorted(files - asked, reverse=True))
