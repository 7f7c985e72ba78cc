import typer

from include.cli.deployment import find_deployment, find_version
from include.cli.options import DEFAULT_HOME, HomeOption, VersionArgument


def sign(
    version: VersionArgument,
    *,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Sign a registered version, so that the model server loads it.

    Versions are signed when they are registered; this is for one whose signature was lost, or whose key was replaced.
    Its package must be the one that was registered.
    """
    from include.lake.connection import current_storage
    from include.registry import register

    deployment = find_deployment(home)
    found = find_version(version, tracking_uri=deployment.mlflow_url)
    storage = current_storage(deployment.home.storage)
    register.sign(deployment.mlflow_url, version=found, signer=deployment.home.signer, storage=storage)
    typer.echo(f"signed {found.name} v{found.version}")
