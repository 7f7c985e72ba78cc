from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from include.drift.served import join_labels, read_predictions
from include.errors import CorruptArtifactError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable

    from include.lake.storage import Storage
    from include.spec import ModelSpec

MONTH = "2013-06"


def counts(joined: pa.Table) -> dict[tuple[str, str], int]:
    pairs = zip(joined["model_version"].to_pylist(), joined["role"].to_pylist(), strict=True)
    found: dict[tuple[str, str], int] = {}
    for pair in pairs:
        found[pair] = found.get(pair, 0) + 1
    return found


def test_predictions_meet_their_labels(
    spec: ModelSpec, storage: Storage, publish: Callable[..., None], served: Callable[..., pa.Table]
) -> None:
    publish(partition=MONTH, num_flights=400)
    examples = served(partition=MONTH)
    joined = join_labels(spec=spec, storage=storage, partitions=(MONTH,))
    assert joined.num_rows == 400
    expected = dict(zip(examples["example_id"].to_pylist(), examples["label"].to_pylist(), strict=True))
    assert dict(zip(joined["example_id"].to_pylist(), joined["label"].to_pylist(), strict=True)) == expected
    assert 0 < joined["label"].null_count < 40
    assert joined["temp"].null_count == examples["temp"].null_count


def test_predictions_of_other_partitions_and_unnamed_ones_are_left_out(
    spec: ModelSpec, storage: Storage, publish: Callable[..., None], served: Callable[..., pa.Table]
) -> None:
    publish(partition=MONTH, num_flights=50)
    publish(partition="2013-05", num_flights=60)
    served(partition=MONTH)
    served(partition="2013-05")
    log = next(Path(storage.predictions(spec.name)).glob("*.parquet"))
    unnamed = pq.read_table(log)
    unnamed = unnamed.set_column(
        unnamed.schema.get_field_index("example_id"), "example_id", pa.nulls(unnamed.num_rows, pa.string())
    )
    pq.write_table(unnamed, log.with_name("unnamed.parquet"))
    assert join_labels(spec=spec, storage=storage, partitions=(MONTH,)).num_rows == 50


def test_a_retried_request_counts_once_with_the_last_answer(
    spec: ModelSpec, storage: Storage, publish: Callable[..., None], served: Callable[..., pa.Table]
) -> None:
    publish(partition=MONTH, num_flights=100)
    served(partition=MONTH, version="2", role="canary", logged_at_us=3, rows=slice(0, 20), probability=0.9)
    served(partition=MONTH, version="1", logged_at_us=2, probability=0.5)
    served(partition=MONTH, version="1", logged_at_us=1, probability=0.1)
    joined = join_labels(spec=spec, storage=storage, partitions=(MONTH,))
    assert counts(joined) == {("1", "champion"): 80, ("2", "canary"): 20}
    scores = set(zip(joined["model_version"].to_pylist(), joined["probability"].to_pylist(), strict=True))
    assert {(version, round(score, 6)) for version, score in scores} == {("1", 0.5), ("2", 0.9)}


def test_shadow_predictions_stand_beside_served_ones(
    spec: ModelSpec, storage: Storage, publish: Callable[..., None], served: Callable[..., pa.Table]
) -> None:
    publish(partition=MONTH, num_flights=100)
    served(partition=MONTH, version="1", logged_at_us=1)
    served(partition=MONTH, version="2", role="shadow", logged_at_us=2, rows=slice(0, 30))
    served(partition=MONTH, version="2", role="shadow", logged_at_us=3, rows=slice(0, 30))
    served(partition=MONTH, version="2", role="canary", logged_at_us=1_000, rows=slice(0, 10))
    joined = join_labels(spec=spec, storage=storage, partitions=(MONTH,))
    # Ten examples were answered by the canary in the end; its shadow predictions of the same ten are not counted again.
    assert counts(joined) == {("1", "champion"): 90, ("2", "canary"): 10, ("2", "shadow"): 20}


def test_order_of_rows_does_not_depend_on_the_log(
    spec: ModelSpec, storage: Storage, publish: Callable[..., None], served: Callable[..., pa.Table]
) -> None:
    publish(partition=MONTH, num_flights=100)
    served(partition=MONTH, rows=slice(50, None))
    served(partition=MONTH, rows=slice(0, 50))
    served(partition=MONTH, version="2", role="shadow")
    ids = join_labels(spec=spec, storage=storage, partitions=(MONTH,))["example_id"].to_pylist()
    assert ids == sorted(ids)


def test_without_a_log_there_are_no_rows(spec: ModelSpec, storage: Storage, publish: Callable[..., None]) -> None:
    publish(partition=MONTH, num_flights=10)
    joined = join_labels(spec=spec, storage=storage, partitions=(MONTH,))
    assert joined.num_rows == 0
    assert {"label", "event_at", "temp", "carrier_late_frac_28d"} <= set(joined.column_names)


def test_a_partition_that_was_never_published_is_named(spec: ModelSpec, storage: Storage) -> None:
    with pytest.raises(NotFoundError, match="flights"):
        join_labels(spec=spec, storage=storage, partitions=(MONTH,))


def test_files_still_being_written_are_not_read_and_broken_ones_are_named(
    spec: ModelSpec, storage: Storage, publish: Callable[..., None], served: Callable[..., pa.Table]
) -> None:
    publish(partition=MONTH, num_flights=20)
    served(partition=MONTH)
    folder = Path(storage.predictions(spec.name))
    (folder / ".next.parquet.tmp").write_bytes(b"PAR1")
    (folder / ".next.parquet").write_bytes(b"PAR1")
    assert join_labels(spec=spec, storage=storage, partitions=(MONTH,)).num_rows == 20
    (folder / "broken.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(CorruptArtifactError, match=r"(?s)must be Parquet.*broken\.parquet"):
        join_labels(spec=spec, storage=storage, partitions=(MONTH,))


def test_an_input_that_an_older_version_did_not_log_is_missing(
    spec: ModelSpec, storage: Storage, publish: Callable[..., None], served: Callable[..., pa.Table]
) -> None:
    publish(partition=MONTH, num_flights=20)
    examples = served(partition=MONTH)
    (log,) = Path(storage.predictions(spec.name)).glob("*.parquet")
    pq.write_table(pq.read_table(log).drop_columns("visib"), log)
    found = read_predictions(spec=spec, storage=storage, example_ids=examples["example_id"])
    assert found["visib"].null_count == 20
    assert pc.sum(found["temp"]).as_py() == pytest.approx(pc.sum(examples["temp"]).as_py())
