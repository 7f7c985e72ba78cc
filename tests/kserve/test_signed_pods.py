"""What a pod of KServe is told of keys, and what the model server does with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from include.registry.signing import Signer, new_private_key, public_key_of
from include.rollout.kserve.settings import KServeSettings, container, predictor
from include.rollout.target import Artifact
from tests.kserve.fields import check_pod
from tests.running import MODEL, RunningModelServer
from tests.tiny_models import fill_online_store, request_columns, tiny_package

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from include.lake.storage import Storage

RAW = {"namespace": "ml", "image": "i:1", "prometheus_url": "http://p:9090"}
KEYS_FILE = "/etc/tradewind-keys/trusted_keys.pem"


def settings(**more: Any) -> KServeSettings:
    return KServeSettings.read({**RAW, **more}, conn_id="kserve_default")


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    private = new_private_key()
    (tmp_path / "key").write_text(private)
    (tmp_path / "keys").write_text(public_key_of(private))
    return Signer(key_file=tmp_path / "key")


@pytest.fixture
def artifact(tmp_path: Path) -> Callable[..., Artifact]:
    def make(signer: Signer | None = None) -> Artifact:
        package = tiny_package(tmp_path / "package")
        signature = signer.sign(model=MODEL, digest=package.digest) if signer else ""
        return Artifact(model=MODEL, version="7", uri=package.uri, digest=package.digest, signature=signature)

    return make


@pytest.fixture
def pod(tmp_path: Path, storage: Storage) -> Iterator[Callable[[Artifact], RunningModelServer]]:
    """Give a function that makes a server of a container's arguments, its keys mounted elsewhere."""
    made: list[RunningModelServer] = []

    def make(artifact: Artifact) -> RunningModelServer:
        fill_online_store(storage, {})
        told = container(settings(trusted_keys_configmap="keys"), artifact)["args"]
        mounted = tuple(str(tmp_path / "keys") if argument == KEYS_FILE else argument for argument in told)
        assert mounted != tuple(told)
        made.append(RunningModelServer(folder=tmp_path / "pod", storage=storage, arguments=mounted))
        return made[-1]

    yield make
    for server in made:
        server.kill()


def test_the_keys_are_mounted_where_the_server_looks_for_them(artifact: Callable[..., Artifact]) -> None:
    told = settings(trusted_keys_configmap="keys")
    served, around = container(told, artifact()), predictor(told, artifact())
    assert around["volumes"] == [{"name": "keys", "configMap": {"name": "keys"}}]
    assert served["volumeMounts"] == [{"name": "keys", "mountPath": "/etc/tradewind-keys", "readOnly": True}]
    assert served["args"][-2:] == ["--trusted-key-file", KEYS_FILE]
    check_pod({**around, "containers": [{**served, "name": "kserve-container", "image": "i:1"}]})
    assert "--trusted-key-file" not in container(settings(), artifact())["args"]


def test_a_pod_serves_what_is_signed_and_takes_it_again_by_an_admin_call(
    pod: Callable[[Artifact], RunningModelServer], artifact: Callable[..., Artifact], signer: Signer
) -> None:
    signed = artifact(signer)
    server = pod(signed)
    server.start()
    again = {"uri": signed.uri, "digest": signed.digest, "signature": signed.signature}
    server.client.load(model=MODEL, version="7", **again)
    assert server.client.infer(model=MODEL, columns=request_columns(1))["model_version"] == "7"


@pytest.mark.usefixtures("signer")
def test_a_pod_without_a_signature_never_gets_ready_and_says_why(
    pod: Callable[[Artifact], RunningModelServer], artifact: Callable[..., Artifact]
) -> None:
    server = pod(artifact())
    with pytest.raises(RuntimeError, match="must bring a signature of its model and digest; got none"):
        server.start()
    assert server.process is not None
    assert server.process.wait(10) == 78
