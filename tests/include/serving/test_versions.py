"""What a version has done before it takes its first request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from include.serving import sessions
from include.serving.versions import WARM_ROWS, load_version
from tests.tiny_models import SPEC, tiny_package

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


@dataclass(frozen=True, kw_only=True)
class WatchedSession:
    """A real session that notes how many rows each run had."""

    session: Any
    ran: list[int]

    def run(self, names: list[str], inputs: dict[str, Any]) -> Any:
        self.ran.append(len(inputs["numeric"]))
        return self.session.run(names, inputs)

    def get_outputs(self) -> Any:
        return self.session.get_outputs()


def test_a_version_has_run_at_the_sizes_that_it_will_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []

    def open_watched(*arguments: Any, **settings: Any) -> sessions.Session:
        opened = sessions.open_session(*arguments, **settings)
        return opened._replace(session=WatchedSession(session=opened.session, ran=ran))

    monkeypatch.setattr("include.serving.versions.open_session", open_watched)
    package = tiny_package(tmp_path / "package")
    loaded = load_version(spec=SPEC, version="1", uri=package.uri, digest=package.digest)
    num_golden = len(loaded.golden[loaded.task.output])
    assert {1, 2, 8, WARM_ROWS // 2, WARM_ROWS, num_golden} <= set(ran)
