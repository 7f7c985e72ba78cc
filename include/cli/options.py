"""The arguments and options that several commands share, so that they read the same everywhere."""

from pathlib import Path
from typing import Annotated

import typer

from include.runtime.home import DEFAULT_HOME


def _complete_model(incomplete: str) -> list[str]:
    from include.spec import model_names

    return [name for name in model_names() if name.startswith(incomplete)]


HomeOption = Annotated[
    Path,
    typer.Option(
        envvar="TRADEWIND_HOME",
        help="Folder of the deployment, as for `make up`.",
        resolve_path=True,
        file_okay=False,
        show_default=".tradewind/live",
    ),
]
"""Use with `= DEFAULT_HOME`."""

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for a machine to read.")]
"""Use with `= False`, as parameter `as_json`."""

ModelArgument = Annotated[
    str, typer.Argument(help="Folder of the model below include/models.", autocompletion=_complete_model)
]

ModelOption = Annotated[
    str, typer.Option("--model", help="Folder of the model below include/models.", autocompletion=_complete_model)
]

ModelsArgument = Annotated[
    str | None,
    typer.Argument(
        help="Folder of one model below include/models; all of them without it.",
        autocompletion=_complete_model,
        show_default=False,
    ),
]
"""Use with `= None`, and `chosen_models`."""

VersionArgument = Annotated[str, typer.Argument(help="MODEL@VERSION; instead of a number also champion or challenger.")]

__all__ = [
    "DEFAULT_HOME",
    "HomeOption",
    "JsonOption",
    "ModelArgument",
    "ModelOption",
    "ModelsArgument",
    "VersionArgument",
]
