"""A rollout on a model server that loads signed versions only, as a deployment's own does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from include.cli.deployment import find_version
from include.errors import UnsignedError
from include.registry.register import sign
from include.registry.signing import Signer, new_private_key, public_key_of
from include.rollout.local import LocalTarget
from include.rollout.stages import Rollout
from tests.running import MODEL, RolloutWorld, RunningModelServer
from tests.tiny_models import SPEC, fill_online_store

if TYPE_CHECKING:
    from pathlib import Path

    from include.lake.storage import Storage


def test_a_version_is_deployed_when_it_is_signed(mlflow_url: str, storage: Storage, tmp_path: Path) -> None:
    private = new_private_key()
    (tmp_path / "key.pem").write_text(private)
    (tmp_path / "key.pub").write_text(public_key_of(private))
    fill_online_store(storage, {})
    trusting = ("--trusted-key-file", str(tmp_path / "key.pub"))
    server = RunningModelServer(folder=tmp_path / "server", storage=storage, arguments=trusting)
    server.start()
    try:
        world = RolloutWorld(server=server, mlflow_url=mlflow_url, folder=tmp_path)
        world.forget()
        version = world.register()
        rollout = Rollout(
            spec=SPEC,
            target=LocalTarget(client=server.client),
            ledger=world.ledger,
            tracking_uri=mlflow_url,
            actor="test",
            run_key="deploy:r1",
        )
        with pytest.raises(UnsignedError, match="got none"):
            rollout.deploy(None)
        assert world.state.loaded == frozenset()
        found = find_version(f"{MODEL}@challenger", tracking_uri=mlflow_url)
        sign(mlflow_url, version=found, signer=Signer(key_file=tmp_path / "key.pem"), storage=storage)
        assert rollout.deploy(None).version == version
        rollout.promote(version)
        assert world.send(1) == {version}
    finally:
        server.kill()
