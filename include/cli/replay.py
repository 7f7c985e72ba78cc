import tempfile
from pathlib import Path

import typer

from include.cli.deployment import find_deployment, find_version
from include.cli.options import DEFAULT_HOME, HomeOption, JsonOption, VersionArgument
from include.cli.tables import print_json


def replay(
    version: VersionArgument,
    *,
    as_json: JsonOption = False,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Train a registered version again from its lock file, and compare byte by byte.

    Nothing of the deployment is changed. When the bytes differ, or it cannot be trained, each input that differs is
    named, and the exit code is 1.
    """
    from include.lake.connection import current_storage
    from include.registry.package import read_package
    from include.training.replay import replay as train_again

    deployment = find_deployment(home)
    storage = current_storage(deployment.home.storage)
    asked = find_version(version, tracking_uri=deployment.mlflow_url)
    model, number = asked.name, asked.version
    package = read_package(asked.source, storage=storage)
    with tempfile.TemporaryDirectory(prefix="tradewind-replay-") as folder:
        found = train_again(
            package,
            storage=storage,
            folder=Path(folder),
            say=lambda line: typer.echo(f"  {line}", err=as_json),
        )
    if as_json:
        print_json({"model": model, "version": number, "is_equal": found.is_equal, "replay": found})
    else:
        verdict = "equal" if found.is_equal else "not equal" if found.found else "cannot be trained again"
        typer.echo(f"{model}@{number}: {verdict}. SHA-256 {found.wanted} then, {found.found or 'none'} now")
        for difference in found.differences:
            typer.echo(f"  {difference}")
        if not (found.differences or found.is_equal):
            typer.echo("  no recorded input differs: on this kind of machine the training does not repeat itself")
    if not found.is_equal:
        raise typer.Exit(1)
