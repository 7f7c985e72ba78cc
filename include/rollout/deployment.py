"""What a deployment does before any traffic, what it finds, and where a version comes from."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from include.registry.models import get_version
from include.rollout import refusals
from include.rollout.history import champion_of
from include.rollout.planning import plan_rollout
from include.rollout.target import Artifact

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from include.registry.models import ModelVersion
    from include.rollout.decision import RolloutState
    from include.rollout.ledger import Ledger
    from include.rollout.target import DeploymentTarget
    from include.spec import RolloutSpec

TRACED_TAGS = ("window_start", "window_end", "job_key", "commit", "dag_id", "dag_run_id", "digest")
TRACED_JSON = ("data_versions", "parameters")
"""Tags that hold JSON: table -> version that training read, and parameter of the training -> value."""


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """What `deploy` found and did.

    Args:
        version: The challenger.
        champion: Version that answers meanwhile, None for a first version.
        is_bootstrap: Whether there is no champion to compare with.
        is_champion: Whether the version is the champion already.
        golden: Result of the golden requests.
        plan: What each stage needs, at the traffic of the moment; nothing without a champion.
    """

    version: str
    champion: str | None
    is_bootstrap: bool
    is_champion: bool
    golden: Mapping[str, Any]
    plan: Sequence[Mapping[str, Any]] = ()

    @property
    def has_rivals(self) -> bool:
        """Whether there is anything for shadow and canary to compare."""
        return not (self.is_bootstrap or self.is_champion)


def known_champion(ledger: Ledger, model: str, *, routed: str, after: int) -> str:
    """Return the champion by ledger and routes.

    Args:
        ledger: The ledger.
        model: The model's name.
        routed: Champion of the routes.
        after: Position of the newest turn before they were read.

    Raises:
        ServiceError: They name different ones, for there was a turn meanwhile; a retry reads both anew.
        SetupError: They name different ones.
    """
    recorded = champion_of(ledger, model)
    if recorded != routed:
        ledger.require_turn(model, after)
        raise refusals.unknown_champion(model, routed=routed, recorded=recorded)
    return recorded


def knows_less(challenger: ModelVersion, champion: ModelVersion) -> bool:
    """Return whether a challenger's training data end before the champion's."""
    return challenger.tags.get("window_end", "") < champion.tags.get("window_end", "")


def require_as_recent(challenger: ModelVersion, champion: ModelVersion, *, force: bool) -> None:
    """Refuse a challenger that knows less recent data than the champion, unless that is wanted."""
    if not force and knows_less(challenger, champion):
        raise refusals.too_old(challenger, champion)


def load_checked(target: DeploymentTarget, version: ModelVersion) -> dict[str, Any]:
    """Load a registered version without any traffic, and return how it scores its golden rows.

    Raises:
        GateError: Otherwise than its training recorded.
    """
    artifact = Artifact(
        model=version.name,
        version=version.version,
        uri=version.source,
        digest=version.tags.get("digest", ""),
        signature=version.tags.get("signature", ""),
    )
    target.deploy(artifact)
    golden = target.check(model=version.name, version=version.version)
    if not golden.passed:
        raise refusals.golden_differ(version.name, version.version, golden)
    return asdict(golden)


def with_champion(target: DeploymentTarget, ledger: Ledger, *, model: str, tracking_uri: str) -> RolloutState:
    """Return a model's state, after giving back a champion that the target forgot (a new machine, a lost disk)."""
    state = target.read(model=model)
    known = champion_of(ledger, model) if state.champion is None else None
    if known is None:
        return state
    load_checked(target, get_version(tracking_uri, model=model, version=known))
    target.promote(model=model, version=known)
    return target.read(model=model)


def plan_of(rollout: RolloutSpec, state: RolloutState) -> tuple[dict[str, Any], ...]:
    """Return what each stage of a rollout needs, at the traffic that the champion had since the routes changed."""
    num_requests = state.of(state.champion, "champion").requests
    requests_per_s = num_requests / state.age_s if num_requests and state.age_s else None
    return tuple(stage.to_json() for stage in plan_rollout(rollout, requests_per_s=requests_per_s))


def trace_of(version: ModelVersion) -> dict[str, Any]:
    """Return what the ledger keeps of a version's origin: run, data, parameters, job, commit, digest."""
    texts = {name: version.tags[name] for name in TRACED_TAGS if name in version.tags}
    values = {name: json.loads(version.tags[name]) for name in TRACED_JSON if name in version.tags}
    return {"run_id": version.run_id, **texts, **values}
