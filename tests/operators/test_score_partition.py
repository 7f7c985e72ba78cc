from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from include.errors import CorruptArtifactError, NotFoundError, PartitionError
from include.features.build import build_features
from include.features.examples import training_set
from include.lake.ingest import ingest_partition
from include.lake.tables import current_version, read_table, write_partition
from include.registry.models import get_version
from operators.score_partition import ScorePartitionOperator
from tests.tiny_models import SPEC, tiny_encoding, tiny_graph

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    from include.lake.storage import Storage
    from tests.running import RolloutWorld

MODEL = "flight_delays"


@pytest.fixture
def published(storage: Storage, landed: Callable[..., None]) -> Callable[[str], None]:
    """Return a function that publishes a real month and builds its features, without its expectations."""

    def publish(partition: str) -> None:
        landed(partition, 400)
        ingest_partition(spec=SPEC, storage=storage, partition=partition)
        for table in SPEC.source.tables:
            rows = read_table(uri=storage.table(MODEL, f"staged_{table}"), storage_options={}, partitions=(partition,))
            uri = storage.table(MODEL, table)
            write_partition(uri=uri, table=rows, partition=partition, storage_options={})
        build_features(spec=SPEC, storage=storage, partition=partition, published_at=datetime.now(UTC))

    return publish


def score(partition: str = "2013-02", **how: Any) -> dict[str, Any]:
    return ScorePartitionOperator(task_id="score", model=MODEL, partition=partition, **how).execute(context={})


def scores(storage: Storage, partition: str = "2013-02") -> pa.Table:
    uri = storage.table(MODEL, "scores")
    return read_table(uri=uri, storage_options={}, partitions=(partition,)).sort_by("example_id")


def test_every_example_is_scored_with_the_features_of_serving(
    rollout_world: RolloutWorld, storage: Storage, published: Callable[[str], None]
) -> None:
    import numpy as np
    import onnxruntime

    for partition in ("2013-01", "2013-02"):
        published(partition)
    version = rollout_world.register(alias="champion", bias=-0.5)
    found = score()
    assert (found["model_version"], found["is_new"]) == (version, True)
    table = scores(storage)
    assert table.num_rows == found["num_rows"] >= 400
    labelled = training_set(spec=SPEC, storage=storage, partitions=("2013-02",)).sort_by("example_id")
    assert labelled.num_rows < table.num_rows  # cancelled flights are scored too
    assert labelled["carrier_late_frac_28d"].null_count < labelled.num_rows
    names = (*SPEC.features.categorical, *SPEC.features.numeric)
    categorical_BC, numeric_BN = tiny_encoding().encode({name: labelled[name].to_pylist() for name in names})
    session = onnxruntime.InferenceSession(tiny_graph(bias=-0.5), providers=["CPUExecutionProvider"])
    (expected_B,) = session.run(None, {"categorical": categorical_BC, "numeric": numeric_BN})
    by_id = dict(zip(table["example_id"].to_pylist(), table["probability"].to_pylist(), strict=True))
    np.testing.assert_allclose([by_id[name] for name in labelled["example_id"].to_pylist()], expected_B, atol=1e-6)


def test_equal_scores_make_no_new_version_and_others_replace_them(
    rollout_world: RolloutWorld, storage: Storage, published: Callable[[str], None]
) -> None:
    published("2013-02")
    first = rollout_world.register(alias="champion")
    assert score()["is_new"] is True
    again = score(version=first)
    assert (again["is_new"], again["version"]) == (False, 0)
    second = rollout_world.register(alias=None, bias=0.5)
    assert score(version=second)["version"] == 1
    assert set(scores(storage)["model_version"].to_pylist()) == {second}
    assert current_version(uri=storage.table(MODEL, "scores"), storage_options={}) == 1


def test_what_cannot_be_scored_is_named(
    rollout_world: RolloutWorld, storage: Storage, published: Callable[[str], None]
) -> None:
    with pytest.raises(NotFoundError, match="a number or an alias that is set; got 'champion'"):
        score()
    version = rollout_world.register(alias="champion")
    with pytest.raises(PartitionError, match="outside the source"):
        score("2014-01")
    published("2013-02")
    with pytest.raises(NotFoundError, match=r"partition '2013-03' .* must be published"):
        score("2013-03")
    package = Path(get_version(rollout_world.mlflow_url, model=MODEL, version=version).source)
    (package / "model.onnx").write_bytes(b"damaged")
    with pytest.raises(CorruptArtifactError, match="must match its recorded digest"):
        score()
    assert not Path(storage.table(MODEL, "scores")).exists()
