"""When a process that ended is started again: pure decisions, every moment passed in."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Health(StrEnum):
    """What a check says of a process that runs."""

    OK = "ok"
    SILENT = "silent"
    """It does not answer, or does not answer yet."""
    UNKNOWN = "unknown"
    """Whoever would have to say is silent itself."""


@dataclass(frozen=True, kw_only=True)
class RestartPolicy:
    """How patient the supervisor is.

    Args:
        first_delay_s: Pause before the first restart; each further failure doubles it.
        max_delay_s: Longest pause.
        forgiven_after_s: A process that was ready for so long begins with the first pause again.
        silent_after_s: A process that was ready and is silent for so long hangs: it is killed and started again.
        start_timeout_s: The same for one that never got ready.
        check_interval_s: Pause between two checks of a process that is ready.
    """

    first_delay_s: float = 0.5
    max_delay_s: float = 60.0
    forgiven_after_s: float = 60.0
    silent_after_s: float = 120.0
    start_timeout_s: float = 300.0
    check_interval_s: float = 5.0

    def delay_s(self, num_failures: int) -> float:
        """Return the pause before the next start.

        >>> [RestartPolicy(max_delay_s=3).delay_s(n) for n in (0, 1, 2, 3, 4, 5000)]
        [0.5, 0.5, 1.0, 2.0, 3.0, 3.0]
        """
        doublings = min(max(0, num_failures - 1), 64)
        return float(min(self.max_delay_s, self.first_delay_s * 2**doublings))

    def failures_after_end(self, num_failures: int, *, ready_for_s: float, is_excused: bool) -> int:
        """Return how many failures in a row an end makes.

        One that ended because a server that it needs was away is not to blame; one that had served well begins anew.

        >>> policy = RestartPolicy(forgiven_after_s=60)
        >>> policy.failures_after_end(3, ready_for_s=1, is_excused=False)
        4
        >>> policy.failures_after_end(3, ready_for_s=1, is_excused=True)
        3
        >>> policy.failures_after_end(3, ready_for_s=60, is_excused=False)
        1
        """
        if is_excused:
            return num_failures
        return 1 if ready_for_s >= self.forgiven_after_s else num_failures + 1

    def hangs(self, *, was_ready: bool, silent_for_s: float) -> bool:
        """Return whether a process that runs has been silent for too long.

        >>> policy = RestartPolicy(silent_after_s=60, start_timeout_s=180)
        >>> [policy.hangs(was_ready=ready, silent_for_s=100) for ready in (True, False)]
        [True, False]
        """
        return silent_for_s >= (self.silent_after_s if was_ready else self.start_timeout_s)
