"""What can end a training, and what follows from each: who is at fault, and what the next try will do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from include.errors import BadInputError, SetupError, TrainingError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from include.errors import TradewindError


class FailureKind(StrEnum):
    """What ended a training, by what follows from it."""

    USER_ERROR = "user_error"
    BAD_DATA = "bad_data"
    SETUP = "setup"
    OUT_OF_MEMORY = "out_of_memory"
    IMAGE = "image"
    QUOTA = "quota"
    UNSCHEDULABLE = "unschedulable"
    PREEMPTED = "preempted"
    NODE_LOST = "node_lost"
    VANISHED = "vanished"
    DEADLINE = "deadline"
    CANCELLED = "cancelled"
    API_UNREACHABLE = "api_unreachable"
    PREFLIGHT = "preflight"
    INTERRUPTED = "interrupted"
    NO_RESULT = "no_result"
    UNKNOWN = "unknown"


INFRASTRUCTURE = frozenset(
    {
        FailureKind.PREEMPTED,
        FailureKind.NODE_LOST,
        FailureKind.VANISHED,
        FailureKind.API_UNREACHABLE,
        FailureKind.PREFLIGHT,
        FailureKind.INTERRUPTED,
        FailureKind.NO_RESULT,
    }
)
"""Machines did it: tried again without using up the user's retries. So is an end without a result, once: its storage
may show the result late, and what was trained is in the checkpoint."""

NEEDS_A_PERSON = frozenset(
    {
        FailureKind.USER_ERROR,
        FailureKind.BAD_DATA,
        FailureKind.SETUP,
        FailureKind.OUT_OF_MEMORY,
        FailureKind.IMAGE,
        FailureKind.QUOTA,
        FailureKind.UNSCHEDULABLE,
        FailureKind.CANCELLED,
    }
)
"""The next try would end the same, or was not wanted."""

_MEANS = {
    FailureKind.USER_ERROR: "the trainer refused it or crashed in the model's code",
    FailureKind.BAD_DATA: "its data cannot be used",
    FailureKind.SETUP: "what it needs refuses it or is not there, as it is set up",
    FailureKind.OUT_OF_MEMORY: "more memory or disk was used than the profile allows",
    FailureKind.IMAGE: "the container cannot be started from its image",
    FailureKind.QUOTA: "a quota leaves no room for it",
    FailureKind.UNSCHEDULABLE: "no node takes it",
    FailureKind.PREEMPTED: "the cluster took its node away",
    FailureKind.NODE_LOST: "its node was lost",
    FailureKind.VANISHED: "it was deleted from outside",
    FailureKind.DEADLINE: "it took longer than its deadline",
    FailureKind.CANCELLED: "it was stopped on request",
    FailureKind.API_UNREACHABLE: "Kubernetes' API did not answer, so it may still run",
    FailureKind.PREFLIGHT: "the node is not fit to train",
    FailureKind.INTERRUPTED: "it was interrupted from outside",
    FailureKind.NO_RESULT: "it ended well by its own word, and left no whole result",
    FailureKind.UNKNOWN: "it ended without a whole result and without a known reason",
}

_REMEDY = {
    FailureKind.BAD_DATA: "Mend the data, then clear the task.",
    FailureKind.SETUP: "Mend what it names (credentials, policy, Secret, account or profile), then clear the task.",
    FailureKind.OUT_OF_MEMORY: "Name a larger profile in training.profile, or a smaller batch_size.",
    FailureKind.IMAGE: "Mend the image or the Secret of the profile, or raise pending_s; then clear the task.",
    FailureKind.QUOTA: "Free or raise the quota, or raise pending_s of the profile; then clear the task.",
    FailureKind.UNSCHEDULABLE: "Add such a node, or change the profile; then clear the task.",
    FailureKind.CANCELLED: "Clear the task to go on.",
}

_IF_ANY = "The next try, if the task has one left,"


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How far a training has come.

    Attributes:
        checkpoint: URI of the newest complete checkpoint; None: there is none.
        spent: What its starts have taken, a sentence; empty: not known.
    """

    checkpoint: str | None = None
    spent: str = ""

    @property
    def words(self) -> str:
        """Both, in words."""
        saved = f"The newest checkpoint is {self.checkpoint}." if self.checkpoint else "No checkpoint was saved."
        return f"{saved} {self.spent}".strip()


@dataclass(frozen=True, kw_only=True)
class Failure:
    """What ended a training, and the words of the machines that say so.

    Attributes:
        kind: What it was.
        evidence: Exit code, conditions, states and events, one a line, none of them secret.
    """

    kind: FailureKind
    evidence: tuple[str, ...] = ()

    @property
    def is_infrastructure(self) -> bool:
        """Whether machines did it; such a failure does not use up the user's retries."""
        return self.kind in INFRASTRUCTURE

    @property
    def needs_a_person(self) -> bool:
        """Whether another try would end the same."""
        return self.kind in NEEDS_A_PERSON

    @property
    def summary(self) -> str:
        """What happened, in words."""
        seen = f" ({'; '.join(self.evidence)})" if self.evidence else ""
        return f"{self.kind}: {_MEANS[self.kind]}{seen}"

    @property
    def remedy(self) -> str:
        """What a person has to do."""
        return _REMEDY.get(self.kind, "Mend the cause, then clear the task.")

    def message(self, subject: str, standing: Standing, *, next_try: str | None = None) -> str:
        """Return what happened, where the checkpoint is, what was spent, and what the next try will do.

        Args:
            subject: Names the training, such as `training job 2013-03-ab12`.
            standing: How far it has come.
            next_try: What comes next, a sentence; by default what the kind says.
        """
        then = next_try or self._next_try(standing.checkpoint)
        return f"{subject} must leave a whole result; got {self.summary}. {standing.words} {then}"

    def error(self, subject: str, standing: Standing, *, next_try: str | None = None) -> TradewindError:
        """Return the error whose class says what can be done; Airflow's retry policy reads the class."""
        return _ERRORS.get(self.kind, TrainingError)(self.message(subject, standing, next_try=next_try))

    def _next_try(self, checkpoint: str | None) -> str:
        if self.needs_a_person:
            return f"No retry follows. {self.remedy}"
        if self.kind is FailureKind.API_UNREACHABLE:
            return f"{_IF_ANY} looks for it first and goes on with it if it is there; else the janitor ends it."
        return f"{_IF_ANY} {'continues there' if checkpoint else 'starts from the beginning'}."


_ERRORS: Mapping[FailureKind, type[TradewindError]] = {
    FailureKind.USER_ERROR: BadInputError,
    FailureKind.BAD_DATA: BadInputError,
    FailureKind.SETUP: SetupError,
    FailureKind.OUT_OF_MEMORY: SetupError,
    FailureKind.IMAGE: SetupError,
    FailureKind.QUOTA: SetupError,
    FailureKind.UNSCHEDULABLE: SetupError,
    FailureKind.NO_RESULT: SetupError,
}
