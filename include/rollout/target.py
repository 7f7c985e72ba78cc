"""What every place that serves models can do for a rollout: one small protocol, every call idempotent."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from include.rollout.decision import RolloutState


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A registered version, the package that it consists of, and who vouches for that."""

    model: str
    version: str
    uri: str
    digest: str
    signature: str = ""


@dataclass(frozen=True, kw_only=True)
class GoldenResult:
    """How a loaded version scores the rows that its training recorded, all in one request.

    Args:
        num_rows: Number of rows.
        max_abs_diff: Largest difference of an answer from the recorded one.
        tolerance: Largest difference that is allowed.
        latency_median_ms: Of some such requests, None where it was not measured.
        latency_p95_ms: Of the same.
    """

    num_rows: int
    max_abs_diff: float
    tolerance: float
    latency_median_ms: float | None = None
    latency_p95_ms: float | None = None

    @classmethod
    def from_json(cls, answer: Mapping[str, Any]) -> GoldenResult:
        """Return the result that a model server answered."""
        return cls(**{field.name: answer[field.name] for field in fields(cls)})

    @property
    def passed(self) -> bool:
        """Whether every score is within the tolerance; no rows are no evidence."""
        return self.num_rows > 0 and self.max_abs_diff <= self.tolerance


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What a place can do for a rollout; what it can't is refused in model.yaml, and by the call itself.

    Args:
        has_shadow: Whether it sends copies of requests to a version that answers nobody.
        share_step_pct: Shares of a canary are multiples of this, in per cent.
        holds_first_back: Whether a first version takes no traffic before it is promoted.
    """

    has_shadow: bool
    share_step_pct: float
    holds_first_back: bool


LOCAL = Capabilities(has_shadow=True, share_step_pct=0.1, holds_first_back=True)
KSERVE = Capabilities(has_shadow=False, share_step_pct=1.0, holds_first_back=False)
"""KServe has no shadow (kserve/kserve#2978), splits in whole per cent, and sends all requests to a first version."""

CAPABILITIES: Mapping[str, Capabilities] = {"local": LOCAL, "kserve": KSERVE}
"""By `rollout.target` of model.yaml."""


class DeploymentTarget(Protocol):
    """A place that serves models. A call that is repeated, or that comes after a crash, changes nothing more.

    `if_revision` refuses a change when the routes changed since the state with that revision was read, with a
    ServiceError: who asks again reads the state anew. Without it, the change wins over whatever came before.
    """

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""

    def deploy(self, artifact: Artifact) -> None:
        """Make a version able to score, without any traffic.

        Raises:
            CorruptArtifactError: The package does not match its digest, or cannot be loaded.
            SetupError: The place refuses it, or it did not get ready in time; the message says why.
            ServiceError: The place does not answer.
        """

    def check(self, *, model: str, version: str) -> GoldenResult:
        """Score the golden rows of a deployed version."""

    def read(self, *, model: str) -> RolloutState:
        """Return routes and counters; a model that was never deployed has none."""

    def set_shadow(self, *, model: str, version: str | None, if_revision: int | None = None) -> None:
        """Send copies of all requests to a version that answers nobody; None ends that.

        Raises:
            BadInputError: The place has no shadow.
        """

    def set_share(self, *, model: str, version: str, share_pct: float, if_revision: int | None = None) -> None:
        """Make a version the canary of a share of the requests, in per cent; it is no shadow any more."""

    def promote(self, *, model: str, version: str, if_revision: int | None = None) -> None:
        """Give all requests to a version; there is no canary and no shadow after that."""

    def withdraw(self, *, model: str, version: str) -> None:
        """Take a version out of canary and shadow; the champion stays."""

    def remove(self, *, model: str, version: str) -> None:
        """Free what a version holds that takes no traffic."""
