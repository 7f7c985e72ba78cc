"""What is wrong with a model's folder, by file and line."""

from __future__ import annotations

import re
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Sequence

SPEC, FEATURES, EXPECTATIONS, NETWORK = "model.yaml", "features.py", "expectations.py", "network.py"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing to mend.

    Args:
        file: Path of the file.
        line: Its line, from 1; None: the file as a whole.
        text: What is wrong, what is allowed, and the nearest match.
    """

    file: str
    line: int | None
    text: str

    def __str__(self) -> str:
        """Return it as editors and terminals make a link of it."""
        return f"{self.file}:{self.line}: {self.text}" if self.line else f"{self.file}: {self.text}"


def line_of(text: str, location: Sequence[str | int]) -> int:
    r"""Return the line of a place in a YAML text: of its key, or of the nearest parent's where it is absent.

    >>> line_of("a: 1\nb:\n  - {c: 2}\n", ("b", 0, "c"))
    3
    >>> line_of("a: 1\nb:\n  c: 2\n", ("b", "missing"))
    2
    """
    node: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    line = node.start_mark.line if node is not None else 0
    for part in location:
        found = _child(node, part)
        if found is None:
            break
        line, node = found
    return int(line) + 1


def _child(node: Any, part: str | int) -> tuple[int, Any] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(part):
                return key.start_mark.line, value
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part].start_mark.line, node.value[part]
    return None


def line_with(text: str, word: str) -> int | None:
    r"""Return the first line that has a word, as a text or a name of its own.

    >>> line_with("a = 1\nb = ['carrier']\n", "carrier")
    2
    """
    for number, line in enumerate(text.splitlines(), start=1):
        if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", line):
            return number
    return None


def problem_of(error: BaseException, *, folder: Path, file: str) -> Problem:
    """Return what an exception says, at the line of the model's folder that it passed last.

    Args:
        error: What was raised.
        folder: The model's folder.
        file: Where to look if no line of the folder took part.
    """
    said = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename).parent == folder:
        return Problem(file=error.filename, line=error.lineno, text=f"no Python: {error.msg}")
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).parent == folder]
    if frames:
        return Problem(file=frames[-1].filename, line=frames[-1].lineno, text=f"{type(error).__name__}: {said}")
    return Problem(file=str(folder / file), line=None, text=said)
