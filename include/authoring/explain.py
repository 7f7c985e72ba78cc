"""What was inferred from a sample, and why, as rows for people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich import box
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from rich.console import Console

    from include.authoring.draft import Draft


@dataclass(frozen=True, kw_only=True)
class Explained:
    """One line of the explanation.

    Args:
        column: The file's column, or the feature made of the event's time.
        type: What model.yaml declares.
        role: What the model does with it.
        why: The reason.
        is_warning: Whether a person should look at it.
    """

    column: str
    type: str
    role: str
    why: str
    is_warning: bool = False


def explained(draft: Draft) -> list[Explained]:
    """Return a line for each column, and one for each feature that is made of the time."""
    lines = [_line(draft, name=column.name) for column in draft.columns]
    made = [f for f in draft.inputs.features if f.column is None]
    lines += [Explained(column=f.name, type="", role=f"input, {f.kind}", why=f.why) for f in made]
    return lines


def _line(draft: Draft, *, name: str) -> Explained:
    column = draft.rows.column(name)
    features = {f.column: f for f in draft.inputs.features}
    left_out = {item.column: item for item in draft.inputs.left_out}
    views = {view.column: view for view in draft.views}
    roles, reasons = [], []
    if name in draft.key.columns:
        roles.append("key")
    if name == draft.event.name:
        roles.append("time")
        reasons.append(column.why)
    if draft.known_at and name == draft.known_at.name:
        roles.append("outcome known")
    if name in draft.label.columns:
        roles.append("label")
        reasons.append(draft.label.why)
    if name in features:
        roles.append(f"input, {features[name].kind}")
        reasons.append(features[name].why)
    if name in views:
        roles.append("entity")
        reasons.append(f"averages of the last 28 days: {views[name].why}")
    is_left_out = name in left_out and not roles
    if is_left_out:
        roles.append("left out")
        reasons.append(left_out[name].why)
    return Explained(
        column=name,
        type=column.type,
        role=", ".join(roles),
        why="; ".join(reasons) or column.why,
        is_warning=is_left_out and left_out[name].is_warning,
    )


def print_explanation(draft: Draft, console: Console) -> None:
    """Print the columns, and below them what holds for the whole sample."""
    table = Table(title=f"{draft.sample.source.origin}: {draft.sample.num_rows:,} rows", box=box.SIMPLE_HEAD)
    for name in ("column", "type", "role", "why"):
        table.add_column(name, overflow="fold")
    for line in explained(draft):
        table.add_row(
            *(escape(text) for text in (line.column, line.type, line.role, line.why)),
            style="yellow" if line.is_warning else None,
        )
    console.print(table)
    for name, text in _summary(draft):
        console.print(f"[bold]{name:<12}[/bold] {escape(text)}", soft_wrap=True)


def _summary(draft: Draft) -> list[tuple[str, str]]:
    found = [
        ("label", f"{draft.label.name}, a {draft.label.task}: {draft.label.why}"),
        ("key", ", ".join(draft.key.columns)),
        ("partitions", f"{draft.partitions.first} to {draft.partitions.last}: {draft.partitions.why}"),
        ("clock", "replay: the sample has ended" if draft.is_history else "wall: the newest row is recent"),
    ]
    if draft.null_texts != ("",):
        found.append(("no value", f"written as {', '.join(map(repr, draft.null_texts))}"))
    if draft.sample.source.delimiter != ",":
        found.append(("delimiter", f"{draft.sample.source.delimiter!r}; landed files have commas, --land changes it"))
    if draft.event.is_ambiguous:
        found.append(("dates", f"{draft.event.name} is read as {draft.event.time_format}; day first: --time-format"))
    for key, count in draft.partitions.cut.items():
        found.append(("left out", f"{key}, which is not whole: {count:,} rows, not landed with the others"))
    if draft.partitions.num_gaps:
        found.append(("gaps", f"{draft.partitions.num_gaps} partitions between the first and the last have no rows"))
    return found
