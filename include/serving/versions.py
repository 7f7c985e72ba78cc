"""A version in memory: its package verified, its graph ready to score.

Shape suffixes: B rows, K classes (absent where a row has one number).
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from dataclasses import dataclass, replace
from itertools import accumulate, chain, pairwise
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from include.errors import BadInputError, CorruptArtifactError, ServiceError, SetupError
from include.features.encoding import Encoding
from include.registry.package import ENCODING, GOLDEN, SERVED_GRAPH, read_package
from include.serving.sessions import has_equal_rows, open_session
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
WARM_ROWS = 64
"""As many as a batch of one row a request has."""


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
        provider: What the graph runs on: cpu or cuda.
        is_row_wise: Whether a row's answer is the same bits whatever other rows are scored with it.
    """

    model: str
    version: str
    uri: str
    digest: str
    task: Task
    encoding: Encoding
    session: onnxruntime.InferenceSession
    golden: Mapping[str, Any]
    provider: str = "cpu"
    is_row_wise: bool = False

    @property
    def input_kinds(self) -> dict[str, str]:
        """Input of the graph -> categorical or numeric."""
        return dict.fromkeys(self.encoding.categorical, "categorical") | dict.fromkeys(self.encoding.numeric, "numeric")

    def score(self, columns: Mapping[str, Sequence[Any]]) -> np.ndarray:
        """Return the prediction of each row, shape (B,) or (B, K), float32.

        Raises:
            ServiceError: The graph answered another shape, or numbers that are no predictions of the task.
        """
        return self._run(*self.encoding.encode(columns))

    def score_together(self, parts: Sequence[Mapping[str, Sequence[Any]]]) -> list[np.ndarray]:
        """Return the predictions of several requests' rows; each is, to the bit, what `score` returns for it.

        Raises:
            ServiceError: As for `score`; which of them is to blame is not said.
        """
        if len(parts) == 1:
            return [self.score(parts[0])]
        names = (*self.encoding.categorical, *self.encoding.numeric)
        ends = [0, *accumulate(len(part[names[0]]) for part in parts)]
        categorical_BC, numeric_BN = self.encoding.encode(
            {name: list(chain.from_iterable([part[name] for part in parts])) for name in names}
        )
        spans = [slice(start, end) for start, end in pairwise(ends)]
        if not self.is_row_wise:
            return [self._run(categorical_BC[span], numeric_BN[span]) for span in spans]
        predicted_BK = self._run(categorical_BC, numeric_BN)
        return [predicted_BK[span] for span in spans]

    def _run(self, categorical_BC: np.ndarray, numeric_BN: np.ndarray) -> np.ndarray:
        import numpy as np

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


def require_legal_place(uri: str, *, model: str, version: str) -> None:
    """Refuse a place where no package can be.

    Raises:
        BadInputError: It is none.
    """
    scheme, mark, rest = uri.partition("://")
    try:
        host = urlsplit(uri).hostname
    except ValueError:  # half an IPv6 address
        scheme, mark = uri, "://"
    if mark and scheme != "file" and (scheme != "s3" or not rest or not host):
        raise BadInputError(
            f"package of model {model[:64]!r} version {version[:64]} must be in a folder, file:///folder or "
            f"s3://bucket/prefix; got {uri[:200]!r}. Nothing was loaded. Copy it there, and register that place."
        )


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
        CorruptArtifactError: The graph cannot be loaded, weights of it lie elsewhere, or a file is missing.
        BadInputError: The package was trained on other inputs, or for another task, than the spec declares.
    """
    task = task_of(spec)
    named = f"package {package.uri} of model {spec.name!r} version {version}"
    try:
        encoding = Encoding.from_json(package.contents[ENCODING].decode())
        _require_same_inputs(encoding, spec, named)
        golden = package.json(GOLDEN)
        opened = open_session(package.contents[SERVED_GRAPH], serving=spec.serving, named=named)
        _require_same_task(opened.session, task, named)
        loaded = LoadedVersion(
            model=spec.name,
            version=version,
            uri=package.uri,
            digest=package.digest,
            task=task,
            encoding=encoding,
            session=opened.session,
            golden={name: golden[name] for name in ("columns", task.output, "tolerance")},
            provider=opened.provider,
        )
        is_row_wise = _warm_up(loaded, max_rows=spec.serving.max_batch_rows)
        loaded = replace(loaded, is_row_wise=opened.is_row_wise and is_row_wise)
    except (BadInputError, SetupError):
        raise
    except Exception as error:  # onnxruntime's errors share no other base
        raise CorruptArtifactError(
            f"{named} must hold a graph with all its weights, and golden rows that run; got {error!r}. Nothing was "
            "loaded. Register it again."
        ) from error
    return loaded


def _warm_up(loaded: LoadedVersion, *, max_rows: int) -> bool:
    """Run the graph at the sizes that it will meet, since first runs allocate; return whether it is row-wise."""
    import numpy as np

    loaded.score(loaded.golden["columns"])
    tensors = loaded.encoding.encode({name: values[:WARM_ROWS] for name, values in loaded.golden["columns"].items()})
    categorical_BC, numeric_BN = (
        np.resize(tensor, (min(WARM_ROWS, max_rows), tensor.shape[1])) if len(tensor) else tensor for tensor in tensors
    )
    return has_equal_rows(loaded.session, loaded.task.output, categorical_BC, numeric_BN)


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
