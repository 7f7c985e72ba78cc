"""What admin calls may not leave behind, and what they say to those who may not make them."""

from __future__ import annotations

import http.client
import json
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from include.errors import BadInputError, NotFoundError
from include.rollout.decision import LabelEvidence
from include.serving.client import infer_body
from tests.running import MODEL
from tests.tiny_models import request_columns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.running import RunningModelServer

EVIDENCE = LabelEvidence(version="2", champion="1", num=1, total=1.0, total_squares=1.0)


def ask(
    server: RunningModelServer, method: str, path: str, body: bytes = b"", *, has_token: bool = True
) -> tuple[int, dict[str, Any], http.client.HTTPMessage]:
    headers = server.client.admin_headers() if has_token else {}
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)) as connection:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read()), response.headers


@contextmanager
def set_aside(path: Path) -> Iterator[None]:
    aside = path.with_name(f"{path.name}-aside")
    path.rename(aside)
    try:
        yield
    finally:
        aside.rename(path)


@pytest.mark.parametrize(
    ("model", "evidence", "message"),
    [
        ("ghost", EVIDENCE, r"labels of model 'ghost' must be of versions that it has \(none\); got '2'"),
        (MODEL, EVIDENCE, r"must be of versions that it has \(1\); got '2'. They were not kept"),
        (MODEL, LabelEvidence(version="1", champion="2"), r"must be of versions that it has \(1\); got '2'"),
    ],
)
def test_labels_of_what_is_not_there_make_no_ghost(
    champion: RunningModelServer, model: str, evidence: LabelEvidence, message: str
) -> None:
    with pytest.raises(NotFoundError, match=message):
        champion.client.set_labels(model=model, partition="2013-07", evidence=evidence)
    assert set(champion.client.get_all_routes()["models"]) == {MODEL}
    assert champion.client.get_routes(model=MODEL)["labels"] == {}
    assert ask(champion, "POST", "/v2/models/ghost/infer", b"{}")[0] == 404


def test_labels_of_loaded_versions_are_kept(champion: RunningModelServer, load: Callable[..., str]) -> None:
    load("2")
    champion.client.set_labels(model=MODEL, partition="2013-07", evidence=EVIDENCE)
    assert champion.client.get_routes(model=MODEL)["labels"]["2013-07"]["version"] == "2"


def test_a_token_that_cannot_be_read_is_said_without_its_path(champion: RunningModelServer) -> None:
    with set_aside(champion.folder / "token"):
        for has_token in (False, True):
            status, answer, headers = ask(champion, "GET", "/v2/router", has_token=has_token)
            assert (status, answer["kind"], headers["Retry-After"]) == (503, "ServiceError", "1")
            assert answer["error"].startswith(
                "the server's admin token cannot be read at this moment. Nothing was done"
            )
            assert "/" not in answer["error"]
    assert f"admin token must be in {champion.folder / 'token'}; got" in champion.log
    assert ask(champion, "GET", "/v2/router")[0] == 200


@pytest.mark.parametrize(
    "uri", ["http://127.0.0.1:1/x", "gs://x/y", "S3://b/k", "s3://", "s3:///key", "http://[", "://"]
)
def test_a_place_where_no_package_can_be_is_named(champion: RunningModelServer, uri: str) -> None:
    with pytest.raises(BadInputError, match=r"must be in a folder, file:///folder or s3://bucket/prefix; got"):
        champion.client.load(model=MODEL, version="2", uri=uri, digest="d")
    assert set(champion.client.get_routes(model=MODEL)["versions"]) == {"1"}


@pytest.mark.parametrize("body", [b"", b"{}", b'{"parameters": {}}'])
def test_a_model_is_loaded_again_by_its_name(
    champion: RunningModelServer, load: Callable[..., str], tmp_path: Path, body: bytes
) -> None:
    champion.client.set_routes(model=MODEL, champion="1", shadow=load("2"))
    champion.kill()
    load_again = ("POST", f"/v2/repository/models/{MODEL}/load", body)
    with set_aside(tmp_path / "package-1"), set_aside(tmp_path / "package-2"):
        champion.start(wait_ready=False)
        assert ask(champion, *load_again)[0] == 404
    with set_aside(tmp_path / "package-1" / "golden.json"):
        status, answer, _ = ask(champion, *load_again)
    assert (status, "golden.json must match its recorded digest" in answer["error"]) == (422, True)
    assert champion.client.get_routes(model=MODEL)["versions"]["2"]["error"] is None  # version 1 kept it from nothing
    assert not champion.client.is_ready()
    assert ask(champion, *load_again)[:2] == (200, {})
    assert champion.client.is_ready()
    assert champion.client.infer(model=MODEL, columns=request_columns(1))["model_version"] == "1"


def test_tritonclient_loads_by_name_what_the_server_knows(champion: RunningModelServer) -> None:
    headers = champion.client.admin_headers()
    with triton.InferenceServerClient(f"127.0.0.1:{champion.port}") as client:
        client.load_model(MODEL, headers=headers)
        with pytest.raises(
            InferenceServerException, match="model 'ghost' must have versions that the server"
        ) as unknown:
            client.load_model("ghost", headers=headers)
        assert unknown.value.status() == "404"
        entry = {"name": MODEL, "version": "1", "state": "READY", "reason": ""}
        assert client.get_model_repository_index(headers=headers) == [entry]


def test_every_503_says_when_to_ask_again(champion: RunningModelServer) -> None:
    infer = ("POST", f"/v2/models/{MODEL}/infer", json.dumps(infer_body(columns=request_columns(1))).encode())
    stale = {"champion": "1", "canary": None, "canary_share_pct": 0.0, "shadow": None, "if_revision": -1}
    with set_aside(Path(champion.storage.feast())):
        found = [
            ask(champion, "GET", "/v2/health/ready"),
            ask(champion, *infer),
            ask(champion, "PUT", f"/v2/router/{MODEL}/routes", json.dumps(stale).encode()),
        ]
    champion.client.set_routes(model=MODEL, champion=None)
    found += [ask(champion, *infer), ask(champion, "GET", f"/v2/models/{MODEL}/ready")]
    for status, answer, headers in found:
        assert (status, answer["kind"], headers["Retry-After"]) == (503, "ServiceError", "1"), answer
        assert answer["error"]


def test_a_call_by_the_wrong_method_names_the_right_ones(champion: RunningModelServer) -> None:
    status, answer, headers = ask(champion, "GET", f"/v2/models/{MODEL}/infer")
    assert (status, answer["kind"], headers["Allow"]) == (405, "BadInputError", "POST")
