from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from include.training.commit import VARIABLE
from include.training.nvml import LIBRARY, Nvml
from tests.snapshots import COMMIT


@pytest.fixture(autouse=True)
def _one_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, COMMIT)


@pytest.fixture(scope="session")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Nvml:
    """Return a library with NVIDIA's symbols: one GPU with 8 GiB free, one that is full and does not tell its use."""
    if not shutil.which("gcc"):
        pytest.skip("needs gcc to build a stand-in for libnvidia-ml.so.1")
    library = tmp_path_factory.mktemp("nvml") / LIBRARY
    source = Path(__file__).with_name("stub_nvml.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    loaded = Nvml.load(str(library))
    assert loaded is not None
    return loaded
