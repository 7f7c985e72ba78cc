"""A new model's folder: all of its files at once, or none."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from include.authoring.columns import feature_name
from include.authoring.land import small_sample
from include.authoring.render import render
from include.authoring.request import FILE, request_of
from include.errors import BadInputError, SetupError
from include.spec.fields import Identifier

if TYPE_CHECKING:
    from include.authoring.draft import Draft

SAMPLE = "sample"
_SAMPLE_PARTITIONS = 1
_SAMPLE_ROWS = 400


def write_model(draft: Draft, *, models_dir: Path, force: bool = False) -> list[str]:
    """Write a model's folder and return the files that were written, relative to it.

    Args:
        draft: The model.
        models_dir: Folder of all models.
        force: Add what is missing to a folder that is there; what is in it stays as it is.

    Raises:
        SetupError: The folder is there already.
    """
    require_new(draft.name, models_dir=models_dir, force=force)
    folder = models_dir / draft.name
    contents = {name: text.encode() for name, text in _files(draft).items()}
    if folder.exists():
        return _add(contents, folder=folder)
    with tempfile.TemporaryDirectory(prefix=f".{draft.name}-", dir=models_dir) as aside:
        _add(contents, folder=Path(aside) / draft.name)
        shutil.move(Path(aside) / draft.name, folder)  # a rename: the Dag processor never sees half a model
    return sorted(contents)


def require_new(name: str, *, models_dir: Path, force: bool) -> None:
    """Refuse a name that no model can have, or one that a model has.

    Raises:
        BadInputError: No such name is allowed.
        SetupError: The folder is there already.
    """
    try:
        TypeAdapter(Identifier).validate_python(name)
    except ValidationError as error:
        raise BadInputError(
            f"a model's name must be small letters, digits and underscores, a letter first; got {name!r}. Nothing was "
            f"written. For example {feature_name(name)!r}."
        ) from error
    if (models_dir / name).exists() and not force:
        raise SetupError(
            f"model {name!r} must be new; got a folder {models_dir / name}. Nothing was written. Choose another name, "
            "or --force: it adds the files that are missing and leaves the others alone."
        )


def _files(draft: Draft) -> dict[str, str]:
    sample = small_sample(draft, num_partitions=_SAMPLE_PARTITIONS, num_rows=_SAMPLE_ROWS)
    files = {f"{SAMPLE}/{key}/{draft.file}": content.decode() for key, content in sample.items()}
    files[f"{SAMPLE}/{FILE}"] = request_of(draft)
    num_rows = sum(content.count(b"\n") - 1 for content in sample.values())
    return {**render(draft, sample_rows=num_rows), **files}


def _add(contents: dict[str, bytes], *, folder: Path) -> list[str]:
    written = []
    for name, content in sorted(contents.items()):
        path = folder / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            written.append(name)
    return written
