"""What a trained version stands beside, on the same held-out rows: boosted trees, and the version that serves now.

Shape suffix: B rows.
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
    from include.training.rows import Rows


@dataclass(frozen=True, kw_only=True)
class ChampionScores:
    """The champion's probabilities, or why there are none.

    Args:
        version: Its version.
        probability_B: Shape (B,); None if it could not be measured.
        problem: Why not.
    """

    version: str
    probability_B: np.ndarray | None = None
    problem: str | None = None


def score_champion(champion: ModelVersion, held_out: pa.Table, *, storage: Storage) -> ChampionScores:
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
    return ChampionScores(
        version=champion.version, probability_B=score(graph, *encoding.encode(columns_of(held_out, encoding)))
    )


def score_trees(rows: Rows, *, seed: int) -> np.ndarray:
    """Return the held-out probabilities of boosted trees fitted to the training rows, shape (B,)."""
    import numpy as np
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    trees = HistGradientBoostingClassifier(random_state=seed, early_stopping=False)
    # Categories beyond its bins are numbers to it; for a model to stand beside that will do.
    sizes = [len(values) for values in rows.encoding.vocabulary.values()]
    trees.set_params(categorical_features=[n for n, size in enumerate(sizes) if size < trees.max_bins])
    features_BD = np.concatenate([rows.categorical_BC.astype(np.float32), rows.numeric_BN], axis=1)
    with threadpool_limits(limits=1):  # threads that wait for each other are slower on a machine that does other work
        trees.fit(features_BD[: rows.num_train], rows.label_B[: rows.num_train])
        return np.asarray(trees.predict_proba(features_BD[rows.num_train :])[:, 1])
