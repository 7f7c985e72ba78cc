"""Evidently's report of a partition against the champion's training window, as one HTML file for people."""

from __future__ import annotations

import contextlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from include import partitions
from include.drift.served import SHADOW, join_labels
from include.errors import InconclusiveError
from include.features.definitions import measured_window
from include.features.examples import training_set
from include.lake.files import write_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    from include.lake.storage import Storage
    from include.registry.models import ModelVersion
    from include.spec import ModelSpec

FILE = "drift.html"
MAX_ROWS = 5000
"""Rows of each side: more make no other picture, only a slower one."""

LOW_PRIORITY = 5
"""Niceness of the work: ten seconds of a core while the training that it explains runs beside it."""


def write_report(*, spec: ModelSpec, storage: Storage, partition: str, version: ModelVersion) -> dict[str, Any]:
    """Write the drift report of what was served for a partition; one that is there is replaced as a whole.

    Args:
        spec: The model.
        storage: Where its tables, its prediction log and its reports are.
        partition: The partition that was served.
        version: The version whose training window is the reference; its tags name it.

    Returns:
        `uri`, `num_rows` served, `num_reference_rows`, `drifted_frac` of inputs and label as Evidently sees it,
        `left_out` (inputs without a value on one side, which Evidently cannot compare).

    Raises:
        InconclusiveError: Nothing was served for the partition, or the training window is unknown or holds no rows.
        NotFoundError: The partition was never published.
    """
    return _at_low_priority(lambda: _write(spec=spec, storage=storage, partition=partition, version=version))


def _at_low_priority(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Run in a thread that yields to others: on Linux a thread has its own priority, and the caller keeps its."""

    def yield_to_others() -> None:
        with contextlib.suppress(OSError):  # where threads have none, the work is only less polite
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOW_PRIORITY)

    with ThreadPoolExecutor(1, initializer=yield_to_others) as pool:
        return pool.submit(work).result()


def _write(*, spec: ModelSpec, storage: Storage, partition: str, version: ModelVersion) -> dict[str, Any]:
    import pyarrow.compute as pc

    joined = join_labels(spec=spec, storage=storage, partitions=measured_window(spec, partition))
    served = joined.filter(pc.and_(pc.not_equal(joined["role"], SHADOW), pc.is_valid(joined["label"])))
    reference = training_set(spec=spec, storage=storage, partitions=_window(version))
    if not served.num_rows or not reference.num_rows:
        raise InconclusiveError(
            f"a drift report of {spec.name!r} {partition} needs served and trained rows with labels; got "
            f"{served.num_rows} and {reference.num_rows}. Nothing was written. Serve the partition first."
        )
    names = (*spec.features.categorical, *spec.features.numeric)
    left_out = [name for name in names if _is_empty(served, name) or _is_empty(reference, name)]
    snapshot = _compare(spec=spec, served=served, reference=reference, left_out=left_out)
    uri = f"{storage.report(spec.name, partition)}/{FILE}"
    write_bytes(uri, snapshot.get_html_str(as_iframe=False).encode(), storage=storage)
    return {
        "uri": uri,
        "num_rows": served.num_rows,
        "num_reference_rows": reference.num_rows,
        "drifted_frac": float(snapshot.dict()["metrics"][0]["value"]["share"]),
        "left_out": left_out,
    }


def _window(version: ModelVersion) -> tuple[str, ...]:
    first, last = version.tags.get("window_start"), version.tags.get("window_end")
    if not first or not last:
        raise InconclusiveError(
            f"version {version.version} of {version.name!r} must say by tags which window it was trained on; got "
            f"{dict(version.tags)}. Nothing was written. Train it again."
        )
    return partitions.between(first, last)


def _is_empty(table: pa.Table, name: str) -> bool:
    return bool(table[name].null_count == table.num_rows)


def _compare(*, spec: ModelSpec, served: pa.Table, reference: pa.Table, left_out: list[str]) -> Any:
    import numpy as np
    import pyarrow as pa
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    numeric = [name for name in spec.features.numeric if name not in left_out]
    categorical = [name for name in spec.features.categorical if name not in left_out]
    (numeric if pa.types.is_floating(served["label"].type) else categorical).append("label")
    definition = DataDefinition(numerical_columns=numeric, categorical_columns=categorical)
    current, trained = (
        Dataset.from_pandas(_sample(table, numeric=numeric, categorical=categorical), definition)
        for table in (served, reference)
    )
    report = Report([DataDriftPreset()])
    # A category that training never saw has an expected count of 0, and an infinite chi-square is what it should have.
    with np.errstate(divide="ignore", invalid="ignore"):
        return report.run(current_data=current, reference_data=trained)


def _sample(table: pa.Table, *, numeric: list[str], categorical: list[str]) -> Any:
    """Return rows spread evenly over the table, as Evidently's pandas frame; true and false as texts."""
    import numpy as np
    import pyarrow as pa

    chosen = np.linspace(0, table.num_rows - 1, num=min(MAX_ROWS, table.num_rows), dtype=np.int64)
    rows = table.select([*numeric, *categorical]).take(pa.array(chosen))
    kinds = dict.fromkeys(numeric, pa.float64()) | dict.fromkeys(categorical, pa.string())
    return rows.cast(pa.schema(list(kinds.items()))).to_pandas()
