"""Decides everything that a new model's files will say, from a sample and from what a person says about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast, get_args
from zoneinfo import available_timezones

from include.authoring.ask import Question, answer
from include.authoring.columns import infer_columns
from include.authoring.draft import Draft
from include.authoring.entities import View, entity_candidates, make_view
from include.authoring.inputs import Inputs, choose_inputs
from include.authoring.keys import Key, find_key, key_of
from include.authoring.labels import Label, is_named_like_a_label, label_candidates, make_label
from include.authoring.land import count_partitions
from include.authoring.moments import (
    Partitions,
    choose_grain,
    event_candidates,
    has_ended,
    moment_sql,
    outcome_times,
    partition_counts,
    without_cut,
)
from include.authoring.typed import TypedRows, quoted, type_rows
from include.errors import BadInputError
from include.partitions import KEY_FORMATS
from include.spec.tasks import TaskName

if TYPE_CHECKING:
    from datetime import datetime

    from include.authoring.ask import Asker
    from include.authoring.columns import Column
    from include.authoring.draft import Wishes
    from include.authoring.sample import Sample
    from include.partitions import Grain

NONE = "none"
"""The answer that declines what is offered."""

_MAX_DUPLICATES_FRAC = 0.05
_SHOWN = 8
_NUMBER_THEM = """number the rows: --sql "SELECT row_number() OVER () AS id, * FROM 'sample.csv'"."""
_PARTS = {"month": ("year", "month"), "day": ("year", "month", "day"), "hour": ("year", "month", "day", "hour")}


def make_draft(sample: Sample, *, wishes: Wishes, asker: Asker, now: datetime) -> Draft:
    """Decide everything, asking where the sample leaves a choice.

    Args:
        sample: The rows to infer from.
        wishes: What a person has said already.
        asker: Answers the rest.
        now: To tell history from a source that goes on.

    Raises:
        BadInputError: The sample cannot be used, or an answer is missing or wrong.
    """
    columns = infer_columns(
        sample.rows, types=wishes.types, null_texts=wishes.null_texts, time_formats=wishes.time_formats
    )
    rows = type_rows(sample.rows, columns=columns, origin=sample.source.origin)
    for named in (*wishes.keep, *wishes.leave_out):
        rows.column(named)
    decider = _Decider(sample=sample, rows=rows, wishes=wishes, asker=asker)
    event = decider.event()
    timezone = decider.timezone(event)
    moment = moment_sql(event, timezone=timezone)
    label = decider.label()
    partitions = decider.partitions(event, timezone=timezone)
    key = decider.key(event, label=label)
    known_at = decider.known_at(event, label=label, timezone=timezone)
    inputs = choose_inputs(
        rows, label=label, event=event, timezone=timezone, keep=wishes.keep, leave_out=wishes.leave_out
    )
    views = decider.views(label, inputs=inputs, grain=partitions.grain)
    asker.end()
    is_history = has_ended(rows, moment=moment, grain=partitions.grain, now=now)
    _require_inputs(inputs, label=label)
    return Draft(
        name=wishes.name,
        owner=wishes.owner,
        description=wishes.description or f"Predicts {label.name} of each row of {sample.source.origin}.",
        sample=sample,
        rows=rows,
        event=event,
        known_at=known_at,
        timezone=timezone,
        partitions=without_cut(partitions, is_history=is_history, now=now, timezone=timezone),
        is_history=is_history,
        partition_columns=_partition_columns(rows, moment=moment, timezone=timezone, grain=partitions.grain),
        key=key,
        label=label,
        inputs=inputs,
        views=views,
    )


@dataclass(frozen=True, kw_only=True)
class _Decider:
    """One question after the other."""

    sample: Sample
    rows: TypedRows
    wishes: Wishes
    asker: Asker

    def event(self) -> Column:
        found = event_candidates(self.rows)
        if len(found) == 1 and self.wishes.time is None:
            return found[0]
        question = Question(
            flag="--time",
            text="Which column says when a row happened?",
            guess=found[0].name,
            choices=[column.name for column in found],
            why=f"times: {', '.join(column.name for column in found)}",
        )
        return self.rows.column(answer(self.asker, question, given=self.wishes.time))

    def timezone(self, event: Column) -> str:
        why = f"{event.name} has no zone" if event.time_format else "partitions begin and end in a zone"
        question = Question(flag="--timezone", text="In which time zone?", guess="UTC", why=why)
        found = answer(self.asker, question, given=self.wishes.timezone)
        if found not in available_timezones():
            raise BadInputError(
                f"--timezone must be a zone such as UTC or America/New_York; got {found!r}. Nothing was written. See "
                "`timedatectl list-timezones`."
            )
        return found

    def label(self) -> Label:
        wanted, name, task = self.wishes.label, self.wishes.label_name, self.wishes.task
        if wanted is None:
            wanted = self._label_column()
        label = make_label(self.rows, wanted=wanted, name=name, task=task)
        if task is not None:
            return label
        question = Question(
            flag="--task",
            text="Which kind of prediction?",
            guess=label.task,
            choices=get_args(TaskName),
            why=f"{label.name}: {label.why}",
        )
        chosen = cast("TaskName", answer(self.asker, question, given=None))
        return label if chosen == label.task else make_label(self.rows, wanted=wanted, name=name, task=chosen)

    def _label_column(self) -> str:
        found = label_candidates(self.rows)
        guess = found[0] if found else None
        question = Question(
            flag="--label",
            text="What is to be predicted (a column, or SQL such as delay > 15)?",
            guess=guess.name if guess else None,
            why=f"candidates: {', '.join(column.name for column in found[:_SHOWN])}" if found else "",
            is_plain=guess is not None and is_named_like_a_label(guess),
        )
        return answer(self.asker, question, given=None)

    def partitions(self, event: Column, *, timezone: str) -> Partitions:
        moment, times = moment_sql(event, timezone=timezone), self.sample.num_whole
        best = choose_grain(self.rows, moment=moment, timezone=timezone, num_whole=times)
        question = Question(
            flag="--grain",
            text="How long is a partition (what is delivered, checked and trained on together)?",
            guess=best.grain,
            choices=list(KEY_FORMATS),
            why=best.why,
        )
        grain = cast("Grain", answer(self.asker, question, given=self.wishes.grain))
        if not self.sample.is_whole:
            counts = count_partitions(self.sample.source, event=event, grain=grain, timezone=timezone)
        else:
            counts = partition_counts(self.rows, moment=moment, grain=grain, timezone=timezone)
        return Partitions(grain=grain, counts=counts, is_named=grain != best.grain)

    def key(self, event: Column, *, label: Label) -> Key:
        if self.wishes.key:
            return self._require_key(self.wishes.key)
        best = find_key(self.rows, event=event.name, label=label.columns)
        num_rows = self.rows.rows.num_rows
        question = Question(
            flag="--key",
            text="Which columns name a row (separated by commas)?",
            guess=",".join(best.columns) if best else None,
            why=f"unique in the {num_rows:,} rows looked at" if best else f"no four columns do; or {_NUMBER_THEM}",
        )
        return self._require_key(_names(answer(self.asker, question, given=None)))

    def _require_key(self, columns: tuple[str, ...]) -> Key:
        key = key_of(self.rows, columns=columns)
        if key.num_duplicates > _MAX_DUPLICATES_FRAC * self.rows.rows.num_rows:
            raise BadInputError(
                f"--key must name a row, {_MAX_DUPLICATES_FRAC:.0%} of them at most twice; got {key.num_duplicates:,} "
                f"of {self.rows.rows.num_rows:,} for {', '.join(columns)}. Nothing was written. Name more columns, or "
                f"{_NUMBER_THEM}"
            )
        return key

    def known_at(self, event: Column, *, label: Label, timezone: str) -> Column | None:
        others = outcome_times(self.rows, event=event, timezone=timezone)
        found = [column for column in others if column.name not in label.columns]
        if not found and self.wishes.known_at is None:
            return None
        question = Question(
            flag="--known-at",
            text="Which column says when the outcome was known (none: at once)?",
            guess=found[0].name if len(found) == 1 else NONE,
            choices=[*(column.name for column in found), NONE],
            why=f"never before {event.name}: {', '.join(column.name for column in found)}",
        )
        name = answer(self.asker, question, given=self.wishes.known_at)
        return None if name == NONE else self.rows.column(name)

    def views(self, label: Label, *, inputs: Inputs, grain: Grain) -> tuple[View, ...]:
        as_input = {f.column: f.name for f in inputs.features if f.kind == "categorical"}
        return tuple(
            make_view(self.rows, column=self.rows.column(name), name=as_input.get(name), label=label, grain=grain)
            for name in self.wishes.entities or self._entities(label)
            if name != NONE
        )

    def _entities(self, label: Label) -> tuple[str, ...]:
        found = [c for c in entity_candidates(self.rows, label=label) if c.name not in self.wishes.leave_out]
        if not found:
            return ()
        question = Question(
            flag="--entity",
            text=f"Whose {label.name} of the last 28 days helps (columns separated by commas, or none)?",
            guess=found[0].name,
            why=f"come again and again: {', '.join(f'{c.name} ({c.num_distinct:,})' for c in found[:_SHOWN])}",
        )
        return _names(answer(self.asker, question, given=None))


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


def _partition_columns(rows: TypedRows, *, moment: str, timezone: str, grain: Grain) -> tuple[str, ...]:
    """Return the columns of year and month (day, hour) if they agree with the event's time in every row."""
    by_name = {column.name.lower(): column for column in rows.columns if column.type == "int64"}
    wanted = _PARTS.get(grain, ())
    if not wanted or any(name not in by_name for name in wanted):
        return ()
    at = f"timezone('{'UTC' if grain == 'hour' else timezone}', {moment})"
    agree = " AND ".join(f"coalesce({name}({at}) = {quoted(by_name[name].name)}, false)" for name in wanted)
    asked = rows.ask(f"SELECT bool_and({agree}) AS agree FROM sample")  # noqa: S608 - ours
    return tuple(by_name[name].name for name in wanted) if asked["agree"][0].as_py() else ()


def _require_inputs(inputs: Inputs, *, label: Label) -> None:
    if not any(f.column for f in inputs.features):
        reasons = "; ".join(f"{item.column}: {item.why}" for item in inputs.left_out)
        raise BadInputError(
            f"a model of {label.name!r} must have an input; got none, since every column was left out: {reasons}. "
            "Nothing was written. Insist on one with --keep."
        )
