"""What a call of Kubernetes' API may answer, in words, and when it is worth another one."""

from __future__ import annotations

import json
from typing import Any

from include.errors import ServiceError, SetupError

REQUEST_TIMEOUT_S = 30.0
CONFLICT = 409
_FIRST_PAUSE_S = 1.0
_MAX_PAUSE_S = 15.0
APPLY = "application/apply-patch+yaml"
"""Content type of a server-side apply."""
_NOT_FOUND = 404
_UNAUTHORIZED = 401
_FORBIDDEN = 403
_NOBODY = "system:anonymous"
"""Whom the server takes a client for that has no token, as when the plugin that gives it failed just then."""
_TAKEN = "AlreadyExists"
_JOBS = "/apis/batch/v1/"
_TRANSIENT = frozenset({401, 408, 409, 410, 425, 429, 500, 502, 503, 504})
"""What another call may not meet; 401 is a token that is being renewed, 409 and 410 an object that just changed."""


class RefusedError(SetupError):
    """The API server understood, and refuses: by its rules, by quota, or for want of rights.

    Attributes:
        status: HTTP status.
        reason: The server's words.
    """

    def __init__(self, message: str, *, status: int, reason: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason

    @property
    def is_quota(self) -> bool:
        """Whether a quota is used up; one that wants what the profile does not say is no matter of waiting."""
        return self.status == _FORBIDDEN and "exceeded quota" in self.reason


def object_path(*, api_version: str, plural: str, namespace: str, name: str = "") -> str:
    """Return where the API keeps objects of a kind in a namespace, or one of them.

    >>> object_path(api_version="v1", plural="pods", namespace="ml", name="a")
    '/api/v1/namespaces/ml/pods/a'
    >>> object_path(api_version="batch/v1", plural="jobs", namespace="ml")
    '/apis/batch/v1/namespaces/ml/jobs'
    """
    root = "apis" if "/" in api_version else "api"
    path = f"/{root}/{api_version}/namespaces/{namespace}/{plural}"
    return f"{path}/{name}" if name else path


def deletion(path: str, *, grace_s: int | None, uid: str | None) -> dict[str, Any]:
    """Return how an object is deleted: with what belongs to it, and only if it is still the same one.

    A Job whose pods are given some grace stays until they are gone, and so does its name. A TrainJob does not: as long
    as it is there, its controller makes anew what is deleted below it.
    """
    stays = bool(grace_s) and path.startswith(_JOBS)
    body: dict[str, Any] = {"propagationPolicy": "Foreground" if stays else "Background"}
    if grace_s is not None:
        body["gracePeriodSeconds"] = grace_s
    if uid is not None:
        body["preconditions"] = {"uid": uid}
    return body


def pause_s(error: ServiceError, number: int) -> float:
    """Return the seconds until the next call: what the server asked for, else twice as many each time."""
    asked = getattr(error, "retry_after_s", None)
    return min(_MAX_PAUSE_S, float(asked) if asked else _FIRST_PAUSE_S * 2**number)


class StatusError(ServiceError):
    """The server answered that it cannot answer now."""

    def __init__(self, message: str, *, status: int, cause: str, retry_after_s: float | None) -> None:
        super().__init__(message)
        self.status = status
        self.cause = cause
        self.retry_after_s = retry_after_s

    @property
    def is_taken(self) -> bool:
        """Whether what is created has the name of what is there; a quota that others change has status 409 too."""
        return self.status == CONFLICT and self.cause == _TAKEN

    @property
    def wants_a_token(self) -> bool:
        """Whether the client's token is none, or not valid any more."""
        return self.status in (_UNAUTHORIZED, _FORBIDDEN)


def raise_unless_gone(error: Any, *, verb: str, path: str, kind: str) -> None:
    """Raise what a status means, unless it is that the object is not there.

    Args:
        error: Of a client.
        verb: HTTP method.
        path: What was called.
        kind: Content type of the call: what is created or applied needs no object, but its kind and namespace.
    """
    status, reason = int(error.status or 0), _said(error, "message") or str(error.reason)
    if status == _NOT_FOUND and verb != "POST" and kind != APPLY:
        return
    if status in _TRANSIENT or status == 0 or (status == _FORBIDDEN and _NOBODY in reason):
        raise StatusError(
            f"{verb} {path} must be answered; got {status} {reason}. Nothing is known to have changed. It is tried "
            "again.",
            status=status,
            cause=_said(error, "reason"),
            retry_after_s=_retry_after_s(error),
        ) from error
    remedy = "Mend the profile or the rights of the connection's account."
    if status == _NOT_FOUND:
        remedy = "Make the namespace, or install what the kind belongs to."
    raise RefusedError(
        f"{verb} {path} must be allowed; got {status} {reason}. Nothing was changed. {remedy}",
        status=status,
        reason=reason,
    ) from error


def _said(error: Any, field: str) -> str:
    """Return the server's words of its Status, never the request that it repeats; empty: it sent none."""
    try:
        return str(json.loads(error.body)[field])
    except (TypeError, ValueError, KeyError):
        return ""


def _retry_after_s(error: Any) -> float | None:
    found = (error.headers or {}).get("Retry-After")
    return float(found) if found and str(found).isdigit() else None


def unreachable(verb: str, path: str, error: Exception) -> ServiceError:
    """Return the error of a call without an answer."""
    return ServiceError(
        f"{verb} {path} must be answered within {REQUEST_TIMEOUT_S:g} s; got {type(error).__name__}: {error}. Whether "
        "it was done is not known. It is tried again."
    )
