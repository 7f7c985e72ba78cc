"""A version in memory: its package verified, its graph ready to score.

Shape suffixes: B rows, K classes (absent where a row has one number).
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from include.errors import BadInputError, CorruptArtifactError, ServiceError
from include.features.encoding import Encoding
from include.registry.package import ENCODING, GOLDEN, SERVED_GRAPH, read_package
from include.tasks import task_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import onnxruntime

    from include.registry.package import Package
    from include.spec import ModelSpec
    from include.tasks import Task

GOLDEN_RUNS = 20
GOLDEN_S = 0.5
"""A check times its golden rows so many times, but begins no further run after so many seconds."""


@dataclass(frozen=True, kw_only=True)
class LoadedVersion:
    """One version that can score; safe to use from several threads at once.

    Args:
        model: The model's name.
        version: Its version.
        uri: Folder of its package.
        digest: Digest of the package, verified.
        task: What it predicts.
        encoding: How columns become tensors.
        session: The graph.
        golden: Rows whose scores training recorded.
    """

    model: str
    version: str
    uri: str
    digest: str
    task: Task
    encoding: Encoding
    session: onnxruntime.InferenceSession
    golden: Mapping[str, Any]

    @property
    def input_kinds(self) -> dict[str, str]:
        """Input of the graph -> categorical or numeric."""
        return dict.fromkeys(self.encoding.categorical, "categorical") | dict.fromkeys(self.encoding.numeric, "numeric")

    def score(self, columns: Mapping[str, Sequence[Any]]) -> np.ndarray:
        """Return the prediction of each row, shape (B,) or (B, K), float32.

        Raises:
            ServiceError: The graph answered another shape, or numbers that are no predictions of the task.
        """
        import numpy as np

        categorical_BC, numeric_BN = self.encoding.encode(columns)
        (raw,) = self.session.run([self.task.output], {"categorical": categorical_BC, "numeric": numeric_BN})
        predicted_BK = np.asarray(raw, dtype=np.float32)
        problem = self.task.prediction_problem(predicted_BK, num_rows=len(categorical_BC))
        if problem:
            raise ServiceError(
                f"model {self.model!r} version {self.version} must answer {problem}. The answer was discarded. Roll "
                "the version back."
            )
        return predicted_BK

    def check_golden(self) -> dict[str, Any]:
        """Score the golden rows, some times over to time it.

        `passed` says whether each score is within the tolerance of the recorded one; the latencies are those of one
        request with all golden rows.
        """
        import numpy as np

        wanted_BK = np.asarray(self.golden[self.task.output], dtype=np.float32)
        tolerance = float(self.golden["tolerance"])
        found_BK = self.score(self.golden["columns"])
        difference = float(np.max(np.abs(found_BK - wanted_BK))) if wanted_BK.shape == found_BK.shape else math.inf
        if not math.isfinite(difference):
            difference = sys.float_info.max  # JSON has no infinity
        return {
            "passed": bool(len(wanted_BK)) and difference <= tolerance,
            "num_rows": len(wanted_BK),
            "max_abs_diff": difference,
            "tolerance": tolerance,
            **self._golden_latency_ms(),
        }

    def _golden_latency_ms(self) -> dict[str, float]:
        until_s = time.perf_counter() + GOLDEN_S
        taken_ms: list[float] = []
        while len(taken_ms) < GOLDEN_RUNS and (not taken_ms or time.perf_counter() < until_s):
            started = time.perf_counter()
            self.score(self.golden["columns"])
            taken_ms.append((time.perf_counter() - started) * 1e3)
        taken_ms.sort()
        return {
            "latency_median_ms": statistics.median(taken_ms),
            "latency_p95_ms": taken_ms[math.ceil(0.95 * len(taken_ms)) - 1],
        }


def load_version(*, spec: ModelSpec, version: str, uri: str, digest: str) -> LoadedVersion:
    """Verify a package byte by byte and return the version that it holds, warmed up.

    Raises:
        NotFoundError: There is no package.
        CorruptArtifactError: A digest differs, a file is missing, or the graph cannot be loaded.
        BadInputError: The package was trained on other inputs, or for another task, than the spec declares.
    """
    return open_package(read_registered(model=spec.name, version=version, uri=uri, digest=digest), spec, version)


def read_registered(*, model: str, version: str, uri: str, digest: str) -> Package:
    """Return a version's package, every byte of it verified; nothing of it is opened yet.

    Raises:
        NotFoundError: There is no package.
        CorruptArtifactError: A digest differs or a file is missing.
    """
    package = read_package(uri)
    if (package.digest, package.model) != (digest, model):
        raise CorruptArtifactError(
            f"package {uri} of model {model!r} version {version} must have the registered digest {digest[:16]}; got "
            f"{package.digest[:16]} of model {package.model!r}. Nothing was loaded. Restore the package, or register "
            "it as a version of its own."
        )
    return package


def open_package(package: Package, spec: ModelSpec, version: str) -> LoadedVersion:
    """Return the version that a verified package holds, warmed up.

    Raises:
        CorruptArtifactError: The graph cannot be loaded, or a file that it needs is missing.
        BadInputError: The package was trained on other inputs, or for another task, than the spec declares.
    """
    task = task_of(spec)
    named = f"package {package.uri} of model {spec.name!r} version {version}"
    try:
        encoding = Encoding.from_json(package.contents[ENCODING].decode())
        _require_same_inputs(encoding, spec, named)
        golden = package.json(GOLDEN)
        session = _open_graph(package.contents[SERVED_GRAPH])
        _require_same_task(session, task, named)
        loaded = LoadedVersion(
            model=spec.name,
            version=version,
            uri=package.uri,
            digest=package.digest,
            task=task,
            encoding=encoding,
            session=session,
            golden={name: golden[name] for name in ("columns", task.output, "tolerance")},
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


def _require_same_task(session: onnxruntime.InferenceSession, task: Task, named: str) -> None:
    found = [output.name for output in session.get_outputs()]
    if found != [task.output]:
        raise BadInputError(
            f"{named} must answer {task.output!r}, as the task of model.yaml does; got {', '.join(found)}. Nothing was "
            "loaded. Train it again, or go back to the spec's commit."
        )
