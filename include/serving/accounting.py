"""What is counted and logged of a request that was scored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from include.serving.counters import Work

if TYPE_CHECKING:
    from collections.abc import Iterator

    from include.serving.scoring import Scored


def works_of(scored: Scored, *, logged_at_us: int) -> Iterator[Work]:
    """Yield what each version made of a request, as the journal keeps it."""
    served = scored.served
    task = served.reader.task
    for outcome in scored.outcomes:
        yield Work(
            model=served.spec.name,
            revision=served.revision,
            version=outcome.version,
            role=outcome.role,
            request_id=scored.request_id,
            example_ids=scored.example_ids,
            latency_ms=outcome.latency_ms,
            output=task.output,
            num_classes=len(task.classes),
            predictions=outcome.predictions,
            columns=scored.columns,
            strings=served.reader.strings,
            logged_at_us=logged_at_us,
            disagreement=outcome.disagreement,
            is_stand_in=outcome.is_stand_in,
        )
