"""docs/pages/cli.md names every command and every option of the command line."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import typer

from include.cli.app import app
from include.cli.stages import STAGES
from include.plan.outlook import Outlook
from include.runtime.home import REPO

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = (REPO / "docs" / "pages" / "cli.md").read_text()


def options(command: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield each command's path with each of its long options, itself with none first."""
    yield path, ""
    for parameter in command.params:
        yield from ((path, option) for option in parameter.opts if option.startswith("--"))
    for name, child in getattr(command, "commands", {}).items():
        yield from options(child, f"{path} {name}".strip())


@pytest.mark.parametrize(("path", "option"), options(typer.main.get_command(app)))
def test_every_command_and_option_is_named(path: str, option: str) -> None:
    assert re.search(rf"(?<![\w-]){re.escape(path)}\b", PAGE)
    assert not option or re.search(rf"{re.escape(option)}(?![\w-])", PAGE), f"{path} {option}"


@pytest.mark.parametrize("word", [*(f"`{name}`" for name in STAGES), *(f"| {outlook} |" for outlook in Outlook)])
def test_every_stage_and_outlook_is_explained(word: str) -> None:
    assert word in PAGE
