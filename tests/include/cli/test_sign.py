from __future__ import annotations

import json
from typing import TYPE_CHECKING

from typer.testing import CliRunner

from include.cli.app import app
from include.registry.models import get_version
from include.registry.signing import Trust
from tests.running import MODEL, RolloutWorld, RunningModelServer

if TYPE_CHECKING:
    from pathlib import Path

    from include.lake.storage import Storage
    from include.runtime.home import Home


def test_a_version_is_signed_with_the_deployments_key(
    home: Home, mlflow_url: str, storage: Storage, tmp_path: Path
) -> None:
    recorded = home.root / "ports.json"
    ports = {**json.loads(recorded.read_text()), "mlflow": int(mlflow_url.rpartition(":")[2])}
    recorded.write_text(json.dumps(ports))
    unused = RunningModelServer(folder=tmp_path / "server", storage=storage)
    version = RolloutWorld(server=unused, mlflow_url=mlflow_url, folder=tmp_path).register(alias=None)
    done = CliRunner().invoke(app, ["sign", f"{MODEL}@{version}", "--home", str(home.root)])
    assert (done.exit_code, done.output) == (0, f"signed {MODEL} v{version}\n")
    tags = get_version(mlflow_url, model=MODEL, version=version).tags
    trust = Trust(keys_file=home.trusted_keys)
    trust.require(model=MODEL, digest=tags["digest"], signature=tags["signature"])
    refused = CliRunner().invoke(app, ["sign", MODEL, "--home", str(home.root)])
    assert refused.exit_code == 1
    assert "a version must be named MODEL@VERSION" in refused.output
