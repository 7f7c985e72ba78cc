"""The one client of the model server's inference and admin calls; standard library only, so that tasks start fast."""

from __future__ import annotations

import http.client
import json
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from include import errors
from include.errors import ServiceError, SetupError, TradewindError
from include.serving.token import AdminToken

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from include.rollout.decision import LabelEvidence

HTTP_OK = 200
HTTP_REDIRECT = 300
HTTP_UNAUTHORIZED = 401
HTTP_FORBIDDEN = (HTTP_UNAUTHORIZED, 403)
ADMIN_PATH = "/v2/router"
LOAD_TIMEOUT_S = 180.0
"""A version is tried out before it is loaded, one after the other."""


@dataclass(frozen=True, kw_only=True)
class ModelServerClient:
    """Calls one model server; every admin call is idempotent, so a caller that was killed just calls again.

    Args:
        base_url: For example `http://127.0.0.1:8081`.
        admin_token: Bearer token of the admin calls; inference needs none.
        token_file: File with that token, read at each admin call, so that it may be rotated meanwhile.
        timeout_s: Seconds until a silent server counts as down.
    """

    base_url: str
    admin_token: str = field(default="", repr=False)
    token_file: Path | None = None
    timeout_s: float = 30.0

    def __post_init__(self) -> None:
        """Refuse an address that no server can have.

        Raises:
            SetupError: `base_url` is not http or https with a host and a port.
        """
        if not _is_address(self.base_url):
            raise SetupError(
                "model server needs a base_url of http or https with host and port, such as http://127.0.0.1:8081; "
                f"got {self.base_url}. Nothing was asked. Set scheme, host and port of its connection."
            )

    def admin_headers(self) -> dict[str, str]:
        """Return what an admin call needs at this moment.

        Raises:
            SetupError: The token's file cannot be read.
        """
        token = self.admin_token if self.token_file is None else AdminToken(path=self.token_file).read()
        return {"Authorization": f"Bearer {token}"} if token else {}

    def load(self, *, model: str, version: str, uri: str, digest: str, signature: str = "") -> dict[str, Any]:
        """Load a model package whose digest must be `digest`; it takes no traffic yet. Returns the router's state.

        A server that trusts some keys only wants their `signature` of the model and the digest.
        """
        body = {"uri": uri, "digest": digest, "signature": signature}
        patient = replace(self, timeout_s=max(self.timeout_s, LOAD_TIMEOUT_S))
        return patient._call("PUT", _path("router", model, "versions", version), body)  # noqa: SLF001 - its own class

    def unload(self, *, model: str, version: str) -> dict[str, Any]:
        """Drop a version that no route names; dropping one that is not loaded does nothing."""
        return self._call("DELETE", _path("router", model, "versions", version))

    def set_routes(
        self,
        *,
        model: str,
        champion: str | None,
        canary: str | None = None,
        canary_share_pct: float = 0.0,
        shadow: str | None = None,
        if_revision: int | None = None,
    ) -> dict[str, Any]:
        """Replace all routes of a model in one step. Equal routes change nothing; other ones reset the counters.

        Args:
            model: The model's name.
            champion: Version that answers.
            canary: Version that answers a share of the requests.
            canary_share_pct: That share in per cent, a multiple of 0.1.
            shadow: Version that scores copies of the requests.
            if_revision: Refuse when the routes changed since the state with this `revision` was read.
        """
        body = {
            "champion": champion,
            "canary": canary,
            "canary_share_pct": canary_share_pct,
            "shadow": shadow,
            "if_revision": if_revision,
        }
        return self._call("PUT", _path("router", model, "routes"), body)

    def set_labels(self, *, model: str, partition: str, evidence: LabelEvidence) -> dict[str, Any]:
        """Keep what a partition's late labels say of a challenger; saying it again replaces it."""
        return self._call("PUT", _path("router", model, "labels", partition), asdict(evidence))

    def get_routes(self, *, model: str) -> dict[str, Any]:
        """Return routes, loaded versions, and the counters since the routes last changed."""
        return self._call("GET", _path("router", model))

    def get_all_routes(self) -> dict[str, Any]:
        """Return `{"models": {model: state}, "log": counters of the prediction log}`."""
        return self._call("GET", _path("router"))

    def golden(self, *, model: str, version: str) -> dict[str, Any]:
        """Run the golden rows of a loaded version's package: `{"passed", "num_rows", "max_abs_diff", "tolerance"}`."""
        return self._call("POST", _path("router", model, "versions", version, "golden"))

    def flush(self) -> dict[str, Any]:
        """Write every logged prediction to disk and return the log's counters."""
        return self._call("POST", _path("router", "flush"))

    def infer(
        self,
        *,
        model: str,
        columns: Mapping[str, Sequence[Any]],
        request_id: str | None = None,
        sticky_key: str | None = None,
    ) -> dict[str, Any]:
        """Score rows given as columns (request features and entities, `example_id` if known)."""
        body = infer_body(columns=columns, request_id=request_id, sticky_key=sticky_key)
        return self._call("POST", _path("models", model, "infer"), body)

    def is_ready(self) -> bool:
        """Return whether the server answers and can score every model that it routes."""
        try:
            self._call("GET", _path("health", "ready"))
        except TradewindError:
            return False
        return True

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        headers = self.admin_headers() if path.startswith(ADMIN_PATH) else {}
        status, text = self._send(method, path, body, headers)
        while status == HTTP_UNAUTHORIZED and headers != (newer := self.admin_headers()):
            headers = newer  # the token was rotated between reading and asking
            status, text = self._send(method, path, body, headers)
        return _answer(status, text, what=f"{method} {self.base_url}{path}")

    def _send(
        self, method: str, path: str, body: Mapping[str, Any] | None, headers: Mapping[str, str]
    ) -> tuple[int, bytes]:
        payload = None if body is None else json.dumps(body, allow_nan=False).encode()
        if payload is not None:
            headers = {**headers, "Content-Type": "application/json"}
        address = urlsplit(self.base_url)
        https = address.scheme == "https"
        kind = http.client.HTTPSConnection if https else http.client.HTTPConnection
        connection = kind(address.hostname or "", address.port, timeout=self.timeout_s)
        try:
            connection.request(method, address.path.rstrip("/") + path, payload, headers)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            raise ServiceError(
                f"model server {self.base_url} must answer {method} {path} within {self.timeout_s:.0f} s; got "
                f"{error!r}. Calls are idempotent and routes outlive a restart. Start it, then retry."
            ) from error
        finally:
            connection.close()


def infer_body(
    *, columns: Mapping[str, Sequence[Any]], request_id: str | None = None, sticky_key: str | None = None
) -> dict[str, Any]:
    """Return the Open Inference Protocol v2 request for rows given as columns; None is a missing number.

    >>> infer_body(columns={"carrier": ["UA"], "temp": [None]})["inputs"][1]
    {'name': 'temp', 'datatype': 'FP64', 'shape': [1], 'data': [None]}
    """
    body: dict[str, Any] = {"inputs": [_tensor(name, list(values)) for name, values in columns.items()]}
    if request_id is not None:
        body["id"] = request_id
    if sticky_key is not None:
        body["parameters"] = {"sticky_key": sticky_key}
    return body


def _tensor(name: str, values: list[Any]) -> dict[str, Any]:
    if any(isinstance(value, str) for value in values):
        datatype = "BYTES"
    else:
        datatype = "INT64" if values and all(isinstance(value, int) for value in values) else "FP64"
    return {"name": name, "datatype": datatype, "shape": [len(values)], "data": values}


def _is_address(base_url: str) -> bool:
    try:
        address = urlsplit(base_url)
        return address.scheme in {"http", "https"} and bool(address.hostname) and address.port is not None
    except ValueError:  # a port that is no number, or too large
        return False


def _path(*parts: str) -> str:
    return "/v2/" + "/".join(quote(part, safe="") for part in parts)


def _answer(status: int, text: bytes, *, what: str) -> dict[str, Any]:
    """Return the JSON of a good answer; raise the class that the server named for a bad one."""
    try:
        answer = json.loads(text) if text else {}
    except ValueError:
        answer = {"error": text[:200].decode(errors="replace")}
    if HTTP_OK <= status < HTTP_REDIRECT:
        return dict(answer)
    message = str(answer.get("error", "no reason given"))
    if status in HTTP_FORBIDDEN:
        raise SetupError(f"{what} needs the server's admin token; got {status}: {message}")
    kind = getattr(errors, str(answer.get("kind")), ServiceError)
    if not (isinstance(kind, type) and issubclass(kind, TradewindError)):
        kind = ServiceError
    raise kind(f"{what}: {message}" if kind is ServiceError else message)
