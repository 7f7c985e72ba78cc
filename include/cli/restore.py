from pathlib import Path
from typing import Annotated

import typer

from include.cli.options import DEFAULT_HOME, HomeOption


def restore(
    file: Annotated[Path, typer.Argument(help="Archive that `backup` wrote.", resolve_path=True)],
    *,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Make a deployment from a backup, in an empty folder; `make up` then starts it.

    The folder may be another one than the backup's. Killed anywhere, the same command begins anew.
    """
    from rich.console import Console
    from rich.markup import escape

    from include.backup.restore import restore_backup

    console = Console(highlight=False)
    with console.status("restoring") as status:
        made = restore_backup(file, home, say=lambda text: status.update(escape(text)))
    setting = "" if home == DEFAULT_HOME else f"TRADEWIND_HOME={home} "
    console.print(
        escape(
            f"{home} is as it was at {made.made_at:%Y-%m-%d %H:%M:%S} UTC (release {made.release}): {made.num_tables} "
            f"tables, {made.num_ledger_entries} entries of the ledger. Start it: {setting}make up"
        ),
        soft_wrap=True,
    )
