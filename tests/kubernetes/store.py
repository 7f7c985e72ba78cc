"""The objects of a scripted cluster as an API server keeps them: versions, selectors, watches, finalizers, owners."""

from __future__ import annotations

import copy
import re
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.kubernetes.clock import timestamp

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.kubernetes.clock import Agenda

Object = dict[str, Any]


class Key(NamedTuple):
    """Where an object is."""

    group: str
    """`v1`, `batch/v1`, `trainer.kubeflow.org/v1alpha1`."""
    kind: str
    """The plural of the path."""
    namespace: str
    """Empty: of the whole cluster."""
    name: str


class Change(NamedTuple):
    """A line of a watch."""

    version: int
    type: str
    key: Key
    object: Object


class ApiError(Exception):
    """An answer that is an error, as the API server words it."""

    def __init__(self, code: int, reason: str, message: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.retry_after_s = retry_after_s

    @property
    def body(self) -> Object:
        """Return the `Status` object."""
        details = {} if self.retry_after_s is None else {"details": {"retryAfterSeconds": self.retry_after_s}}
        says = {"status": "Failure", "message": str(self), "reason": self.reason, "code": self.code}
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, **says, **details}


@dataclass(kw_only=True)
class Store:
    """Objects by key, with every change ever made.

    Attributes:
        agenda: Whose time the objects carry.
        objects: All that are there.
        changes: What watches read, oldest first.
        oldest: Watches from an older version get 410.
        observers: Called after each change.
    """

    agenda: Agenda
    objects: dict[Key, Object] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    oldest: int = 0
    observers: list[Callable[[Change], None]] = field(default_factory=list)
    version: int = 1000

    def get(self, key: Key) -> Object:
        """Return an object.

        Raises:
            ApiError: 404.
        """
        if key not in self.objects:
            raise ApiError(404, "NotFound", f'{key.kind} "{key.name}" not found')
        return self.objects[key]

    def select(self, key: Key, *, labels: str = "", fields: str = "") -> list[Object]:
        """Return the objects of a kind in a namespace, or in all for an empty one."""
        matches = selector(labels=labels, fields=fields)
        return [
            found
            for at, found in sorted(self.objects.items())
            if (at.group, at.kind) == (key.group, key.kind) and key.namespace in ("", at.namespace) and matches(found)
        ]

    def create(self, key: Key, body: Object) -> Object:
        """Keep a new object.

        Raises:
            ApiError: 409, there is one of that name.
        """
        if key in self.objects:
            raise ApiError(409, "AlreadyExists", f'{key.kind} "{key.name}" already exists')
        meta = body.setdefault("metadata", {})
        meta.update(name=key.name, uid=str(uuid.uuid4()), creationTimestamp=timestamp(self.agenda.at))
        if key.namespace:
            meta["namespace"] = key.namespace
        self.objects[key] = body
        return self.changed(key, "ADDED")

    def replace(self, key: Key, body: Object, *, status: bool = False) -> Object:
        """Put an object in the place of the one that is there.

        Raises:
            ApiError: 404, or 409 since it has changed meanwhile.
        """
        found = self.get(key)
        given = body.get("metadata", {}).get("resourceVersion")
        if given and given != found["metadata"]["resourceVersion"]:
            raise ApiError(409, "Conflict", f"the {key.kind} {key.name!r} has been modified; apply your changes to it")
        kept = {**body["metadata"], **{n: found["metadata"][n] for n in ("uid", "creationTimestamp")}}
        status_of = body if status else found
        self.objects[key] = {**(found if status else body), "metadata": found["metadata"] if status else kept}
        if "status" in status_of:
            self.objects[key]["status"] = status_of["status"]
        return self.changed(key)

    def patch(self, key: Key, patch: Object | list[Object]) -> Object:
        """Merge a patch, or do what a JSON patch says."""
        found = self.get(key)
        if isinstance(patch, list):
            for step in patch:
                _json_patch(found, step)
        else:
            merge(found, patch)
        changed = self.changed(key)
        self.release(key)
        return changed

    def changed(self, key: Key, kind: str = "MODIFIED") -> Object:
        """Give an object its next version and tell whoever watches."""
        self.version += 1
        found = self.objects[key]
        found["metadata"]["resourceVersion"] = str(self.version)
        change = Change(self.version, kind, key, copy.deepcopy(found))
        self.changes.append(change)
        for observer in list(self.observers):
            observer(change)
        return change.object

    def mark_deleted(self, key: Key, grace_s: float) -> Object:
        """Say when an object will be gone; `release` and `remove` let it go."""
        meta = self.get(key)["metadata"]
        if "deletionTimestamp" not in meta or grace_s < meta["deletionGracePeriodSeconds"]:
            meta["deletionTimestamp"] = timestamp(self.agenda.at + grace_s)
            meta["deletionGracePeriodSeconds"] = grace_s
        return self.changed(key)

    def release(self, key: Key) -> None:
        """Remove an object that waited only for its finalizers."""
        meta = self.objects[key]["metadata"] if key in self.objects else {}
        if "deletionTimestamp" in meta and not meta.get("finalizers") and key.kind != "pods":
            self.remove(key)

    def remove(self, key: Key) -> None:
        """Remove an object, unless a finalizer holds it."""
        if key not in self.objects or self.objects[key]["metadata"].get("finalizers"):
            return
        self.changed(key, "DELETED")
        del self.objects[key]

    def owned(self, uid: str) -> list[Key]:
        """Return the objects that name an owner."""
        return [key for key, found in self.objects.items() if _owner(found, uid)]

    def blocking(self, uid: str) -> list[Key]:
        """Return the objects that hold back an owner that is deleted in the foreground."""
        return [key for key in self.owned(uid) if _owner(self.objects[key], uid).get("blockOwnerDeletion")]


def _owner(found: Object, uid: str) -> Object:
    """Return how an object names an owner; empty: it does not."""
    owners = found["metadata"].get("ownerReferences", ())
    return next((owner for owner in owners if owner["uid"] == uid), {})


def merge(into: Object, patch: Object) -> None:
    """Merge a patch: null removes, objects merge, all else replaces."""
    for name, value in patch.items():
        if value is None:
            into.pop(name, None)
        elif isinstance(value, dict) and isinstance(into.get(name), dict):
            merge(into[name], value)
        else:
            into[name] = value


def _json_patch(into: Any, step: Object) -> None:
    *path, last = [part.replace("~1", "/").replace("~0", "~") for part in step["path"].lstrip("/").split("/")]
    for part in path:
        into = into[int(part)] if isinstance(into, list) else into[part]
    if isinstance(into, list):
        place = len(into) if last == "-" else int(last)
        into[place : place + (step["op"] != "add")] = [] if step["op"] == "remove" else [step["value"]]
    elif step["op"] == "remove":
        del into[last]
    else:
        into[last] = step["value"]


_TERM = re.compile(r"\s*(!?)([\w./-]+)\s*(?:(==|!=|=)\s*([\w./-]*)|(in|notin)\s*\(([^)]*)\))?\s*(?:,|$)")


def selector(*, labels: str = "", fields: str = "") -> Callable[[Object], bool]:
    """Return what says whether an object is selected.

    Raises:
        ApiError: 400, a selector cannot be read.
    """
    of_labels, of_fields = _terms(labels), _terms(fields)

    def matches(found: Object) -> bool:
        labelled = found["metadata"].get("labels") or {}
        return all(_holds(term, labelled.get(term[1])) for term in of_labels) and all(
            _holds(term, _field(found, term[1])) for term in of_fields
        )

    return matches


def _terms(text: str) -> list[tuple[str, ...]]:
    found, at = [], 0
    while at < len(text):
        term = _TERM.match(text, at)
        if term is None:
            raise ApiError(400, "BadRequest", f"unable to parse requirement: {text!r}")
        found.append(term.groups(default=""))
        at = term.end()
    return found


def _holds(term: tuple[str, ...], value: str | None) -> bool:
    absent, _, sign, wanted, operator, choices = term
    if sign:
        return (value == wanted) is (sign != "!=")
    if operator:
        return (value in [choice.strip() for choice in choices.split(",")]) is (operator == "in")
    return (value is None) is bool(absent)


def _field(found: Object, path: str) -> str | None:
    value: Any = found
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return None if value is None else str(value)
