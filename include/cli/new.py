import getpass
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from include.cli.options import DEFAULT_HOME, HomeOption
from include.errors import BadInputError
from include.partitions import Grain
from include.spec import MODELS_DIR
from include.spec.tasks import TaskName

if TYPE_CHECKING:
    from rich.console import Console

    from include.authoring.ask import Asker
    from include.authoring.draft import Draft
    from include.authoring.sources import Source

_SAMPLE, _MODEL, _COLUMNS = "The sample", "What the model is", "How columns are read"


def _option(*names: str, text: str, panel: str = _MODEL, metavar: str | None = None) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, metavar=metavar, show_default=False)


def new(
    name: Annotated[str, typer.Argument(help="Of the model and its folder: small letters, digits, underscores.")],
    *,
    csv: Annotated[Path | None, _option("--csv", text="A CSV file.", panel=_SAMPLE)] = None,
    parquet: Annotated[Path | None, _option("--parquet", text="A Parquet file.", panel=_SAMPLE)] = None,
    sql: Annotated[
        str | None,
        _option("--sql", text="A SELECT. Without --database DuckDB answers, which reads files.", panel=_SAMPLE),
    ] = None,
    database: Annotated[
        str | None, _option("--database", text="A DuckDB or SQLite file, or an SQLAlchemy URL.", panel=_SAMPLE)
    ] = None,
    label: Annotated[str | None, _option("--label", text="Column to predict, or SQL such as 'delay > 15'.")] = None,
    label_name: Annotated[str | None, _option("--label-name", text="What a label that is SQL is called.")] = None,
    task: Annotated[TaskName | None, _option("--task", text="Kind of prediction.")] = None,
    time: Annotated[str | None, _option("--time", text="Column that says when a row happened.")] = None,
    timezone: Annotated[str | None, _option("--timezone", text="Zone in which partitions begin and end.")] = None,
    grain: Annotated[Grain | None, _option("--grain", text="How long a partition is.")] = None,
    key: Annotated[str | None, _option("--key", text="Columns that name a row, with commas between.")] = None,
    known_at: Annotated[str | None, _option("--known-at", text="Column of the outcome's time, or none.")] = None,
    entity: Annotated[
        list[str] | None, _option("--entity", text="Column whose recent past is averaged, or none. Again for more.")
    ] = None,
    keep: Annotated[list[str] | None, _option("--keep", text="An input, whatever speaks against it.")] = None,
    leave_out: Annotated[list[str] | None, _option("--leave-out", text="A column that is no input.")] = None,
    description: Annotated[str | None, _option("--description", text="What the model answers, in a sentence.")] = None,
    owner: Annotated[str | None, _option("--owner", text="Who answers for it; you.")] = None,
    column_type: Annotated[
        list[str] | None,
        _option("--type", text="COLUMN=int64|float64|string|timestamp|bool.", panel=_COLUMNS, metavar="COLUMN=TYPE"),
    ] = None,
    time_format: Annotated[
        list[str] | None,
        _option("--time-format", text="strptime's format.", panel=_COLUMNS, metavar="COLUMN=FORMAT"),
    ] = None,
    null: Annotated[list[str] | None, _option("--null", text="A text that means: no value.", panel=_COLUMNS)] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Take what was inferred instead of asking.")] = False,
    land: Annotated[bool, typer.Option("--land", help="Land the sample's partitions in the deployment.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Add missing files to a folder that is there; none is changed or deleted.")
    ] = False,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Write a model's folder from a sample of its rows: a CSV or Parquet file, or a query.

    Columns, types, key, times, partitions, task and inputs are inferred, and each guess is explained. At a terminal you
    are asked where the sample leaves a choice; elsewhere pass the options, or --yes.
    """
    from datetime import UTC, datetime

    from rich.console import Console

    from include.authoring.decide import make_draft
    from include.authoring.draft import Wishes
    from include.authoring.explain import print_explanation
    from include.authoring.sample import take_sample
    from include.authoring.write import require_new, write_model

    require_new(name, models_dir=MODELS_DIR, force=force)
    console = Console(highlight=False)
    wishes = Wishes(
        name=name,
        owner=owner or getpass.getuser(),
        description=description,
        label=label,
        label_name=label_name,
        task=task,
        time=time,
        timezone=timezone,
        grain=grain,
        key=tuple(part.strip() for part in key.split(",")) if key else (),
        known_at=known_at,
        entities=tuple(entity or ()),
        keep=tuple(keep or ()),
        leave_out=tuple(leave_out or ()),
        types=_pairs(column_type, flag="--type"),
        time_formats=_pairs(time_format, flag="--time-format"),
        null_texts=tuple(null or ()),
    )
    sample = take_sample(_source(csv=csv, parquet=parquet, sql=sql, database=database))
    draft = make_draft(sample, wishes=wishes, asker=_asker(console, yes=yes), now=datetime.now(UTC))
    print_explanation(draft, console)
    if not yes and sys.stdin.isatty() and not typer.confirm("Write it?", default=True):
        raise typer.Abort
    written = write_model(draft, models_dir=MODELS_DIR, force=force)
    console.print(f"\nwrote {len(written)} files into {MODELS_DIR / name}")
    if land:
        _land(draft, home=home, console=console)
    _print_next(draft, console, home=home, is_landed=land)


def _source(*, csv: Path | None, parquet: Path | None, sql: str | None, database: str | None) -> "Source":
    from include.authoring.csv_source import open_csv
    from include.authoring.sources import open_parquet
    from include.authoring.sql_source import open_sql

    if sum(given is not None for given in (csv, parquet, sql)) != 1:
        raise BadInputError(
            "new needs one sample; got none or several. Nothing was written. Pass --csv FILE, --parquet FILE or --sql "
            "SELECT."
        )
    if csv:
        return open_csv(csv)
    return open_parquet(parquet) if parquet else open_sql(sql or "", database=database)


def _asker(console: "Console", *, yes: bool) -> "Asker":
    from include.authoring.ask import Guesses, Nobody, Person

    if yes:
        return Guesses()
    return Person(console=console) if sys.stdin.isatty() else Nobody()


def _pairs(texts: list[str] | None, *, flag: str) -> dict[str, Any]:
    pairs = [text.partition("=") for text in texts or []]
    for column, equals, value in pairs:
        if not (column and equals and value):
            raise BadInputError(f"{flag} must be COLUMN=...; got {column!r}. Nothing was written. Mend it.")
    return {column: value for column, _, value in pairs}


def _land(draft: "Draft", *, home: Path, console: "Console") -> None:
    from include.authoring.land import land_source
    from include.runtime.home import Home

    found = Home(root=home)
    found.prepare()
    counts = land_source(draft, storage=found.storage)
    where = found.storage.landing(draft.name)
    console.print(f"landed {sum(counts.values()):,} rows as {len(counts)} partitions in {where}", soft_wrap=True)


def _print_next(draft: "Draft", console: "Console", *, home: Path, is_landed: bool) -> None:
    from rich.markup import escape

    from include.authoring.numbers import window_of
    from include.authoring.request import FILE
    from include.cli.deployment import recorded_ports
    from include.runtime.home import Home

    named = "" if home == DEFAULT_HOME else f" TRADEWIND_HOME={home}"
    elsewhere = "" if home == DEFAULT_HOME else f" --home {home}"
    port = recorded_ports(Home(root=home)).model_server
    window = window_of(draft)
    lines = [
        (f"./tradewind check {draft.name}{elsewhere}", "every file, and a dry run on rows of the sample"),
        (f"make up{named}", "starts Airflow and the servers, and unpauses the model's Dags; again if it runs already"),
        (
            f"./tradewind status {draft.name}{elsewhere}",
            f"it trains on the newest {window} partitions when all are in, then serves",
        ),
        (
            f"curl --data @{MODELS_DIR / draft.name}/sample/{FILE} http://127.0.0.1:{port}/v2/models/{draft.name}/infer",
            "asks it",
        ),
    ]
    if not is_landed:
        again = (_again(), "lands the sample's partitions: they are what the model is trained on")
        lines.insert(1, again)
    console.print("\n[bold]Next[/bold]")
    for command, why in lines:
        console.print(f"  {escape(command)}", soft_wrap=True, style="cyan")
        console.print(f"    [dim]{escape(why)}[/dim]", soft_wrap=True)


def _again() -> str:
    import shlex

    given = sys.argv[1:]
    return (
        f"./tradewind {shlex.join([*given, *(flag for flag in ('--yes', '--force', '--land') if flag not in given)])}"
    )
