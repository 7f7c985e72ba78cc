"""Which rows a check tries a model on: named ones, landed ones, the folder's own, or made-up ones."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from include import partitions
from include.authoring.generated_rows import write_generated
from include.authoring.write import SAMPLE
from include.errors import BadInputError
from include.features.definitions import load_definitions
from include.features.joins import connect
from include.lake.csv_reader import read_csv
from include.lake.tables import PARTITION_COLUMN

if TYPE_CHECKING:
    from include.lake.storage import Storage
    from include.spec import ModelSpec

_ENOUGH_ROWS = 500


@dataclass(frozen=True, kw_only=True)
class CheckRows:
    """Rows to try a model on.

    Args:
        folder: A folder for each partition, with its files as they are landed.
        what: Where they come from, for people.
        are_made_up: Whether nobody ever delivered them.
    """

    folder: Path
    what: str
    are_made_up: bool = False


def choose_rows(spec: ModelSpec, *, named: Path | None, model_folder: Path, storage: Storage, aside: Path) -> CheckRows:
    """Return the rows that a person named, or the newest landed ones, or the sample of `new`, or made-up ones.

    Args:
        spec: The model.
        named: A file with rows of the model's one table, or a folder as landing has it.
        model_folder: The model's own folder.
        storage: The deployment's, where partitions are landed.
        aside: Empty folder to write to.

    Raises:
        BadInputError: The named rows cannot be split into partitions.
    """
    if named is not None and named.is_dir():
        return CheckRows(folder=named, what=str(named))
    if named is not None:
        _split(spec, file=named, aside=aside)
        return CheckRows(folder=aside, what=str(named))
    landed = _newest_landed(spec, storage=storage)
    if landed:
        for folder in landed:
            shutil.copytree(folder, aside / folder.name)
        return CheckRows(folder=aside, what=f"{' and '.join(folder.name for folder in landed)} as landed")
    if (model_folder / SAMPLE).is_dir():
        return CheckRows(folder=model_folder / SAMPLE, what=f"the rows in {model_folder.name}/{SAMPLE}")
    write_generated(spec, folder=aside)
    return CheckRows(folder=aside, what="made-up rows", are_made_up=True)


def _newest_landed(spec: ModelSpec, *, storage: Storage) -> list[Path]:
    """Return the newest landed partitions, as many as are needed for some rows to train on; a last one may be short."""
    if not storage.is_local:
        return []
    markers = sorted(Path(storage.landing(spec.name)).glob(f"*/{spec.source.marker}"), reverse=True)
    file = next(iter(spec.source.tables.values())).file
    chosen: list[Path] = []
    num_lines = 0
    for marker in markers:
        if num_lines < _ENOUGH_ROWS and (marker.parent / file).is_file():
            chosen.insert(0, marker.parent)
            num_lines += (marker.parent / file).read_bytes().count(b"\n")
    return chosen


def _split(spec: ModelSpec, *, file: Path, aside: Path) -> None:
    """Write a file's rows by partition: the model's own SQL says when each happened."""
    import pyarrow as pa

    if len(spec.source.tables) != 1:
        raise BadInputError(
            f"--sample of {spec.name!r} must be a folder with a folder for each partition, since the model has "
            f"{len(spec.source.tables)} tables; got the file {file}. Nothing was tried."
        )
    ((name, table),) = spec.source.tables.items()
    header, *lines = file.read_bytes().splitlines(keepends=True)
    rows = read_csv(b"".join([header, *lines]), file=str(file), table=table)
    numbers = pa.array([str(number) for number in range(rows.num_rows)], pa.string())
    with connect() as connection:  # the column `partition` passes the SQL as it is, so it can say which row it was
        connection.register(name, rows.append_column(PARTITION_COLUMN, numbers))
        found = connection.sql(load_definitions(spec).examples_sql).to_arrow_table()
    by_key: dict[str, list[int]] = {}
    for number, at in zip(found["partition"].to_pylist(), found["event_at"].to_pylist(), strict=True):
        if at is not None:
            key = partitions.key_at(at, grain=spec.source.grain, timezone=spec.source.timezone)
            by_key.setdefault(key, []).append(int(number))
    for key, chosen in by_key.items():
        (aside / key).mkdir(parents=True)
        (aside / key / table.file).write_bytes(b"".join([header, *(lines[number] for number in sorted(chosen))]))
