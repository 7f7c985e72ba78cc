"""A deployment's folder on disk with nothing running, and the command line in this process."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import pytest

from include.runtime.home import Home
from include.runtime.secrets import load_secrets
from include.runtime.stack import free_ports

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Return a deployment that was prepared and never started, on ports that nobody uses."""
    found = Home(root=tmp_path / "deployment")
    found.prepare()
    load_secrets(found.secrets)
    (found.root / "ports.json").write_text(json.dumps(asdict(free_ports())))
    return found
