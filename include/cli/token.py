import typer

from include.cli.deployment import find_deployment
from include.cli.options import DEFAULT_HOME, HomeOption

token = typer.Typer(no_args_is_help=True)


@token.callback()
def about() -> None:
    """Change the admin token of the model server."""


@token.command()
def rotate(*, home: HomeOption = DEFAULT_HOME) -> None:
    """Replace the admin token; the old one stops working at once.

    Server, tasks and commands read its file at each use: nothing is started again, and nothing fails meanwhile.
    """
    from include.errors import ServiceError
    from include.runtime.secrets import rotate_token

    deployment = find_deployment(home)
    rotate_token(deployment.home.secrets)
    said = "A running model server takes the new token"
    try:
        deployment.model_server(timeout_s=5).get_all_routes()
    except ServiceError:
        said = "No model server runs now; the next one will read it"
    typer.echo(f"{deployment.home.model_server_token} holds a new token. {said}.")
