"""The closing tables of the demo."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

if TYPE_CHECKING:
    from rich.console import Console

    from include.demo.outcome import Compared, Month, Version
    from include.demo.timing import Timing
    from include.rollout.ledger import Entry


def print_closing(  # one argument for each table
    console: Console,
    *,
    months: list[Month],
    versions: list[Version],
    entries: list[Entry],
    compared: list[Compared],
    timing: Timing,
) -> None:
    """Print what was landed, trained, served, compared, and how long it took."""
    for table in (
        _months(months),
        _versions(versions),
        _serving(entries),
        _compared(compared),
        _timing(timing),
    ):
        console.print(table)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", header_style="", box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _months(months: list[Month]) -> Table:
    tables = list(months[0].num_rows) if months else []
    measured = ("quarantined", "entities", "parity", "answers", "log loss", "base rate", "decision")
    table = _table("Months", "month", *tables, *measured)
    for month in months:
        table.add_row(
            month.key,
            *(f"{month.num_rows[name]:,}" for name in tables),
            f"{month.num_quarantined:,}",
            f"{month.num_entities:,}",
            "equal" if month.is_parity_checked else "-",
            ", ".join(f"v{version} {count:,}" for version, count in sorted(month.num_requests.items())) or "-",
            _number(month.loss),
            _number(month.baseline_loss),
            month.verdict,
        )
    return table


def _versions(versions: list[Version]) -> Table:
    table = _table("Versions, on the newest rows of their window, held out", "", *(f"v{v.version}" for v in versions))
    quality = (("log loss", "loss"), ("AUC", "auc"), ("calibration error", "ece"))
    rows: list[tuple[str, list[str]]] = [
        ("window", [f"{v.window[0]} to {v.window[1]}" for v in versions]),
        *((name, [_number(v.metrics["validation"][metric]) for v in versions]) for name, metric in quality),
        ("log loss of the base rate", [_number(v.metrics["baseline"]["loss"]) for v in versions]),
        ("log loss of boosted trees", [_number(v.metrics["trees"]["loss"]) for v in versions]),
        *(
            (f"{graph} size, latency of one row", [_graph(v.metrics["compression"], graph) for v in versions])
            for graph in ("fp32", "int8")
        ),
        ("serves", [_serves(v.metrics["compression"]) for v in versions]),
    ]
    for name, cells in rows:
        table.add_row(name, *cells)
    return table


def _graph(compression: dict[str, Any], graph: str) -> str:
    if graph not in compression:
        return "not made"
    found = compression[graph]
    return f"{found['size_bytes'] / 1024:.0f} KiB, {found['latency_us']['1']:.0f} µs"


def _serves(compression: dict[str, Any]) -> str:
    why = f": int8 is not used, {'; '.join(compression['reasons'])}" if compression["reasons"] else ""
    return f"{compression['serves']}{why}"


def _serving(entries: list[Entry]) -> Table:
    table = _table("What served when (ledger, chain verified)", "at (UTC)", "decision", "version", "share", "outcome")
    for entry in entries:
        share = {"bootstrap": 100, "promote": 100}.get(entry.kind, entry.evidence.get("share_pct"))
        outcome = entry.evidence.get("verdict") or entry.evidence.get("state", "")
        table.add_row(
            f"{entry.at:%H:%M:%S}",
            entry.kind,
            f"v{entry.subject}",
            "-" if share is None else f"{share:g} %",
            ": ".join(part for part in (outcome, "; ".join(entry.evidence.get("reasons", []))) if part),
        )
    return table


def _compared(compared: list[Compared]) -> Table:
    table = _table("The same month for all", "", "labelled rows", "log loss", "AUC")
    for item in compared:
        table.add_row(item.name, f"{item.num_rows:,}", _number(item.loss), _number(item.auc))
    return table


def _timing(timing: Timing) -> Table:
    table = _table("Seconds", "", "tasks", "seconds")
    for stage, seconds in sorted(timing.stage_s.items(), key=lambda item: -item[1]):
        table.add_row(f"  {stage}", f"{timing.num_tasks[stage]}", f"{seconds:.1f}")
    table.add_section()
    for name, seconds in (
        ("start-up", timing.startup_s),
        ("useful work: at least one task worked", timing.work_s),
        ("useful work: only callers were served", timing.traffic_s),
        ("orchestration: Airflow between tasks, and waiting", timing.orchestration_s),
        ("loop, start-up included", timing.startup_s + timing.loop_s),
    ):
        table.add_row(name, "", f"{seconds:.1f}")
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
