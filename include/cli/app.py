"""`./tradewind`: one module a command, and what all of them do about an error.

A command is the one public function of `include/cli/<command>.py`; its signature is its usage (Typer) and its docstring
its help. These modules do without `from __future__ import annotations`, because Typer reads annotations at run time,
and import what is slow inside functions: `./tradewind --help` and the shell's completion wait for every import made
here.

Exit codes: 0 done and healthy; 1 an error that says what to do, or something that is not healthy; 2 wrong usage; 70 a
defect of Tradewind itself.
"""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from include import __version__
from include.cli.backup import backup
from include.cli.check import check
from include.cli.doctor import doctor
from include.cli.errors import report
from include.cli.ledger import ledger
from include.cli.migrate import migrate
from include.cli.new import new
from include.cli.plan import plan
from include.cli.reconcile import reconcile
from include.cli.replay import replay
from include.cli.restore import restore
from include.cli.run import run
from include.cli.sign import sign
from include.cli.status import status
from include.cli.token import token

_AUTHOR, _OPERATE, _KEEP = "Make a model", "Watch and run", "Keep and move"


class Commands(TyperGroup):
    """Turns what a command raises into a message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that the arguments name."""
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, typer.TyperException, BrokenPipeError):
            raise  # Typer's own
        except Exception as error:
            raise typer.Exit(report(error, debug=ctx.params.get("debug", False))) from error


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"tradewind {__version__}")
        raise typer.Exit


@app.callback()
def _tradewind(
    *,
    debug: Annotated[bool, typer.Option("--debug", help="Print the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Models from raw files to a watched, canary-released service, on Apache Airflow."""


# One line a command, in the order of the help.
app.command(rich_help_panel=_AUTHOR)(new)
app.command(rich_help_panel=_AUTHOR)(check)
app.command(rich_help_panel=_OPERATE)(status)
app.command(rich_help_panel=_OPERATE)(plan)
app.command(rich_help_panel=_OPERATE)(run)
app.command(rich_help_panel=_OPERATE)(doctor)
app.command(rich_help_panel=_OPERATE)(reconcile)
app.command(rich_help_panel=_OPERATE)(replay)
app.add_typer(ledger, name="ledger", rich_help_panel=_OPERATE)
app.command(rich_help_panel=_KEEP)(backup)
app.command(rich_help_panel=_KEEP)(restore)
app.command(rich_help_panel=_KEEP)(migrate)
app.command(rich_help_panel=_KEEP)(sign)
app.add_typer(token, name="token", rich_help_panel=_KEEP)
