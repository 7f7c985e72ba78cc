"""Batch scores: a whole partition through one version, with the features that serving would have had.

Shape suffixes: B rows, K classes (absent where a row has one number).
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

from include.errors import NotFoundError
from include.features.examples import load_examples, with_store_features
from include.lake.tables import write_partition
from include.serving.versions import load_version
from include.tasks.outputs import output_type

if TYPE_CHECKING:
    import pyarrow as pa

    from include.lake.storage import Storage
    from include.lake.tables import Commit
    from include.registry.models import ModelVersion
    from include.serving.versions import LoadedVersion
    from include.spec import ModelSpec

TABLE = "scores"
BATCH_ROWS = 8192


def score_partition(*, spec: ModelSpec, storage: Storage, partition: str, version: ModelVersion) -> Commit:
    """Score all examples of a partition, cancelled ones too, into the Delta table `scores`.

    Columns: example_id, event_at, model_version, the task's output, partition. A partition holds the scores of one
    version, the one that scored it last; equal scores make no new version of the table.

    Raises:
        NotFoundError: The partition was never published, or there is no package.
        CorruptArtifactError: The package does not match its digest.
    """
    import pyarrow as pa

    digest = version.tags.get("digest", "")
    loaded = load_version(spec=spec, version=version.version, uri=version.source, digest=digest)
    examples = load_examples(spec=spec, storage=storage, partitions=(partition,))
    if examples.num_rows == 0:
        raise NotFoundError(
            f"partition {partition!r} of {spec.name!r} must be published to be scored; got no rows. The scores stay as "
            "they were. Ingest it first."
        )
    rows = with_store_features(examples, spec=spec, storage=storage)
    scored = pa.table(
        {
            "example_id": rows["example_id"],
            "event_at": rows["event_at"],
            "model_version": pa.array([version.version] * rows.num_rows, pa.string()),
            loaded.task.output: pa.array(_predictions(loaded, rows), output_type(num_classes=len(loaded.task.classes))),
            "partition": rows["partition"],
        }
    )
    return write_partition(
        uri=storage.table(spec.name, TABLE),
        table=scored,
        partition=partition,
        storage_options=storage.options,
        metadata={"source": version.source, "model_version": version.version, "digest": digest},
    )


def _predictions(loaded: LoadedVersion, rows: pa.Table) -> list[Any]:
    names = (*loaded.encoding.categorical, *loaded.encoding.numeric)
    inputs = rows.select(names)
    batches = inputs.to_batches(max_chunksize=BATCH_ROWS)
    scored = (loaded.score({name: batch[name].to_pylist() for name in names}).tolist() for batch in batches)
    return list(chain.from_iterable(scored))
