"""What a cluster shows of a model's service, and what both of KServe's modes read from it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from include.cluster.conditions import conditions
from include.rollout.kserve.settings import VERSION

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from include.rollout.target import Artifact

Object = dict[str, Any]
MANAGER = "tradewind"


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A model's service.

    Attributes:
        service: Its InferenceService; None: it has none.
        revisions: Its Knative revisions, in Knative mode.
    """

    service: Object | None
    revisions: Sequence[Object] = ()

    @property
    def spec(self) -> Object:
        """What the service shall be; empty if there is none."""
        return dict((self.service or {}).get("spec") or {})

    @property
    def status(self) -> Mapping[str, Any]:
        """What KServe says that it is."""
        return (self.service or {}).get("status") or {}

    @property
    def generation(self) -> int:
        """The number of the last change of what it shall be."""
        return int(((self.service or {}).get("metadata") or {}).get("generation") or 0)

    @property
    def changed_at_s(self) -> float:
        """When it was last changed by this code, in seconds since 1970, by the API server's clock."""
        fields = ((self.service or {}).get("metadata") or {}).get("managedFields") or ()
        ours = [each["time"] for each in fields if each.get("manager") == MANAGER and each.get("time")]
        return max((datetime.fromisoformat(each).timestamp() for each in ours), default=0.0)

    def said(self, *kinds: str) -> str:
        """Return the words of those conditions that do not hold."""
        lines = [
            ": ".join(str(each[key]) for key in ("type", "reason", "message") if each.get(key))
            for each in conditions(self.service or {})
            if each.get("status") != "True" and (not kinds or each.get("type") in kinds)
        ]
        return "; ".join(lines)


@dataclass(frozen=True, kw_only=True)
class Routes:
    """Which versions take which share of the requests.

    Attributes:
        champion: Version that answers; None: none was promoted yet.
        canary: Version that answers `share_pct` of the requests.
        share_pct: Whole per cent.
        loaded: Versions that can be given traffic without being deployed again.
    """

    champion: str | None = None
    canary: str | None = None
    share_pct: int = 0
    loaded: frozenset[str] = frozenset()


class Mode(Protocol):
    """How one of KServe's deployment modes does what a rollout wants; all but the names is pure."""

    def deployed(self, seen: Seen, artifact: Artifact) -> Object:
        """Return the specification with a version added that takes no traffic, if there is a champion."""

    def given(self, seen: Seen, version: str, share_pct: int) -> Object:
        """Return the specification with a share given to a version; 100: it is the champion; 0: it is withdrawn."""

    def without(self, seen: Seen, version: str) -> Object | None:
        """Return the specification without a version that takes no traffic; None: there is nothing to change."""

    def routes(self, seen: Seen) -> Routes:
        """Return what KServe routes, or will when it has caught up with the specification."""

    def is_settled(self, seen: Seen) -> bool:
        """Return whether the traffic is as the specification says."""

    def is_ready(self, seen: Seen, version: str) -> bool:
        """Return whether a version can score."""

    def problem(self, seen: Seen, version: str) -> str:
        """Return why a version is not ready, in KServe's words."""

    def package_of(self, seen: Seen, version: str) -> str | None:
        """Return the digest of a version's package; None: it is not deployed."""

    def url(self, seen: Seen, version: str) -> str | None:
        """Return where one version answers, whatever the shares; None: nowhere yet."""


def version_of(predictor: Mapping[str, Any]) -> str | None:
    """Return the version that a predictor, or the metadata of a revision or pod, is of."""
    found = (predictor.get("annotations") or {}).get(VERSION)
    return None if found is None else str(found)


def failure_words(model_status: Mapping[str, Any]) -> str:
    """Return what KServe says of the last failure to load a model; empty: nothing."""
    info = model_status.get("lastFailureInfo") or {}
    words = [str(info[key]) for key in ("reason", "message") if info.get(key)]
    return ": ".join(words) + (f" (exit code {info['exitCode']})" if info.get("exitCode") else "")
