import difflib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from include.cli.options import DEFAULT_HOME, HomeOption, JsonOption
from include.errors import NotFoundError
from include.spec import MODELS_DIR, model_names
from include.spec.errors import nearest

if TYPE_CHECKING:
    from include.authoring.check import Checked


def check(
    models: Annotated[
        list[str] | None, typer.Argument(help="Folders of models; all of them without it.", show_default=False)
    ] = None,
    *,
    sample: Annotated[
        Path | None,
        typer.Option(
            "--sample", help="Rows to try: a file, or a folder with a folder for each partition.", exists=True
        ),
    ] = None,
    fix: Annotated[bool, typer.Option("--fix", help="Bring model.yaml of an older version up to date.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="With --fix: write without asking.")] = False,
    as_json: JsonOption = False,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Check models before they run: spec, expectations, features, network, and a dry run on rows.

    The rows are those of --sample, or else the newest landed partition, the sample that `new` kept, or made-up ones.
    What must be mended is printed by file and line; the exit code is 1 if there is anything.
    """
    from include.authoring.check import check_model
    from include.runtime.home import Home

    names = _require(models) if models else model_names()
    if fix:
        for name in names:
            _fix(name, yes=yes)
    storage = Home(root=home).storage
    found = []
    for name in names:
        found.append(check_model(name, models_dir=MODELS_DIR, storage=storage, sample=sample))
        if not as_json:
            _print(found[-1])
    if as_json:
        from include.cli.tables import print_json

        print_json([{"is_good": item.is_good, **asdict(item)} for item in found])
    if not all(item.is_good for item in found):
        raise typer.Exit(1)


def _require(names: list[str]) -> list[str]:
    """Return names of models whose folder is there, even if its model.yaml is not.

    Raises:
        NotFoundError: There is no such folder.
    """
    for name in names:
        if not (MODELS_DIR / name).is_dir():
            raise NotFoundError(f"model {name!r} has no folder in {MODELS_DIR}; {nearest(name, model_names())}")
    return names


def _print(checked: "Checked") -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False, soft_wrap=True)
    verdict = "[green]good[/green]" if checked.is_good else f"[red]{len(checked.problems)} to mend[/red]"
    console.print(f"[bold]{checked.model}[/bold]: {verdict}")
    for problem in checked.problems:
        console.print(f"  {escape(_from_here(str(problem)))}")
    for note in checked.notes:
        console.print(f"  [dim]{escape(note)}[/dim]")


def _from_here(text: str) -> str:
    """Return a message with its path as seen from the working directory, so that a terminal makes a link of it."""
    return text.replace(f"{Path.cwd()}/", "", 1)


def _fix(name: str, *, yes: bool) -> None:
    """Show what the current version of the format would change in a model.yaml, and write it if that is wanted."""
    from rich.console import Console
    from rich.syntax import Syntax

    from include.spec.migrate import migrate

    path = MODELS_DIR / name / "model.yaml"
    old = path.read_text(encoding="utf-8")
    new = migrate(old, path=path)
    console = Console()
    if new == old:
        console.print(f"{name}: nothing to migrate")
        return
    shown = _from_here(str(path))
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), fromfile=shown, tofile=shown, lineterm="")
    console.print(Syntax("\n".join(lines), "diff", background_color="default"))
    if yes or typer.confirm(f"Write {shown}? git keeps the old one", default=True):
        path.write_text(new, encoding="utf-8")
        console.print(f"{name}: written")
