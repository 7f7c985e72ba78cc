from typing import Annotated

import typer

from include.cli.options import DEFAULT_HOME, HomeOption


def migrate(
    *,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="postgresql://USER@HOST:PORT",
            help="Server for Airflow's and MLflow's databases; its password comes from PGPASSWORD or PGPASSFILE.",
            show_default=False,
        ),
    ] = None,
    lake: Annotated[
        str | None,
        typer.Option(
            metavar="s3://BUCKET/PREFIX",
            help="Place for the lake; credentials come from AWS's own environment variables.",
            show_default=False,
        ),
    ] = None,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Copy the databases to another server, the lake to an object store; compare; say what to set.

    The deployment must be stopped, and is left as it is. Killed anywhere, the same command goes on.
    """
    from rich.console import Console
    from rich.markup import escape

    from include.cli.deployment import find_deployment
    from include.migration.databases import move_databases, target_url
    from include.migration.lake import connection_of, move_lake, storage_from_environment
    from include.migration.stopped import stopped

    if to is None and lake is None:
        raise typer.BadParameter("name --to, --lake, or both")
    url = target_url(to) if to else None
    storage = storage_from_environment(lake) if lake else None
    deployment = find_deployment(home)
    console = Console(highlight=False)
    lines = []
    with stopped(deployment.home), console.status("moving") as status:
        if url:
            for moved in move_databases(deployment, url, say=lambda text: status.update(escape(text))):
                state = "moved" if moved.is_new else "was moved before"
                lines.append(f"{moved.name}: {moved.num_rows} rows of {moved.num_tables} tables, equal; {state}")
            lines += ["Set, with the password in PGPASSFILE or in the URL:", f"  TRADEWIND_DATABASE_URL='{url}'"]
        if storage:
            made = move_lake(deployment.home, storage, say=lambda text: status.update(escape(text)))
            lines.append(f"lake: {made.num_files} files, {made.num_tables} tables with their versions, equal")
            lines += [
                "Set, with credentials:",
                f"  AIRFLOW_CONN_TRADEWIND_LAKE='{connection_of(storage, home=deployment.home)}'",
            ]
    for line in lines:
        console.print(escape(line), soft_wrap=True)
