from __future__ import annotations

import pytest

from include.training.commit import VARIABLE
from tests.snapshots import COMMIT


@pytest.fixture(autouse=True)
def _one_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, COMMIT)
