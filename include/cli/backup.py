from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from include.cli.options import DEFAULT_HOME, HomeOption


def backup(
    file: Annotated[
        Path | None,
        typer.Argument(
            help="Archive to write.", resolve_path=True, dir_okay=False, show_default="tradewind-<home>-<time>.tar.zst"
        ),
    ] = None,
    *,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Write everything of a deployment into one archive, while it runs or not.

    The archive holds the secrets too: it is readable by its user only, and belongs where passwords may lie.
    """
    from rich.console import Console
    from rich.markup import escape

    from include.backup.create import create_backup
    from include.cli.deployment import find_deployment
    from include.lake.connection import current_storage

    console = Console(highlight=False)
    path = file or Path.cwd() / f"tradewind-{home.name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.tar.zst"
    deployment = find_deployment(home)
    with console.status("reading") as status:
        made = create_backup(deployment, path, say=lambda text: status.update(escape(text)))
    console.print(
        f"{escape(str(made.path))}\n"
        f"{made.num_files} files, {made.num_tables} tables, {made.num_ledger_entries} entries "
        f"of the ledger, {made.num_bytes / 1e6:.1f} MB, verified. It holds the deployment's secrets; its mode is 0600.",
        soft_wrap=True,
    )
    lake = current_storage(deployment.home.storage)
    if not lake.is_local:
        console.print(f"Not in it: the lake's tables and files in {escape(lake.root)}.", soft_wrap=True)
