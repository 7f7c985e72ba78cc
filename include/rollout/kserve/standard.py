"""KServe's Standard mode, from v0.20: a version is a named predictor, `spec.canary` those that are not the champion.

Source: kserve/kserve#5672 and #5912 (merged for v0.20), TestValidateCanarySpecs and V1beta1CanarySpec of that release.
Each entry has a Deployment and a Service `<service>-<name>-predictor`. Retargeting `spec.predictor.name` promotes
without a restart. `predictor.model` is required, which is why a ServingRuntime carries the image. Canaries' replicas
are taken out of the stable predictor's `minReplicas`, so that is the sum of all.

`canaryTrafficPercent` does nothing in this mode (kserve/kserve#5335); it is set with the first promotion, as in the
other mode: no field, no champion.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from include.cluster.conditions import conditions
from include.errors import NotFoundError
from include.rollout.kserve.seen import Routes, failure_words, version_of
from include.rollout.kserve.settings import DIGEST, container, predictor, service_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from include.rollout.kserve.seen import Object, Seen
    from include.rollout.kserve.settings import KServeSettings
    from include.rollout.target import Artifact

_ALL = 100
_MARK = "canaryTrafficPercent"


@dataclass(frozen=True)
class Standard:
    """Implements `Mode`."""

    settings: KServeSettings

    def deployed(self, seen: Seen, artifact: Artifact) -> Object:
        """Return the specification with a canary of 0 % more; before the first promotion, with another predictor."""
        model = {
            "modelFormat": {"name": "tradewind"},
            "runtime": self.settings.runtime,
            "protocolVersion": "v2",
            **container(self.settings, artifact),
        }
        wanted: Object = {"name": _name(artifact.version), **predictor(self.settings, artifact), "model": model}
        spec = copy.deepcopy(seen.spec)
        if not _is_promoted(seen):
            return {"predictor": wanted}
        others = [each for each in _canaries(seen) if version_of(each["predictor"]) != artifact.version]
        return self._balanced(spec["predictor"], [*others, {"trafficPercent": 0, "predictor": wanted}])

    def given(self, seen: Seen, version: str, share_pct: int) -> Object:
        """Return the specification with a share for one canary, none for the others; or with predictors swapped.

        Raises:
            NotFoundError: It is no canary and not the champion.
        """
        stable = copy.deepcopy(seen.spec["predictor"])
        quiet = [{**copy.deepcopy(each), "trafficPercent": 0} for each in _canaries(seen)]
        found = next((each for each in quiet if version_of(each["predictor"]) == version), None)
        if version == version_of(stable):
            return self._balanced({**stable, _MARK: _ALL}, quiet)
        if found is None:
            raise NotFoundError(
                f"KServe can give traffic to what is deployed, {', '.join(sorted(_deployed(seen)))}; got version "
                f"{version}. The traffic stays as it was. Deploy it again."
            )
        if share_pct < _ALL:
            found["trafficPercent"] = share_pct
            return self._balanced(stable, quiet)
        stable.pop(_MARK, None)
        others = [each for each in quiet if each is not found]
        return self._balanced(
            {**found["predictor"], _MARK: _ALL}, [*others, {"trafficPercent": 0, "predictor": stable}]
        )

    def without(self, seen: Seen, version: str) -> Object | None:
        """Return the specification without a canary; None: it is none."""
        if version not in _deployed(seen) or version == version_of(seen.spec["predictor"]):
            return None
        kept = [copy.deepcopy(each) for each in _canaries(seen) if version_of(each["predictor"]) != version]
        return self._balanced(copy.deepcopy(seen.spec["predictor"]), kept)

    def routes(self, seen: Seen) -> Routes:
        """Return what the specification says."""
        shares = {version_of(each["predictor"]): int(each["trafficPercent"]) for each in _canaries(seen)}
        canary = next((version for version, share_pct in shares.items() if share_pct), None)
        return Routes(
            champion=version_of(seen.spec["predictor"]) if _is_promoted(seen) else None,
            canary=canary,
            share_pct=shares[canary] if canary else 0,
            loaded=frozenset(version for version in _deployed(seen) if self.is_ready(seen, version)),
        )

    def is_settled(self, seen: Seen) -> bool:
        """Return whether KServe tells the shares that it shall have; it routes to none that is not ready."""
        wanted = {each["predictor"]["name"]: int(each["trafficPercent"]) for each in _canaries(seen)}
        told = {name: int(each.get("trafficPercent") or 0) for name, each in _statuses(seen).items()}
        return told == wanted and all(
            _statuses(seen)[name].get("ready") for name, share_pct in wanted.items() if share_pct
        )

    def is_ready(self, seen: Seen, version: str) -> bool:
        """Return what the predictor's condition or the canary's status says."""
        if seen.spec and version == version_of(seen.spec["predictor"]):
            return any(
                each.get("type") == "PredictorReady" and each.get("status") == "True"
                for each in conditions(seen.service or {})
            )
        return bool((_statuses(seen).get(_name(version)) or {}).get("ready"))

    def problem(self, seen: Seen, version: str) -> str:
        """Return what KServe's conditions and the last failure to load say."""
        found = _statuses(seen).get(_name(version)) or seen.status
        said = [seen.said("PredictorReady", "IngressReady", "CanaryReady")]
        said += [failure_words(found.get("modelStatus") or {})]
        return "; ".join(each for each in said if each) or "KServe says nothing of it"

    def package_of(self, seen: Seen, version: str) -> str | None:
        """Return what the version's predictor says."""
        found = _deployed(seen).get(version)
        return str(found["annotations"].get(DIGEST)) if found else None

    def url(self, seen: Seen, version: str) -> str | None:
        """Return the address of the version's own Service in the cluster, or what the connection has for it."""
        model = (seen.service or {}).get("metadata", {}).get("name", "")
        named = f"{service_name(model)}-{_name(version)}-predictor"
        return self.settings.version_url.format(service=named, namespace=self.settings.namespace)

    def _balanced(self, stable: Object, canaries: list[Any]) -> Object:
        total = self.settings.min_replicas * (1 + len(canaries))
        for each in canaries:
            each["predictor"]["minReplicas"] = self.settings.min_replicas
        return {"predictor": {**stable, "minReplicas": total}, "canary": canaries}


def _name(version: str) -> str:
    return f"v{version}"


def _canaries(seen: Seen) -> list[Mapping[str, Any]]:
    return list(seen.spec.get("canary") or ())


def _deployed(seen: Seen) -> dict[str, Mapping[str, Any]]:
    predictors = [seen.spec.get("predictor") or {}, *(each["predictor"] for each in _canaries(seen))]
    return {str(version_of(each)): each for each in predictors if version_of(each) is not None}


def _statuses(seen: Seen) -> dict[str, Mapping[str, Any]]:
    return {str(each.get("name")): each for each in seen.status.get("canaryStatuses") or ()}


def _is_promoted(seen: Seen) -> bool:
    return (seen.spec.get("predictor") or {}).get(_MARK) is not None
