"""MLflow's REST API without MLflow's client, whose import alone takes longer than a whole registration."""

from __future__ import annotations

import http.client
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

from include.errors import NotFoundError, ServiceError, SetupError

if TYPE_CHECKING:
    from collections.abc import Mapping

_API = "/api/2.0/mlflow"
_HTTP_OK = 200
_HTTP_SERVER_ERROR = 500
_TIMEOUT_S = 30.0


class AlreadyExistsError(Exception):
    """What was to be created is there already: for an idempotent caller that is success."""


def get(tracking_uri: str, path: str, parameters: Mapping[str, str]) -> dict[str, Any]:
    """Ask the server, for example for `registered-models/alias`.

    Raises:
        NotFoundError: The server has no such thing.
        ServiceError: It did not answer as its contract says.
    """
    return _call(tracking_uri, "GET", f"{path}?{urlencode(parameters, quote_via=quote)}", None)


def post(tracking_uri: str, path: str, body: Mapping[str, Any], *, method: str = "POST") -> dict[str, Any]:
    """Tell the server, for example to create `model-versions/create`.

    Raises:
        AlreadyExistsError: It is there already.
        NotFoundError: The server has no such thing.
        ServiceError: It did not answer as its contract says.
    """
    return _call(tracking_uri, method, path, json.dumps(body).encode())


def _call(tracking_uri: str, method: str, path: str, body: bytes | None) -> dict[str, Any]:
    what = f"MLflow at {tracking_uri} must answer {method} {path.partition('?')[0]}"
    try:
        status, raw = _exchange(tracking_uri, method, path, body)
        answer = json.loads(raw or b"{}")
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ServiceError(f"{what}; got {error!r}. Nothing was recorded. A retry asks again.") from error
    if status == _HTTP_OK:
        return dict(answer)
    code, message = str(answer.get("error_code", "")), str(answer.get("message", ""))[:300]
    if code == "RESOURCE_ALREADY_EXISTS":
        raise AlreadyExistsError(message)
    # A missing alias is an INVALID_PARAMETER_VALUE to MLflow 3.17 (store/model_registry, get_model_version_by_alias).
    if code == "RESOURCE_DOES_NOT_EXIST" or (code == "INVALID_PARAMETER_VALUE" and message.endswith("not found.")):
        raise NotFoundError(
            f"{what} with something; got: {message.rstrip('.')}. Nothing was changed. Name one that exists."
        )
    remedy = "A retry asks again." if status >= _HTTP_SERVER_ERROR else "Read what it says, mend the caller."
    raise ServiceError(f"{what}; got {status} {code}: {message} Nothing was recorded. {remedy}")


def _exchange(tracking_uri: str, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
    parts = urlsplit(tracking_uri)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SetupError(
            f"MLflow's address must be http://host:port; got {tracking_uri!r}. Nothing was recorded. Mend the "
            "connection of the tracking server."
        )
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname, parts.port, timeout=_TIMEOUT_S)
    try:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        connection.request(method, f"{parts.path.rstrip('/')}{_API}/{path}", body=body, headers=headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()
