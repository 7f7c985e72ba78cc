"""The one rule by which rows become the model's tensors; trainer, evaluator and server all use it.

Shape suffixes: B rows, C categorical inputs, N numeric inputs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from include.errors import CorruptArtifactError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

UNKNOWN = 0
"""Index of a category that training never saw, or that is missing."""


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """Order and vocabulary of a trained model's inputs.

    Args:
        vocabulary: Categorical input -> its known values; a value's index is its position + 1, 0 is unknown.
        numeric: Numeric inputs, in order. Missing values are NaN; the model's graph replaces them.
    """

    vocabulary: Mapping[str, tuple[str, ...]]
    numeric: tuple[str, ...]

    @property
    def categorical(self) -> tuple[str, ...]:
        """Names of the categorical inputs, in order."""
        return tuple(self.vocabulary)

    @cached_property
    def _indices(self) -> dict[str, dict[str, int]]:
        """Categorical input -> its known values' indices."""
        return {
            name: {value: number for number, value in enumerate(values, start=UNKNOWN + 1)}
            for name, values in self.vocabulary.items()
        }

    def encode(self, columns: Mapping[str, Sequence[Any]]) -> tuple[np.ndarray, np.ndarray]:
        """Return `(categorical_BC int64, numeric_BN float32)` of rows given as columns of equal length.

        Raises:
            KeyError: A column is missing.
        """
        import numpy as np

        num_rows = len(columns[(*self.categorical, *self.numeric)[0]])
        categorical_BC = np.zeros((num_rows, len(self.vocabulary)), dtype=np.int64)
        for position, (name, index) in enumerate(self._indices.items()):
            categorical_BC[:, position] = [index.get(value, UNKNOWN) for value in columns[name]]
        numeric_BN = np.empty((num_rows, len(self.numeric)), dtype=np.float32)
        for position, name in enumerate(self.numeric):
            numeric_BN[:, position] = np.asarray(columns[name], dtype=np.float32)  # None becomes NaN
        return categorical_BC, numeric_BN

    def to_json(self) -> str:
        """Return the text that `from_json` reads."""
        return json.dumps(
            {"vocabulary": {k: list(v) for k, v in self.vocabulary.items()}, "numeric": list(self.numeric)}
        )

    @classmethod
    def from_json(cls, text: str) -> Encoding:
        """Return the encoding that `to_json` wrote.

        Raises:
            CorruptArtifactError: The text is not such an encoding.
        """
        try:
            raw = json.loads(text)
            vocabulary = {name: tuple(values) for name, values in raw["vocabulary"].items()}
            return cls(vocabulary=vocabulary, numeric=tuple(raw["numeric"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptArtifactError(
                f"the model's encoding.json must be readable; got {error!r}. Nothing was loaded. Register it again."
            ) from error
