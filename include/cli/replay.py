import tempfile
from pathlib import Path
from typing import Annotated

import typer

from include.cli.deployment import find_deployment
from include.cli.options import DEFAULT_HOME, HomeOption, JsonOption
from include.cli.tables import print_json
from include.errors import BadInputError


def replay(
    version: Annotated[str, typer.Argument(help="MODEL@VERSION; instead of a number also champion or challenger.")],
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
    model, number, source = _find(version, tracking_uri=deployment.mlflow_url)
    package = read_package(source, storage=storage)
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


def _find(version: str, *, tracking_uri: str) -> tuple[str, str, str]:
    """Return model, number and package folder of a version."""
    from include.registry.models import get_alias, get_version

    model, _, asked = version.rpartition("@")
    if not model or not asked:
        raise BadInputError(
            f"a version must be named MODEL@VERSION, such as flight_delays@3 or flight_delays@champion; got "
            f"{version!r}. Nothing was trained. Name one."
        )
    if asked.isdigit():
        found = get_version(tracking_uri, model=model, version=asked)
        return model, found.version, found.source
    by_alias = get_alias(tracking_uri, model=model, alias=asked)
    if by_alias is None:
        raise BadInputError(
            f"{model!r} must have a version with the alias {asked!r}; got none. Nothing was trained. Name a number."
        )
    return model, by_alias.version, by_alias.source
