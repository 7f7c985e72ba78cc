"""KServe's Knative mode: a version is a revision, and `canaryTrafficPercent` the newest one's share.

KServe (pkg/controller/v1beta1/inferenceservice/reconcilers/knative/ksvc_reconciler.go and PropagateStatus of
pkg/apis/serving/v1beta1/inference_service_status.go, v0.16) gives the newest revision `canaryTrafficPercent` and the
rest to the revision that last had 100 %, tagged `prev`; if that is the newest one itself, to the one before. Without
the field the newest ready revision has all. So it is left out until a version is promoted: no field, no champion.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from include.cluster.conditions import conditions
from include.errors import NotFoundError
from include.rollout.kserve.seen import Routes, failure_words, version_of
from include.rollout.kserve.settings import DIGEST, PORT, SERVE, container, predictor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from include.rollout.kserve.seen import Object, Seen
    from include.rollout.kserve.settings import KServeSettings
    from include.rollout.target import Artifact

REVISIONS = "serving.knative.dev/v1"
_ALL = 100


@dataclass(frozen=True)
class Knative:
    """Implements `Mode`."""

    settings: KServeSettings

    def deployed(self, seen: Seen, artifact: Artifact) -> Object:
        """Return the specification whose newest revision is the version's, at 0 % if there is a champion."""
        ready_probe = {"httpGet": {"path": "/v2/health/ready", "port": PORT}}
        told = container(self.settings, artifact)
        served = {
            **told,
            "name": "kserve-container",
            "image": self.settings.image,
            "ports": [{"containerPort": PORT, "protocol": "TCP"}],
            "readinessProbe": ready_probe,
            "args": [*SERVE, *told["args"]],
        }
        wanted: Object = {**predictor(self.settings, artifact), "containers": [served]}
        if self.routes(seen).champion is not None:
            wanted["canaryTrafficPercent"] = 0
        return {"predictor": wanted}

    def given(self, seen: Seen, version: str, share_pct: int) -> Object:
        """Return the specification with another `canaryTrafficPercent`.

        Raises:
            NotFoundError: KServe routes neither to nor back to the version any more.
        """
        spec = copy.deepcopy(seen.spec)
        if version == _newest(seen):
            spec["predictor"]["canaryTrafficPercent"] = share_pct
        elif share_pct == _ALL and version == _fallback(seen):
            spec["predictor"]["canaryTrafficPercent"] = 0
        else:
            raise NotFoundError(
                f"KServe can give traffic to the newest revision, of version {_newest(seen)}, and back to the one "
                f"before, of version {_fallback(seen)}; got version {version}. The traffic stays as it was. Deploy it "
                "again."
            )
        return spec

    def without(self, seen: Seen, version: str) -> None:
        """Return nothing to apply: a revision is an object of its own."""

    def routes(self, seen: Seen) -> Routes:
        """Return what the specification and the revisions say."""
        newest, share_pct = _newest(seen), _share_pct(seen)
        ready = {version for version in (newest, _fallback(seen)) if version and self.is_ready(seen, version)}
        if newest is None or share_pct is None:
            return Routes(loaded=frozenset(ready))
        champion = newest if share_pct == _ALL else _fallback(seen)
        canary = newest if 0 < share_pct < _ALL else None
        return Routes(champion=champion, canary=canary, share_pct=share_pct if canary else 0, loaded=frozenset(ready))

    def is_settled(self, seen: Seen) -> bool:
        """Return whether the newest revision has the share that it shall have, and the former champion the rest."""
        share_pct = _share_pct(seen)
        wanted = _ALL if share_pct is None else share_pct
        of_newest = sum(each.get("percent") or 0 for each in _traffic(seen) if each.get("latestRevision"))
        rest = [each for each in _traffic(seen) if not each.get("latestRevision") and each.get("percent")]
        newest = _component(seen).get("latestCreatedRevision")
        if _version_of(seen, newest) != _newest(seen):
            return False
        return of_newest == wanted and (wanted == _ALL or (bool(rest) and rest[0].get("revisionName") != newest))

    def is_ready(self, seen: Seen, version: str) -> bool:
        """Return whether the version's last revision is ready; of the newest version, whether KServe knows that."""
        found = _revision(seen, version)
        if found is None or not _is_true(found, "Ready"):
            return False
        return version != _newest(seen) or _component(seen).get("latestReadyRevision") == _name(found)

    def problem(self, seen: Seen, version: str) -> str:
        """Return what the revision's conditions, KServe's and the last failure to load say."""
        found = _revision(seen, version) or {}
        said = [
            ": ".join(str(each[key]) for key in ("type", "reason", "message") if each.get(key))
            for each in conditions(found)
            if each.get("status") == "False" and each.get("type") != "Active"
        ]
        said += [seen.said("PredictorReady", "RoutesReady", "IngressReady")]
        said += [failure_words(seen.status.get("modelStatus") or {})]
        return "; ".join(each for each in said if each) or "no revision of it was seen"

    def package_of(self, seen: Seen, version: str) -> str | None:
        """Return what the newest template or the champion's revision says; no share can be given to another one."""
        if version == _newest(seen):
            return str(seen.spec["predictor"]["annotations"].get(DIGEST))
        found = _revision(seen, version) if version == self.routes(seen).champion else None
        return str(found["metadata"]["annotations"].get(DIGEST)) if found else None

    def url(self, seen: Seen, version: str) -> str | None:
        """Return the address of the revision's tag; the service's own if nobody else is behind it."""
        found = _revision(seen, version)
        tagged = [each for each in _traffic(seen) if found and each.get("revisionName") == _name(found)]
        urls = [str(each["url"]) for each in tagged if each.get("url")]
        if not urls and sum(each.get("percent") or 0 for each in tagged) == _ALL and seen.status.get("url"):
            return str(seen.status["url"])
        return urls[0] if urls else None


def _newest(seen: Seen) -> str | None:
    return version_of(seen.spec.get("predictor") or {})


def _share_pct(seen: Seen) -> int | None:
    found = (seen.spec.get("predictor") or {}).get("canaryTrafficPercent")
    return None if found is None else int(found)


def _component(seen: Seen) -> Mapping[str, Any]:
    return (seen.status.get("components") or {}).get("predictor") or {}


def _traffic(seen: Seen) -> list[Mapping[str, Any]]:
    return list(_component(seen).get("traffic") or ())


def _fallback(seen: Seen) -> str | None:
    """Return the version that has what the newest revision has not."""
    component = _component(seen)
    rolled_out = component.get("latestRolledoutRevision")
    newest = component.get("latestCreatedRevision")
    if rolled_out == newest and _version_of(seen, newest) == _newest(seen):  # else KServe is yet to make the newest one
        rolled_out = component.get("previousRolledoutRevision")
    return _version_of(seen, rolled_out)


def _version_of(seen: Seen, revision: str | None) -> str | None:
    found = next((each for each in seen.revisions if revision and _name(each) == revision), None)
    return version_of(found["metadata"]) if found else None


def _revision(seen: Seen, version: str) -> Object | None:
    """Return the last revision of a version."""
    found = [each for each in seen.revisions if version_of(each["metadata"]) == version]
    return max(found, key=lambda each: (str(each["metadata"].get("creationTimestamp")), _name(each)), default=None)


def _name(revision: Mapping[str, Any]) -> str:
    return str(revision["metadata"]["name"])


def _is_true(found: Mapping[str, Any], kind: str) -> bool:
    return any(each.get("type") == kind and each.get("status") == "True" for each in conditions(found))
