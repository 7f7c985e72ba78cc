"""Whom the model server believes: signed packages are loaded, others are refused before a byte of them is read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from include.errors import BadInputError, SetupError, UnsignedError
from include.registry.signing import Signer, Trust, new_private_key, public_key_of
from tests.running import MODEL, TOKEN, RunningModelServer
from tests.tiny_models import fill_online_store, request_columns, tiny_package

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from include.lake.storage import Storage
    from include.registry.package import Package
    from include.serving.client import ModelServerClient

DIGEST = "a" * 64
HEADERS = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def make_signer(tmp_path: Path) -> Callable[[str], Signer]:
    """Return a function that makes a key pair of a name and returns what signs with it."""

    def make(name: str) -> Signer:
        private = new_private_key()
        (tmp_path / f"{name}.pem").write_text(private)
        (tmp_path / f"{name}.pub").write_text(public_key_of(private))
        return Signer(key_file=tmp_path / f"{name}.pem")

    return make


@pytest.fixture
def ours(make_signer: Callable[[str], Signer]) -> Signer:
    return make_signer("ours")


@pytest.fixture
def server(ours: Signer, tmp_path: Path, storage: Storage) -> Iterator[RunningModelServer]:
    fill_online_store(storage, {})
    trusting = ("--trusted-key-file", str(ours.key_file.with_suffix(".pub")))
    running = RunningModelServer(folder=tmp_path / "server", storage=storage, arguments=trusting)
    running.start()
    yield running
    running.kill()


def load(client: ModelServerClient, package: Package, signature: str) -> None:
    client.load(model=MODEL, version="1", uri=package.uri, digest=package.digest, signature=signature)


def test_a_signature_is_of_one_model_one_package_and_one_key(
    ours: Signer, make_signer: Callable[[str], Signer], tmp_path: Path
) -> None:
    theirs = make_signer("theirs")
    trust = Trust(keys_file=tmp_path / "ours.pub")
    good = ours.sign(model="m", digest=DIGEST)
    trust.require(model="m", digest=DIGEST, signature=good)
    for model, digest, signature in (
        ("n", DIGEST, good),
        ("m", "b" * 64, good),
        ("m", DIGEST, theirs.sign(model="m", digest=DIGEST)),
        ("m", DIGEST, good[:-4]),
        ("m", DIGEST, "no base64: é"),
    ):
        with pytest.raises(UnsignedError, match="got one that no trusted key made of them"):
            trust.require(model=model, digest=digest, signature=signature)
    with pytest.raises(UnsignedError, match="got none"):
        trust.require(model="m", digest=DIGEST, signature="")


def test_two_keys_are_trusted_while_one_replaces_the_other(
    ours: Signer, make_signer: Callable[[str], Signer], tmp_path: Path
) -> None:
    newer, trusted = make_signer("newer"), tmp_path / "ours.pub"
    trusted.write_text(trusted.read_text() + (tmp_path / "newer.pub").read_text())
    for signer in (ours, newer):
        signature = signer.sign(model="m", digest=DIGEST)
        Trust(keys_file=trusted).require(model="m", digest=DIGEST, signature=signature)


@pytest.mark.parametrize("text", ["", "nonsense", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
def test_a_file_without_a_key_is_said_so(tmp_path: Path, text: str) -> None:
    (tmp_path / "key").write_text(text)
    with pytest.raises(SetupError, match="must hold an Ed25519 key as PEM"):
        Trust(keys_file=tmp_path / "key").require_keys()
    with pytest.raises(SetupError, match="must hold an Ed25519 key as PEM"):
        Signer(key_file=tmp_path / "key").sign(model="m", digest=DIGEST)


def test_only_signed_versions_are_loaded_and_outlive_a_restart(
    server: RunningModelServer, ours: Signer, make_signer: Callable[[str], Signer], tmp_path: Path
) -> None:
    client, package = server.client, tiny_package(tmp_path / "package")
    wrong = make_signer("theirs").sign(model=MODEL, digest=package.digest)
    for signature, found in (("", "got none"), (wrong, "got one that no trusted key made")):
        with pytest.raises(UnsignedError, match=f"{found}.*Nothing was loaded. Sign the version"):
            load(client, package, signature)
    assert client.get_routes(model=MODEL)["versions"] == {}
    load(client, package, ours.sign(model=MODEL, digest=package.digest))
    client.set_routes(model=MODEL, champion="1")
    server.kill()
    server.start()
    assert client.infer(model=MODEL, columns=request_columns(1))["model_version"] == "1"


def test_tritonclient_loads_and_unloads_what_is_signed(
    server: RunningModelServer, ours: Signer, tmp_path: Path
) -> None:
    package = tiny_package(tmp_path / "package")
    signature = ours.sign(model=MODEL, digest=package.digest)
    config = {"uri": package.uri, "digest": package.digest, "version": "1"}
    with triton.InferenceServerClient(f"127.0.0.1:{server.port}") as client:

        def load_it(**given: Any) -> None:
            client.load_model(MODEL, headers=HEADERS, config=json.dumps({**config, **given}))

        with pytest.raises(InferenceServerException, match="got none") as unsigned:
            load_it()
        assert unsigned.value.status() == "422"
        with pytest.raises(InferenceServerException, match="'Authorization: Bearer <admin token>'") as unknown:
            client.load_model(MODEL, config=json.dumps(config))
        assert unknown.value.status() == "401"
        load_it(signature=signature)
        load_it(signature=signature)  # twice is once
        entry = {"name": MODEL, "version": "1", "state": "READY", "reason": ""}
        assert client.get_model_repository_index(headers=HEADERS) == [entry]
        server.client.set_routes(model=MODEL, champion="1")
        with pytest.raises(InferenceServerException, match="must take no traffic to be unloaded; got champion"):
            client.unload_model(MODEL, headers=HEADERS)
        server.client.set_routes(model=MODEL, champion=None)
        client.unload_model(MODEL, headers=HEADERS)
        assert client.get_model_repository_index(headers=HEADERS) == []
        for bad in ("no json", "[]", '{"uri": "/x"}', '{"uri": "/x", "digest": 3, "version": "1"}'):
            with pytest.raises(InferenceServerException, match="needs the parameters uri, digest, version"):
                client.load_model(MODEL, headers=HEADERS, config=bad)


def test_what_is_routed_keeps_its_package_however_it_is_signed(
    server: RunningModelServer, ours: Signer, tmp_path: Path
) -> None:
    package, other = tiny_package(tmp_path / "package"), tiny_package(tmp_path / "other", bias=1.0)
    load(server.client, package, ours.sign(model=MODEL, digest=package.digest))
    server.client.set_routes(model=MODEL, champion="1")
    with pytest.raises(BadInputError, match="must keep its package while it takes traffic"):
        load(server.client, other, ours.sign(model=MODEL, digest=other.digest))
