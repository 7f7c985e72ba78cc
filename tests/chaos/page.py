"""Writes the measured recoveries of a full run into the operations page."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

PAGE = Path(__file__).parents[2] / "docs" / "pages" / "operations.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
CONSEQUENCES = {
    "task": "Its worker sees it at once; the next try starts two seconds later.",
    "scheduler": "No task starts. Those in hand end with it, and run again when its last heartbeat is 15 s old.",
    "triggerer": "Deferred tasks wait; the next one takes them over when its last heartbeat is 15 s old.",
    "api-server": "The UI is away; tasks ask again until it is back.",
    "dag-processor": "Changed Dag files are seen later. Nothing else.",
    "model-server": "Callers get connection errors, then 503 while versions load. A canary goes on counting.",
    "mlflow": "Tasks of training and deployment retry.",
    "postgres": "It replays its log. Scheduler, Dag processor and triggerer end and are started again.",
    "supervisor": "Nothing; but nobody starts what else ends, until `make up` starts another one.",
}
CONCLUSION = """

Measured over {num_months} months of flights with {num_kills} kills at seeded moments, up to two parts away at once
(`benchmarks/chaos.json`). *Worked again* means that it was ready; for the scheduler, also that each task in its hands
had gone on; seconds are rounded up. Different from the undisturbed run in the end: {differing}. The callers'
{answered:,} requests were all answered, after {asked_again:,} that were not; {answered_but_not_logged:,} answers are
missing in the prediction log.
"""


def write_page(run: Mapping[str, Any]) -> None:
    """Replace what stands between the page's two marks."""
    text = PAGE.read_text()
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{measured(run)}{END}{after}")


def measured(run: Mapping[str, Any]) -> str:
    """Return the table of recoveries and what was compared, as Markdown."""
    rows = [
        "| killed with SIGKILL | what happens | kills | worked again after (median) | at most |",
        "|---|---|---|---|---|",
    ]
    for kind, consequence in CONSEQUENCES.items():
        found = run["victims"][kind]
        took = found["recovery_s"]
        name = "a task" if kind == "task" else f"`{kind}`"
        median_s, max_s = math.ceil(took["median"]), math.ceil(took["max"])
        rows.append(f"| {name} | {consequence} | {found['kills']} | {median_s} s | {max_s} s |")
    asked, differing = run["requests"], [name for name, is_equal in run["equal"].items() if not is_equal]
    return "\n".join(rows) + CONCLUSION.format(
        num_months=run["months"], num_kills=run["num_kills"], differing=", ".join(differing) or "nothing", **asked
    )
