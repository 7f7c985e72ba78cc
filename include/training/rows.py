"""A snapshot's rows as tensors, split in time: the newest share is held out.

Shape suffixes: B rows, C categorical inputs, N numeric inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

from include.errors import SchemaError
from include.features.encoding import Encoding
from include.tasks import task_of
from include.training.snapshot import read_rows_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import pyarrow as pa

    from include.lake.storage import Storage
    from include.tasks import Task
    from include.tasks.task import Constant
    from include.training.job import Job

MIN_ROWS = 50
"""Fewer labelled rows on either side of the split cannot be called a training."""

_ENCODED_ROWS = 1 << 16
"""Rows whose texts are Python's at once."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """All rows of a snapshot, oldest first.

    Args:
        table: The snapshot.
        task: What kind of label it has.
        encoding: Made from the training rows alone.
        categorical_BC: Encoded categorical inputs, int64.
        numeric_BN: Numeric inputs, float32, NaN where missing.
        label_B: Labels as numbers, by the task.
        num_train: The first so many rows are for training, the rest for validation.
    """

    table: pa.Table
    task: Task
    encoding: Encoding
    categorical_BC: np.ndarray
    numeric_BN: np.ndarray
    label_B: np.ndarray
    num_train: int

    @property
    def baseline(self) -> Constant:
        """The best constant answer by the training rows: a base rate, class shares, or a mean."""
        return self.task.constant(self.label_B[: self.num_train])


def load_rows(job: Job, *, storage: Storage) -> Rows:
    """Read a job's snapshot.

    Raises:
        CorruptArtifactError: Its bytes are not those that the job names.
        SchemaError: It is no Parquet, lacks a column, or has rows that cannot train this model.
        NotFoundError: It is gone.
    """
    table = _read_table(job, storage=storage)
    spec = job.spec
    wanted = ("label", "event_at", *spec.features.categorical, *spec.features.numeric)
    absent = [name for name in wanted if name not in table.column_names]
    if absent:
        raise _unusable(job, f"the columns of model.yaml; got none of {', '.join(absent)}")
    num_train = int(table.num_rows * (1 - spec.training.validation_frac))
    label_B = _labels(table, num_train, job)
    encoding = Encoding(
        vocabulary={name: _values(table, name, num_train) for name in spec.features.categorical},
        numeric=spec.features.numeric,
    )
    categorical_BC, numeric_BN = _encode(table, encoding)
    return Rows(
        table=table,
        task=task_of(spec),
        encoding=encoding,
        categorical_BC=categorical_BC,
        numeric_BN=numeric_BN,
        label_B=label_B,
        num_train=num_train,
    )


def _encode(table: pa.Table, encoding: Encoding) -> tuple[np.ndarray, np.ndarray]:
    """Return a table's inputs as `Encoding.encode` does, some rows after others: texts are large as Python's."""
    import numpy as np

    categorical_BC = np.empty((table.num_rows, len(encoding.categorical)), dtype=np.int64)
    numeric_BN = np.empty((table.num_rows, len(encoding.numeric)), dtype=np.float32)
    for start in range(0, table.num_rows, _ENCODED_ROWS):
        some = slice(start, start + _ENCODED_ROWS)
        batch = table.slice(start, _ENCODED_ROWS)
        categorical_BC[some], numeric_BN[some] = encoding.encode(columns_of(batch, encoding))
    return categorical_BC, numeric_BN


def columns_of(table: pa.Table, encoding: Encoding) -> Mapping[str, Any]:
    """Return a table's columns as `Encoding.encode` takes them: lists of texts, arrays of floats."""
    texts = {name: table[name].to_pylist() for name in encoding.categorical}
    return texts | {name: _floats(table[name]) for name in encoding.numeric}


def _floats(column: pa.ChunkedArray) -> np.ndarray:
    """Return a column as float64, NaN where missing. Arrow's own way imports pandas, 0.7 s that nothing here uses."""
    import numpy as np
    import pyarrow as pa

    whole = column.cast(pa.float64()).combine_chunks()
    value_B = np.frombuffer(whole.buffers()[1], dtype=np.float64)[whole.offset : whole.offset + len(whole)].copy()
    if whole.null_count:
        value_B[np.from_dlpack(whole.is_null().cast(pa.uint8())) == 1] = np.nan
    return value_B


def _read_table(job: Job, *, storage: Storage) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    raw = read_rows_of(job.snapshot, storage=storage)
    try:
        table = pq.ParquetFile(BytesIO(raw)).read(use_threads=False)
    except pa.ArrowException as error:
        raise _unusable(job, f"Parquet; got {error}") from error
    if table.num_rows != job.snapshot.num_rows:
        raise _unusable(job, f"{job.snapshot.num_rows} rows; got {table.num_rows}")
    return table


def _labels(table: pa.Table, num_train: int, job: Job) -> np.ndarray:
    import numpy as np
    import pyarrow as pa

    task = task_of(job.spec)
    problem = task.label_problem(table["label"])
    if problem:
        raise _unusable(job, problem)
    moment_B = np.from_dlpack(table["event_at"].cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).combine_chunks())
    if np.any(np.diff(moment_B) < 0):
        raise _unusable(job, "rows in the order of event_at, since the newest are held out; got others")
    if min(num_train, table.num_rows - num_train) < MIN_ROWS:
        raise _unusable(job, f"{MIN_ROWS} rows or more to train and to validate; got {table.num_rows} in all")
    label_B = task.encode(table["label"])
    problem = task.train_problem(label_B[:num_train])
    if problem:
        raise _unusable(job, problem)
    return label_B


def _values(table: pa.Table, name: str, num_train: int) -> tuple[str, ...]:
    import pyarrow.compute as pc

    return tuple(sorted(pc.unique(table[name].slice(0, num_train)).drop_null().to_pylist()))


def _unusable(job: Job, wanted: str) -> SchemaError:
    return SchemaError(
        f"snapshot {job.snapshot.uri} of {job.spec.name!r} must hold {wanted}. Nothing was trained. Build it again."
    )
