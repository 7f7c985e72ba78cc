"""`python -m include.demo`: the whole loop on real flights, in a deployment of its own that is stopped in the end."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from include import partitions
from include.demo import outcome
from include.demo.closing import print_closing
from include.demo.flights import MODEL
from include.demo.loop import Loop
from include.demo.timing import Timing, measure
from include.errors import SetupError, TradewindError
from include.runtime import processes, stack
from include.runtime.home import REPO, Home

FIRST_MONTH = "2013-01"
NUM_MONTHS = 7
TABLE_WIDTH = 120


def main(arguments: list[str]) -> int:
    """Run the demo; return 0 only if every stage did what the closing tables say."""
    parser = argparse.ArgumentParser(prog="include.demo", description=__doc__)
    parser.add_argument("--home", type=Path, default=REPO / ".tradewind" / "demo", help="emptied first")
    parser.add_argument("--months", type=int, default=NUM_MONTHS, choices=range(1, 13), metavar="1..12")
    parser.add_argument("--bench", type=Path, help="also write what was measured as JSON")
    chosen = parser.parse_args(arguments)
    console = Console(highlight=False)
    console.width = max(console.width, TABLE_WIDTH)
    try:
        _run(console, root=chosen.home.resolve(), num_months=chosen.months, bench=chosen.bench)
    except TradewindError as error:
        console.print(f"[red]error:[/red] {escape(str(error))}")
        return 1
    return 0


def _run(console: Console, *, root: Path, num_months: int, bench: Path | None) -> None:
    _empty(root)
    deployment = stack.open_deployment(root, ports=stack.free_ports())
    months = partitions.window(partitions.shift(FIRST_MONTH, num_months - 1), num_months)
    began = time.monotonic()
    with console.status("preparing") as status:

        def say(text: str) -> None:
            status.update(f"[{time.monotonic() - began:5.0f} s] {escape(text)}")

        try:
            stack.prepare(deployment, say=say)
            prepared = time.monotonic()
            stack.up(deployment, say=say, models=(MODEL,))
            console.print(f"Airflow runs at {deployment.airflow_url} (admin, {deployment.secrets.admin_password})")
            started = time.monotonic()
            loop = Loop(deployment=deployment, months=months, say=say, tell=console.print)
            loop.run()
            loop_s = time.monotonic() - started
            timing = measure(
                loop.api,
                startup_s=started - prepared,
                loop_s=loop_s,
                traffic=[traffic.span for traffic in loop.traffic.values()],
            )
            _close(console, loop, timing=timing, prepare_s=prepared - began, bench=bench)
        finally:
            stack.down(deployment.home, say=say)
    console.print(f"Stopped. Lake, models, reports and ledger stay in {root}; look at them with")
    console.print(f"  make up TRADEWIND_HOME={os.path.relpath(root)}", soft_wrap=True)


def _close(console: Console, loop: Loop, *, timing: Timing, prepare_s: float, bench: Path | None) -> None:
    deployment = loop.deployment
    months, versions = outcome.collect_months(deployment, loop), outcome.collect_versions(deployment)
    compared = outcome.compare_versions(loop, month=loop.months[-1], versions=versions)
    entries = outcome.serving_entries(deployment)
    console.print(f"Measured on {os.cpu_count()} cores.")
    print_closing(console, months=months, versions=versions, entries=entries, compared=compared, timing=timing)
    if not any(month.verdict == "retrain" for month in months):
        console.print("No month's data was worth another training: that is the result.")
    for report in sorted(deployment.home.data.glob("reports/*/*/drift.html")):
        console.print(f"Drift report: {report}", soft_wrap=True)
    reports = {path.parent.name for path in deployment.home.data.glob("reports/*/*/drift.html")}
    outcome.require_complete(
        months=months, versions=versions, entries=entries, reports=reports, champion=loop.champion()
    )
    if bench:
        document = {
            "machine": {
                "num_cores": os.cpu_count(),
                "architecture": platform.machine(),
                "python": platform.python_version(),
            },
            "prepare_s": prepare_s,
            "timing": asdict(timing) | {"total_s": timing.startup_s + timing.loop_s},
            "request_latency_ms": outcome.latency_ms(loop.traffic.values()),
            **outcome.to_document(months=months, versions=versions, compared=compared),
        }
        bench.parent.mkdir(parents=True, exist_ok=True)
        bench.write_text(json.dumps(document, indent=1) + "\n")


def _empty(root: Path) -> None:
    """Remove an earlier demo, after stopping what it may have left running.

    Raises:
        SetupError: The folder holds something else.
    """
    if not root.exists():
        return
    if any(root.iterdir()) and not (root / "secrets").is_dir():
        raise SetupError(
            f"{root} must be empty or an earlier demo; got other files. Nothing was removed. Name another."
        )
    stack.down(Home(root=root), say=lambda _: None)
    shutil.rmtree(root)


if __name__ == "__main__":
    processes.exit_on_signals()
    sys.exit(main(sys.argv[1:]))
