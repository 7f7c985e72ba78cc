"""A lake to try things in: it reads what another lake holds, and writes beside it."""

import os
import shutil
import tempfile
from pathlib import Path

from include.backup.capture import copy_sqlite
from include.errors import SetupError
from include.lake.storage import Storage


def make_scratch(storage: Storage, *, model: str, below: Path) -> Storage:
    """Return a new lake that holds a model's tables, landed files, predictions and online store.

    Files are hard-linked, not copied: every writer of a lake adds files or replaces them whole, so the two never change
    each other. Only the online store, which SQLite writes in place, is copied.

    Args:
        storage: The lake to read, a local folder.
        model: The model's name.
        below: Where to make the new lake's folder; on the same disk, links are possible.

    Raises:
        SetupError: The lake is in an object store.
    """
    if not storage.is_local:
        raise SetupError(
            f"a scratch lake needs a lake in a local folder; got {storage.root!r}. Nothing was made. Name a folder "
            "with --lake."
        )
    below.mkdir(parents=True, exist_ok=True)
    scratch = Storage(root=tempfile.mkdtemp(prefix=f"{model}-", dir=below))
    for name in ("landing", "lake", "predictions"):
        found = Path(storage.root) / name / model
        if found.exists():
            shutil.copytree(found, Path(scratch.root) / name / model, copy_function=_link)
    online = Path(storage.feast()) / "online.db"
    if online.exists():
        Path(scratch.feast()).mkdir()
        copy_sqlite(online, Path(scratch.feast()) / "online.db")
    return scratch


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or a file system without links
        shutil.copy2(source, target)
