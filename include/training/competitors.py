"""What a trained version stands beside, on the same held-out rows: boosted trees, and the version that serves now.

Shape suffixes: B rows, K classes (absent where a row has one number), D features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from include.compression.graphs import open_graph, score
from include.errors import CorruptArtifactError, NotFoundError
from include.features.encoding import Encoding
from include.registry.package import ENCODING, SERVED_GRAPH, read_package
from include.training.rows import columns_of

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from include.lake.storage import Storage
    from include.registry.models import ModelVersion
    from include.tasks import Task
    from include.training.rows import Rows

MAX_TREE_BINS = 255
"""Values that scikit-learn's boosted trees tell apart in one input."""


@dataclass(frozen=True, kw_only=True)
class ChampionScores:
    """The champion's predictions, or why there are none.

    Args:
        version: Its version.
        predicted_BK: Shape (B,) or (B, K); None if it could not be measured.
        problem: Why not.
    """

    version: str
    predicted_BK: np.ndarray | None = None
    problem: str | None = None


def score_champion(champion: ModelVersion, held_out: pa.Table, *, task: Task, storage: Storage) -> ChampionScores:
    """Score rows with the graph that a version serves, by its own encoding."""
    try:
        package = read_package(champion.source, storage=storage)
        encoding = Encoding.from_json(package.contents[ENCODING].decode())
        absent = {*encoding.categorical, *encoding.numeric} - set(held_out.column_names)
        if absent:
            problem = f"its inputs {', '.join(sorted(absent))} are not in the training set any more"
            return ChampionScores(version=champion.version, problem=problem)
        graph = open_graph(package.contents[SERVED_GRAPH])
    except (NotFoundError, CorruptArtifactError, KeyError) as error:
        return ChampionScores(version=champion.version, problem=str(error))
    predicted_BK = score(graph, *encoding.encode(columns_of(held_out, encoding)))
    wrong = task.prediction_problem(predicted_BK, num_rows=held_out.num_rows)
    if wrong:
        return ChampionScores(version=champion.version, problem=f"it must answer {wrong}")
    return ChampionScores(version=champion.version, predicted_BK=predicted_BK)


def score_trees(rows: Rows, *, seed: int) -> np.ndarray:
    """Return what boosted trees, fitted to the training rows, predict of the held-out ones, shape (B,) or (B, K)."""
    import numpy as np
    from threadpoolctl import threadpool_limits

    # Categories beyond its bins are numbers to it; for a model to stand beside that will do.
    sizes = [len(values) for values in rows.encoding.vocabulary.values()]
    features_BD = np.concatenate([rows.categorical_BC.astype(np.float32), rows.numeric_BN], axis=1)
    with threadpool_limits(limits=1):  # threads that wait for each other are slower on a machine that does other work
        return rows.task.fit_trees(
            features_BD[: rows.num_train],
            rows.label_B[: rows.num_train],
            categorical=[n for n, size in enumerate(sizes) if size < MAX_TREE_BINS],
            seed=seed,
            of_BD=features_BD[rows.num_train :],
        )
