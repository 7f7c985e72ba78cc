"""What an object store's refusals and cut answers are: worth another try, or a person's to mend."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from include.errors import ServiceError, SetupError
from include.lake.files import delete_file, file_exists, list_files, read_bytes, write_bytes
from include.lake.storage import Storage
from tests.object_store import object_store

if TYPE_CHECKING:
    from collections.abc import Iterator

CONTENT = b"0123456789" * 1000
SECRET = "secret-of-the-lake"


def storage_at(port: int) -> Storage:
    options = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }
    return Storage(root="s3://lake/prod", options=options)


@pytest.fixture
def lake(free_port: int) -> Iterator[tuple[Storage, Any]]:
    """Return an object store in a process of its own, and its owner's client."""
    storage = storage_at(free_port)
    with object_store(storage) as client:
        yield storage, client


def test_a_policy_that_forbids_it_is_for_its_owner_to_mend(lake: tuple[Storage, Any]) -> None:
    storage, client = lake
    uri = f"{storage.root}/file"
    write_bytes(uri, CONTENT, storage=storage)
    assert read_bytes(uri, storage=storage) == CONTENT
    denied = {"Effect": "Deny", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::lake/*"}
    client.put_bucket_policy(Bucket="lake", Policy=json.dumps({"Version": "2012-10-17", "Statement": [denied]}))
    with pytest.raises(SetupError, match=r"must allow get_object of .*Forbidden\. Nothing was changed\. Mend the "):
        read_bytes(uri, storage=storage)
    with pytest.raises(SetupError, match="NoSuchBucket"):
        list_files("s3://other/prod", storage=storage)


class Scripted(BaseHTTPRequestHandler):
    """Answers each request with one refusal, or with half of a file."""

    status, code = 200, ""

    def do_GET(self) -> None:
        if self.code:
            body = f"<Error><Code>{self.code}</Code><Message>words</Message></Error>".encode()
            self._answer(body, len(body))
        else:
            self._answer(CONTENT[:5000], len(CONTENT))
            self.close_connection = True

    def do_HEAD(self) -> None:
        self._answer(b"", 0)

    do_PUT = do_DELETE = do_GET

    def _answer(self, body: bytes, length: int) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(self.status)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_about: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Storage, type[Scripted]]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Scripted)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_MAX_ATTEMPTS", "1")
        yield storage_at(server.server_port), Scripted
    server.shutdown()
    server.server_close()


@pytest.fixture
def scripted(server: tuple[Storage, type[Scripted]], monkeypatch: pytest.MonkeyPatch) -> tuple[Storage, type[Scripted]]:
    """Return an object store that gives half of each file, and the script of its answers."""
    monkeypatch.setattr(Scripted, "status", 200)
    monkeypatch.setattr(Scripted, "code", "")
    return server


def test_an_answer_that_breaks_off_is_asked_for_again(scripted: tuple[Storage, type[Scripted]]) -> None:
    storage, _ = scripted
    with pytest.raises(ServiceError, match=r"must answer get_object of 's3://lake/prod/file'; got .*\. Retry\."):
        read_bytes(f"{storage.root}/file", storage=storage)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "ExpiredToken", ServiceError),
        (400, "RequestTimeout", ServiceError),
        (400, "IncompleteBody", ServiceError),
        (403, "RequestTimeTooSkewed", ServiceError),
        (408, "Busy", ServiceError),
        (409, "OperationAborted", ServiceError),
        (429, "TooManyRequests", ServiceError),
        (500, "InternalError", ServiceError),
        (503, "SlowDown", ServiceError),
        (400, "InvalidToken", SetupError),
        (403, "AccessDenied", SetupError),
        (403, "InvalidAccessKeyId", SetupError),
        (403, "SignatureDoesNotMatch", SetupError),
    ],
)
def test_a_refusal_is_tried_again_if_it_can_pass(
    scripted: tuple[Storage, type[Scripted]], status: int, code: str, kind: type[Exception]
) -> None:
    storage, script = scripted
    script.status, script.code = status, code
    uri = f"{storage.root}/file"
    for ask in (read_bytes, delete_file, list_files):
        with pytest.raises(kind, match=code):
            ask(uri, storage=storage)
    with pytest.raises(kind, match=code):
        write_bytes(uri, CONTENT, storage=storage)


@pytest.mark.parametrize(("status", "kind"), [(400, ServiceError), (403, SetupError), (503, ServiceError)])
def test_a_refusal_without_words_too(
    scripted: tuple[Storage, type[Scripted]], status: int, kind: type[Exception]
) -> None:
    storage, script = scripted
    script.status = status
    with pytest.raises(kind, match=str(status)):
        file_exists(f"{storage.root}/file", storage=storage)


class Metadata(BaseHTTPRequestHandler):
    """Tells the credentials of a machine's role, when it is not too slow for that."""

    is_slow = True

    def do_GET(self) -> None:
        role = {
            "Code": "Success",
            "AccessKeyId": "key",
            "SecretAccessKey": SECRET,
            "Token": "token",
            "Expiration": "2100-01-01T00:00:00Z",
        }
        body = b"trainer" if self.path.endswith("/") else json.dumps(role).encode()
        self.send_response(503 if self.is_slow else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.do_GET()

    def log_message(self, *_about: object) -> None:
        """Say nothing."""


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Metadata]]:
    """Return a machine's metadata service, which alone has credentials, and is slow."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_EC2_METADATA_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/nowhere")
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setattr(Metadata, "is_slow", True)
    yield Metadata
    server.shutdown()
    server.server_close()


def test_credentials_that_a_role_does_not_bring_in_time_are_asked_for_again(
    scripted: tuple[Storage, type[Scripted]], metadata: type[Metadata]
) -> None:
    named = {name: scripted[0].options[name] for name in ("AWS_REGION", "AWS_ENDPOINT_URL")}
    storage = Storage(root="s3://lake/prod", options=named)
    with pytest.raises(ServiceError, match=r"Unable to locate credentials.*Retry; .*env_secret"):
        write_bytes("s3://lake/prod/file", CONTENT, storage=storage)
    metadata.is_slow = False
    assert file_exists("s3://lake/prod/file", storage=storage)


def test_half_a_pair_of_keys_is_for_a_person_to_mend(scripted: tuple[Storage, type[Scripted]]) -> None:
    halved = {name: value for name, value in scripted[0].options.items() if name != "AWS_SECRET_ACCESS_KEY"}
    storage = Storage(root="s3://lake/prod", options=halved)
    with pytest.raises(SetupError, match=r"Partial credentials found.*env_secret"):
        read_bytes("s3://lake/prod/file", storage=storage)
