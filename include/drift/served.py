"""What was served for a partition's examples, joined to what happened.

Shape suffix: N rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from include.errors import CorruptArtifactError
from include.features.examples import load_examples
from include.tasks import task_of
from include.tasks.outputs import output_type

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import pyarrow as pa
    from pyarrow import fs

    from include.lake.storage import Storage
    from include.spec import ModelSpec

SHADOW = "shadow"
"""Role of a prediction that no caller saw."""


def join_labels(*, spec: ModelSpec, storage: Storage, partitions: tuple[str, ...]) -> pa.Table:
    """Return the predictions of some partitions' examples with their outcomes, sorted by example and version.

    Columns: example_id, model_version, role, the task's output, logged_at, every input, event_at, and label (null while
    it has not arrived, and for ever if the example never gets one). A request that was retried counts once: the answer
    logged last, whichever version gave it. Beside that, each version's last shadow prediction of the example is kept,
    unless the same version also answered.

    Raises:
        CorruptArtifactError: A file of the prediction log cannot be read.
        NotFoundError: The model's tables were never written.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    examples = load_examples(spec=spec, storage=storage, partitions=partitions)
    examples = examples.select(["example_id", "event_at", "label"])
    predictions = read_predictions(spec=spec, storage=storage, example_ids=examples["example_id"])
    kept = predictions.take(pa.array(_newest_rows(predictions)))
    position = pc.index_in(kept["example_id"], value_set=examples["example_id"].combine_chunks())
    for name in ("event_at", "label"):
        kept = kept.append_column(name, examples[name].take(position))
    return kept.sort_by([("example_id", "ascending"), ("model_version", "ascending")])


def read_predictions(*, spec: ModelSpec, storage: Storage, example_ids: Sequence[str] | pa.ChunkedArray) -> pa.Table:
    """Return the logged predictions of some examples, in the order they were logged; none if nothing was logged."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.dataset as ds

    schema = prediction_schema(spec)
    filesystem, paths = _parquet_files(storage=storage, uri=storage.predictions(spec.name))
    if not paths:
        return schema.empty_table()
    wanted = example_ids.combine_chunks() if isinstance(example_ids, pa.ChunkedArray) else pa.array(example_ids)
    try:
        dataset = ds.dataset(paths, schema=schema, filesystem=filesystem, format="parquet")
        is_own = pc.field("example_id").isin(wanted)
        # A file from before the model changed its task has no such column.
        found = dataset.to_table(filter=is_own & pc.field(task_of(spec).output).is_valid())
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise CorruptArtifactError(
            f"prediction log {storage.predictions(spec.name)} must be Parquet with the model's inputs; got: {error}. "
            "Nothing was measured. Move the file that it names aside, then retry."
        ) from error
    return found.sort_by([("logged_at", "ascending"), ("request_id", "ascending")])


def prediction_schema(spec: ModelSpec) -> pa.Schema:
    """Return the columns of the prediction log that the monitor reads."""
    import pyarrow as pa

    task = task_of(spec)
    return pa.schema(
        [
            ("request_id", pa.string()),
            ("example_id", pa.string()),
            ("model_version", pa.string()),
            ("role", pa.string()),
            (task.output, output_type(num_classes=len(task.classes))),
            ("logged_at", pa.timestamp("us", tz="UTC")),
            *((name, pa.string()) for name in spec.features.categorical),
            *((name, pa.float64()) for name in spec.features.numeric),
        ]
    )


def _parquet_files(*, storage: Storage, uri: str) -> tuple[fs.FileSystem, list[str]]:
    from pyarrow import fs

    if "://" not in uri:
        filesystem, folder = fs.LocalFileSystem(), uri
    else:
        options, folder = storage.options, uri.split("://", 1)[1]
        filesystem = fs.S3FileSystem(
            access_key=options.get("AWS_ACCESS_KEY_ID"),
            secret_key=options.get("AWS_SECRET_ACCESS_KEY"),
            region=options.get("AWS_REGION"),
            endpoint_override=options.get("AWS_ENDPOINT_URL"),
        )
    selector = fs.FileSelector(folder, recursive=True, allow_not_found=True)
    files = filesystem.get_file_info(selector)
    # A leading dot or underscore marks a file that is still being written.
    return filesystem, sorted(
        file.path for file in files if file.is_file and file.extension == "parquet" and file.base_name[0] not in "._"
    )


def _newest_rows(predictions: pa.Table) -> np.ndarray:
    """Return the positions to keep of predictions that are sorted by the time they were logged."""
    import numpy as np
    import pyarrow.compute as pc

    if predictions.num_rows == 0:
        return np.empty(0, dtype=np.int64)
    example_N, version_N = (_codes(predictions, name) for name in ("example_id", "model_version"))
    pair_N = example_N * (int(version_N.max()) + 1) + version_N
    is_shadow_N = pc.equal(predictions["role"], SHADOW).to_numpy()
    served = _last_of_each(example_N, np.flatnonzero(~is_shadow_N))
    shadow = _last_of_each(pair_N, np.flatnonzero(is_shadow_N))
    return np.concatenate([served, shadow[~np.isin(pair_N[shadow], pair_N[served])]])


def _codes(table: pa.Table, name: str) -> np.ndarray:
    import numpy as np

    return table[name].combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)


def _last_of_each(key_N: np.ndarray, rows: np.ndarray) -> np.ndarray:
    import numpy as np

    backwards = rows[::-1]
    _, first = np.unique(key_N[backwards], return_index=True)
    return backwards[first]
