"""The deployment target of one machine: Tradewind's own model server."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from include.rollout.decision import Counters, LabelEvidence, RolloutState, sum_labels
from include.rollout.target import LOCAL, Capabilities, GoldenResult

if TYPE_CHECKING:
    from collections.abc import Mapping

    from include.rollout.target import Artifact
    from include.serving.client import ModelServerClient


@dataclass(frozen=True, kw_only=True)
class LocalTarget:
    """Implements `DeploymentTarget` by the router's admin calls."""

    client: ModelServerClient

    @property
    def capabilities(self) -> Capabilities:
        """All that there is."""
        return LOCAL

    def deploy(self, artifact: Artifact) -> None:
        """Load a version; loading it twice is one load."""
        self.client.load(
            model=artifact.model,
            version=artifact.version,
            uri=artifact.uri,
            digest=artifact.digest,
            signature=artifact.signature,
        )

    def check(self, *, model: str, version: str) -> GoldenResult:
        """Score the golden rows of a loaded version."""
        return GoldenResult.from_json(self.client.golden(model=model, version=version))

    def read(self, *, model: str) -> RolloutState:
        """Return the router's state of a model."""
        return read_state(self.client.get_routes(model=model))

    def set_shadow(self, *, model: str, version: str | None, if_revision: int | None = None) -> None:
        """Mirror the champion's requests to a version."""
        self._route(model, self._read(model, if_revision), shadow=version)

    def set_share(self, *, model: str, version: str, share_pct: float, if_revision: int | None = None) -> None:
        """Give a share of the requests to a version."""
        now = self._read(model, if_revision)
        shadow = None if now.shadow == version else now.shadow
        self._route(model, now, canary=version, canary_share_pct=share_pct, shadow=shadow)

    def promote(self, *, model: str, version: str, if_revision: int | None = None) -> None:
        """Give all requests to a version."""
        self.client.set_routes(model=model, champion=version, if_revision=if_revision)

    def withdraw(self, *, model: str, version: str) -> None:
        """Take a version out of canary and shadow."""
        now = self.read(model=model)
        changes: dict[str, Any] = {}
        if now.canary == version:
            changes = {"canary": None, "canary_share_pct": 0.0}
        if now.shadow == version:
            changes["shadow"] = None
        self._route(model, now, **changes)

    def remove(self, *, model: str, version: str) -> None:
        """Unload a version."""
        self.client.unload(model=model, version=version)

    def _read(self, model: str, if_revision: int | None) -> RolloutState:
        """Return the state, as of the revision that a change is decided on if there is one."""
        now = self.read(model=model)
        return now if if_revision is None else replace(now, revision=if_revision)

    def _route(self, model: str, now: RolloutState, **changes: Any) -> None:
        """Replace the routes that were read as `now`, unless somebody else changed them meanwhile."""
        routes: dict[str, Any] = {
            "champion": now.champion,
            "canary": now.canary,
            "canary_share_pct": now.canary_share_pct,
            "shadow": now.shadow,
        }
        self.client.set_routes(model=model, if_revision=now.revision, **{**routes, **changes})


def read_state(answer: Mapping[str, Any]) -> RolloutState:
    """Return the state that the JSON of `GET /v2/router/{model}` describes."""
    routes = answer["routes"]
    counters = {
        (item["version"], item["role"]): Counters(
            requests=item["requests"],
            errors=item["errors"],
            latency_counts=tuple(item["latency_counts"]),
            num_pairs=item["num_pairs"],
            num_disagreements=item["num_disagreements"],
        )
        for item in answer["counters"]
    }
    loaded = frozenset(version for version, found in answer["versions"].items() if found["error"] is None)
    return RolloutState(
        champion=routes["champion"],
        canary=routes["canary"],
        canary_share_pct=routes["canary_share_pct"],
        shadow=routes["shadow"],
        revision=answer["revision"],
        age_s=answer["age_s"],
        counters=counters,
        loaded=loaded,
        labels=sum_labels(LabelEvidence(**said) for said in answer["labels"].values()),
    )
