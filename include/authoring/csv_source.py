"""A CSV file as a sample: what it must be, and why it is not."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from include.authoring.sources import NOTHING_WRITTEN, require_file, require_names
from include.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pyarrow as pa

_BLOCK_BYTES = 4 << 20
_HEAD_BYTES = 1 << 20
_DELIMITERS = ",;\t|"


@dataclass(frozen=True, kw_only=True)
class CsvSource:
    """A CSV file in UTF-8 with a header line.

    Args:
        path: The file.
        names: Its columns.
        delimiter: What stands between two values.
        num_rows_hint: About how many rows it has, by the width of its first lines.
    """

    path: Path
    names: tuple[str, ...]
    delimiter: str
    num_rows_hint: int

    @property
    def origin(self) -> str:
        """Its name."""
        return self.path.name

    def batches(self) -> Iterator[pa.Table]:
        """Yield the rows as the file has them."""
        import pyarrow as pa
        from pyarrow import csv as pa_csv

        try:
            reader = pa_csv.open_csv(
                self.path,
                read_options=pa_csv.ReadOptions(column_names=list(self.names), skip_rows=1, block_size=_BLOCK_BYTES),
                parse_options=pa_csv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True),
                convert_options=pa_csv.ConvertOptions(
                    column_types=dict.fromkeys(self.names, pa.string()), strings_can_be_null=False
                ),
            )
            for batch in reader:
                yield pa.Table.from_batches([batch])
        except pa.ArrowInvalid as error:
            raise BadInputError(
                f"{self.path} must be CSV in UTF-8 with {len(self.names)} values in each line; got: "
                f"{str(error).splitlines()[0]}. {NOTHING_WRITTEN} Mend the file; `iconv -f latin1 -t utf-8` "
                "changes its encoding."
            ) from error


def open_csv(path: Path) -> CsvSource:
    """Return a CSV file as a source.

    Raises:
        NotFoundError: No such file.
        BadInputError: It is empty, no UTF-8, has no header, one column, or two of one name.
    """
    require_file(path)
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head.strip():
        raise BadInputError(
            f"{path} must hold a header line and rows; got an empty file. {NOTHING_WRITTEN} Name another one."
        )
    text = _decode(head, path=path)
    lines = text.splitlines()
    delimiter = max(_DELIMITERS, key=lambda mark: (lines[0].count(mark), -_DELIMITERS.index(mark)))
    names = next(csv.reader([lines[0]], delimiter=delimiter))
    _require_header(names, path=path)
    line_bytes = max(1, len(head) // max(1, head.count(b"\n")))
    return CsvSource(
        path=path, names=tuple(names), delimiter=delimiter, num_rows_hint=max(1, path.stat().st_size // line_bytes)
    )


def _decode(head: bytes, *, path: Path) -> str:
    try:
        return head[: head.rfind(b"\n") + 1 or None].decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInputError(
            f"{path} must be CSV in UTF-8; got byte 0x{head[error.start]:02x} at offset {error.start}. "
            f"{NOTHING_WRITTEN} Change its encoding, for example by `iconv -f latin1 -t utf-8`."
        ) from error


def _require_header(names: list[str], *, path: Path) -> None:
    if not all(name.strip() for name in names):
        raise BadInputError(
            f"the first line of {path} must name its columns; got an empty name. {NOTHING_WRITTEN} Name each column "
            "(pandas writes such a column unless it is told `index=False`)."
        )
    values = [name for name in names if re.fullmatch(r"[+-]?[\d.,]+([eE][+-]?\d+)?|\d{4}-\d\d-\d\d.*", name)]
    if values:
        raise BadInputError(
            f"the first line of {path} must name its columns; got {values[0]!r} among them, which is a value. "
            f"{NOTHING_WRITTEN} Put a header line on top."
        )
    require_names(names, what=f"the header of {path}")
