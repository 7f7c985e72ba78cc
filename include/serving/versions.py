"""A version in memory: its package verified, its graph ready to score.

Shape suffixes: B rows, C categorical inputs, N numeric inputs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from include.errors import BadInputError, CorruptArtifactError, ServiceError
from include.features.encoding import Encoding
from include.registry.package import ENCODING, GOLDEN, SERVED_GRAPH, read_package

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import onnxruntime

    from include.spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class LoadedVersion:
    """One version that can score; safe to use from several threads at once.

    Args:
        model: The model's name.
        version: Its version.
        uri: Folder of its package.
        digest: Digest of the package, verified.
        encoding: How columns become tensors.
        session: The graph.
        golden: Rows whose scores training recorded.
    """

    model: str
    version: str
    uri: str
    digest: str
    encoding: Encoding
    session: onnxruntime.InferenceSession
    golden: Mapping[str, Any]

    @property
    def input_kinds(self) -> dict[str, str]:
        """Input of the graph -> categorical or numeric."""
        return dict.fromkeys(self.encoding.categorical, "categorical") | dict.fromkeys(self.encoding.numeric, "numeric")

    def score(self, columns: Mapping[str, Sequence[Any]]) -> np.ndarray:
        """Return the probability of each row, shape (B,), float32.

        Raises:
            ServiceError: The graph answered another shape, or a number that is no probability.
        """
        import numpy as np

        categorical_BC, numeric_BN = self.encoding.encode(columns)
        (raw,) = self.session.run(["probability"], {"categorical": categorical_BC, "numeric": numeric_BN})
        probability_B = np.asarray(raw, dtype=np.float32)
        in_range = probability_B.shape == (len(categorical_BC),) and bool(
            np.all((probability_B >= 0) & (probability_B <= 1))  # NaN compares false
        )
        if not in_range:
            raise ServiceError(
                f"model {self.model!r} version {self.version} must answer {len(categorical_BC)} probabilities within 0 "
                f"to 1; got shape {probability_B.shape}, values {probability_B.ravel()[:3].tolist()}. The answer was "
                "discarded. Roll the version back."
            )
        return probability_B

    def check_golden(self) -> dict[str, Any]:
        """Score the golden rows; `passed` says whether each score is within the tolerance of the recorded one."""
        import numpy as np

        wanted_B = np.asarray(self.golden["probability"], dtype=np.float32)
        tolerance = float(self.golden["tolerance"])
        found_B = self.score(self.golden["columns"])
        difference = float(np.max(np.abs(found_B - wanted_B))) if len(wanted_B) == len(found_B) else math.inf
        if not math.isfinite(difference):
            difference = 1.0  # no two probabilities are further apart, and JSON has no infinity
        return {
            "passed": bool(len(wanted_B)) and difference <= tolerance,
            "num_rows": len(wanted_B),
            "max_abs_diff": difference,
            "tolerance": tolerance,
        }


def load_version(*, spec: ModelSpec, version: str, uri: str, digest: str) -> LoadedVersion:
    """Verify a package byte by byte and return the version that it holds, warmed up.

    Raises:
        NotFoundError: There is no package.
        CorruptArtifactError: A digest differs, a file is missing, or the graph cannot be loaded.
        BadInputError: The package was trained on other inputs than the spec declares.
    """
    package = read_package(uri)
    named = f"package {uri} of model {spec.name!r} version {version}"
    if (package.digest, package.model) != (digest, spec.name):
        raise CorruptArtifactError(
            f"{named} must have the registered digest {digest[:16]}; got {package.digest[:16]} of model "
            f"{package.model!r}. Nothing was loaded. Restore the package, or register it as a version of its own."
        )
    try:
        encoding = Encoding.from_json(package.contents[ENCODING].decode())
        _require_same_inputs(encoding, spec, named)
        golden = package.json(GOLDEN)
        loaded = LoadedVersion(
            model=spec.name,
            version=version,
            uri=uri,
            digest=digest,
            encoding=encoding,
            session=_open_graph(package.contents[SERVED_GRAPH]),
            golden={name: golden[name] for name in ("columns", "probability", "tolerance")},
        )
        loaded.score(golden["columns"])  # the first run allocates; no caller should wait for that
    except BadInputError:
        raise
    except Exception as error:  # onnxruntime's errors share no other base
        raise CorruptArtifactError(
            f"{named} must hold a graph and golden rows that run; got {error!r}. Nothing was loaded. Register it again."
        ) from error
    return loaded


def _open_graph(graph: bytes) -> onnxruntime.InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # requests are small and many: threads inside one would only wait for each other
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _require_same_inputs(encoding: Encoding, spec: ModelSpec, named: str) -> None:
    declared = {*spec.features.categorical, *spec.features.numeric}
    trained = {*encoding.categorical, *encoding.numeric}
    if declared != trained:
        raise BadInputError(
            f"{named} must be trained on the inputs that model.yaml declares; got "
            f"{sorted(trained - declared)} too many, {sorted(declared - trained)} missing. Nothing was loaded. "
            "Train it again, or go back to the spec's commit."
        )
