"""What late labels say of a challenger: losses of examples that it and the champion both scored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from include.drift.served import join_labels
from include.errors import NotFoundError
from include.rollout.decision import LabelEvidence
from include.rollout.local import read_state
from include.tasks import task_of
from include.tasks.outputs import to_numpy

if TYPE_CHECKING:
    import pyarrow as pa

    from include.lake.storage import Storage
    from include.serving.client import ModelServerClient
    from include.spec import ModelSpec


def post_label_evidence(
    *, spec: ModelSpec, storage: Storage, partition: str, client: ModelServerClient
) -> LabelEvidence | None:
    """Tell the model server what a partition's labels say of the version that is rolled out; None: nothing is.

    The server keeps one value for each partition, so that a repeated call changes nothing. A rollout that was rolled
    back, and its version unloaded, while the labels were joined is none any more.

    Raises:
        CorruptArtifactError: A file of the prediction log cannot be read.
        ServiceError: The model server does not answer.
    """
    state = read_state(client.get_routes(model=spec.name))
    version = state.canary or state.shadow
    if version is None or state.champion is None or spec.rollout.labels == "ignored":
        return None
    joined = join_labels(spec=spec, storage=storage, partitions=(partition,))
    found = compare_losses(joined, spec=spec, version=version, champion=state.champion)
    if found.num:
        try:
            client.set_labels(model=spec.name, partition=partition, evidence=found)
        except NotFoundError:
            return None
    return found


def compare_losses(joined: pa.Table, *, spec: ModelSpec, version: str, champion: str) -> LabelEvidence:
    """Return the differences of two versions' losses over the rows of `join_labels` that both scored."""
    import pyarrow.compute as pc

    task = task_of(spec)
    known = joined.filter(pc.is_valid(joined["label"])).select(["example_id", "model_version", "label", task.output])
    ours, theirs = (known.filter(pc.equal(known["model_version"], name)) for name in (version, champion))
    both = ours.filter(pc.is_in(ours["example_id"], value_set=theirs["example_id"].combine_chunks()))
    theirs = theirs.take(pc.index_in(both["example_id"], value_set=theirs["example_id"].combine_chunks()))
    if not both.num_rows:
        return LabelEvidence(version=version, champion=champion)
    label_N = task.encode(both["label"])
    own, other = (task.losses(label_N, to_numpy(rows[task.output], task=task)) for rows in (both, theirs))
    differences = own - other
    return LabelEvidence(
        version=version,
        champion=champion,
        num=both.num_rows,
        total=float(differences.sum()),
        total_squares=float((differences**2).sum()),
    )
