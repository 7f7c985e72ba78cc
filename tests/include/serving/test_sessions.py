"""What a graph runs on, and that answers do not depend on who else is answered."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from include.compression.quantize import quantize_int8
from include.errors import BadInputError, ServiceError, SetupError
from include.features.store import online_path
from include.serving.client import infer_body
from include.serving.features import FeatureLookup, UnreadableError
from include.serving.protocol import RequestReader
from include.serving.router import Routes
from include.serving.scoring import Asked, Scored, score_requests
from include.serving.served_model import ServedModel
from include.serving.sessions import CUDA, open_session
from include.serving.versions import LoadedVersion, open_package
from include.spec.serving import ServingSpec
from tests.tiny_models import FRAGILE_DISTANCE, SPEC, fill_online_store, request_columns, tiny_graph, tiny_package

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from include.lake.storage import Storage

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU with CUDA")
needs_no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")


@pytest.fixture
def open_version(tmp_path: Path) -> Callable[..., LoadedVersion]:
    def make(version: str = "1", *, serving: ServingSpec | None = None, **how: Any) -> LoadedVersion:
        spec = SPEC.model_copy(update={"serving": serving or SPEC.serving})
        return open_package(tiny_package(tmp_path / f"package-{version}", **how), spec, version)

    return make


def served(*versions: LoadedVersion, spec: Any = SPEC, **routes: Any) -> ServedModel:
    return ServedModel(
        spec=spec,
        reader=RequestReader.of(spec, max_rows=64),
        versions={loaded.version: loaded for loaded in versions},
        routes=Routes(champion="1", **routes),
    )


def body(first: int, num_rows: int = 1, **changes: Any) -> bytes:
    columns = {**request_columns(num_rows, first=first), **changes}
    return json.dumps(infer_body(columns=columns, request_id=f"r{first}")).encode()


def predictions(result: Any) -> list[float]:
    assert isinstance(result, Scored), result
    assert result.answer is not None
    return list(json.loads(result.answer.body)["outputs"][0]["data"])


@pytest.fixture
def lookup(storage: Storage) -> FeatureLookup:
    fill_online_store(storage, {"carrier_lateness": {"UA": (0.2, 90.0)}, "tail_lateness": {"N1": (0.5, 9.0)}})
    return FeatureLookup(storage=storage)


@pytest.mark.parametrize("is_int8", [False, True])
def test_neighbours_change_no_bit_of_an_answer(
    open_version: Callable[..., LoadedVersion], lookup: FeatureLookup, is_int8: bool
) -> None:
    how = {"replaced": {"model.onnx": quantize_int8(tiny_graph())}} if is_int8 else {}
    loaded = open_version(**how)
    assert loaded.is_row_wise is not is_int8
    # Temperatures of other scales: dynamic quantization would give the small ones another grid.
    asked = [Asked(body(n, 1 + n % 3, temp=[10.0 ** (n % 4)] * (1 + n % 3))) for n in range(24)]
    model = served(loaded)
    alone = [predictions(score_requests(model, lookup, [one])[0]) for one in asked]
    together = [predictions(found) for found in score_requests(model, lookup, asked)]
    assert together == alone


def test_dynamic_quantization_does_depend_on_neighbours(open_version: Callable[..., LoadedVersion]) -> None:
    loaded = open_version(replaced={"model.onnx": quantize_int8(tiny_graph())})
    categorical_BC, numeric_BN = loaded.encoding.encode(loaded.golden["columns"])
    numeric_BN = numeric_BN.copy()
    numeric_BN[0] *= 1e4
    both = loaded.session.run(None, {"categorical": categorical_BC, "numeric": numeric_BN})[0]
    last = loaded.session.run(None, {"categorical": categorical_BC[-1:], "numeric": numeric_BN[-1:]})[0]
    assert not np.array_equal(both[-1:], last)


def test_more_rows_than_a_batch_may_have_are_scored_in_several(
    open_version: Callable[..., LoadedVersion], lookup: FeatureLookup
) -> None:
    spec = SPEC.model_copy(update={"serving": ServingSpec(max_batch_rows=4)})
    asked = [Asked(body(n, num_rows)) for n, num_rows in enumerate((3, 1, 2, 9, 1))]
    found = score_requests(served(open_version(), spec=spec), lookup, asked)
    assert [len(predictions(result)) for result in found] == [3, 1, 2, 9, 1]


def test_one_bad_request_spoils_no_neighbour(open_version: Callable[..., LoadedVersion], lookup: FeatureLookup) -> None:
    model = served(open_version(is_fragile=True))
    long = [FRAGILE_DISTANCE + 1]
    asked = [Asked(body(0)), Asked(b"{"), Asked(body(2, distance=long)), Asked(body(3)), Asked(body(4), named="9")]
    results = score_requests(model, lookup, asked)
    assert predictions(results[0]) == predictions(score_requests(model, lookup, asked[:1])[0])
    assert isinstance(results[1], BadInputError)
    failed = results[2]
    assert isinstance(failed, Scored)
    assert failed.answer is None
    assert [outcome.predictions for outcome in failed.outcomes] == [None]
    assert predictions(results[3])
    assert "must be loaded to be named" in str(results[4])


def test_a_canary_that_fails_one_request_answers_the_others(
    open_version: Callable[..., LoadedVersion], lookup: FeatureLookup
) -> None:
    model = served(open_version("1"), open_version("2", is_fragile=True), canary="2", canary_share_pct=99.9)
    asked = [Asked(body(n, distance=[FRAGILE_DISTANCE + 1 if n == 1 else 5.0])) for n in range(3)]
    results = score_requests(model, lookup, asked)
    roles = [[o.role for o in result.outcomes] for result in results if isinstance(result, Scored)]
    assert roles == [["canary"], ["canary", "champion"], ["canary"]]


def test_a_store_that_is_missing_is_said_to_each(open_version: Callable[..., LoadedVersion], storage: Storage) -> None:
    lookup = FeatureLookup(storage=storage)
    results = score_requests(served(open_version()), lookup, [Asked(body(0)), Asked(b"{"), Asked(body(1))])
    assert [type(result) for result in results] == [ServiceError, type(results[1]), ServiceError]
    assert isinstance(results[1], BadInputError)


@dataclass(frozen=True, kw_only=True)
class FailingLookup(FeatureLookup):
    """Fails on rows of one tail, or on all of them; notes how many rows each question has."""

    error: Exception
    tail: str | None = None
    asked: list[int] = field(default_factory=list)

    def read(self, spec: Any, columns: Any) -> Any:
        self.asked.append(len(columns["tailnum"]))
        if self.tail is None or self.tail in columns["tailnum"]:
            raise self.error
        return super().read(spec, columns)


def test_a_store_that_does_not_answer_is_asked_once_for_all(
    open_version: Callable[..., LoadedVersion], storage: Storage
) -> None:
    lookup = FailingLookup(storage=storage, error=ServiceError("must answer within 5 s"))
    asked = [Asked(body(0)), Asked(b"{"), *(Asked(body(n)) for n in range(1, 63))]
    results = score_requests(served(open_version()), lookup, asked)
    assert lookup.asked == [63]
    assert [str(result) for number, result in enumerate(results) if number != 1] == ["must answer within 5 s"] * 63


@pytest.mark.parametrize("error", [UnreadableError("a value of N-odd cannot be read"), TypeError("unhashable")])
def test_a_value_that_cannot_be_had_fails_its_own_request_only(
    open_version: Callable[..., LoadedVersion], lookup: FeatureLookup, error: Exception
) -> None:
    failing = FailingLookup(storage=lookup.storage, error=error, tail="N-odd")
    asked = [Asked(body(0)), Asked(body(1, tailnum=["N-odd"])), Asked(body(2))]
    results = score_requests(served(open_version()), failing, asked)
    assert results[1] is error
    assert [len(predictions(results[number])) for number in (0, 2)] == [1, 1]
    assert failing.asked == [3, 1, 1, 1]


def test_what_a_store_cannot_read_is_said_as_such(storage: Storage) -> None:
    fill_online_store(storage, {})
    online_path(storage).write_bytes(b"no database at all")
    with pytest.raises(UnreadableError, match="must be an SQLite database"):
        FeatureLookup(storage=storage).read(SPEC, {entity: ["N1"] for entity in SPEC.features.entities})


def test_missing_store_features_get_the_declared_default_and_are_counted(
    open_version: Callable[..., LoadedVersion], lookup: FeatureLookup, storage: Storage
) -> None:
    views = {name: view.model_copy() for name, view in SPEC.features.store.items()}
    views["carrier_lateness"] = views["carrier_lateness"].model_copy(
        update={"defaults": {"carrier_late_frac_28d": 0.5}}
    )
    spec = SPEC.model_copy(update={"features": SPEC.features.model_copy(update={"store": views})})
    counted: list[tuple[str, str, int]] = []
    watched = FeatureLookup(storage=storage, on_default=lambda *what: counted.append(what))
    asked = [Asked(body(0, carrier=["UA"])), Asked(body(1, carrier=["never seen"])), Asked(body(2, carrier=["AA"]))]
    results = score_requests(served(open_version(), spec=spec), watched, asked)
    columns = [result.columns for result in results if isinstance(result, Scored)]
    assert [c["carrier_late_frac_28d"] for c in columns] == [[0.2], [0.5], [0.5]]
    assert [c["carrier_num_flights_28d"] for c in columns] == [[90.0], [None], [None]]
    assert counted == [(SPEC.name, "carrier_late_frac_28d", 2)]


@needs_no_cuda
def test_a_gpu_that_is_not_there_is_said_when_a_version_is_loaded(open_version: Callable[..., LoadedVersion]) -> None:
    with pytest.raises(SetupError, match=r"must run on a GPU, as serving.provider .* Nothing was loaded"):
        open_version(serving=ServingSpec(provider="cuda"))


@needs_no_cuda
def test_auto_falls_back_to_the_cpu_and_says_so(
    open_version: Callable[..., LoadedVersion], caplog: pytest.LogCaptureFixture
) -> None:
    loaded = open_version(serving=ServingSpec(provider="auto"))
    assert loaded.provider == "cpu"
    assert "runs on the CPU, as serving.provider auto allows" in caplog.text
    assert loaded.check_golden()["passed"]


@needs_cuda
@pytest.mark.parametrize("provider", ["cuda", "auto"])
def test_a_gpu_is_used_where_there_is_one(open_version: Callable[..., LoadedVersion], provider: Any) -> None:
    loaded = open_version(serving=ServingSpec(provider=provider))
    assert loaded.provider == "cuda"
    assert CUDA in loaded.session.get_providers()
    assert loaded.check_golden()["passed"]


def test_threads_are_as_the_spec_says() -> None:
    opened = open_session(tiny_graph(), serving=ServingSpec(intra_op_threads=2), named="g")
    assert opened.session.get_session_options().intra_op_num_threads == 2
    assert (opened.provider, opened.is_row_wise) == ("cpu", True)
