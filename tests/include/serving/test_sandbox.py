"""Versions that would take the server down, or be absurd to serve, never get into it."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from include.errors import BadInputError, CorruptArtifactError, GateError
from include.serving.sandbox import SandboxLimits, try_out
from include.serving.versions import read_registered
from tests.running import RunningModelServer
from tests.tiny_models import SPEC, request_columns, tiny_package

if TYPE_CHECKING:
    from include.registry.package import Package

MODEL = "flight_delays"
TIGHT = SandboxLimits(memory_gib=1, cpu_s=2, wall_s=60)

NODES: dict[str, tuple[dict[str, Any], list[Any]]] = {
    # The quotient does not fit into 64 bits, and the processor traps.
    "crashes": (
        {"least": np.int64(-(2**63)), "minus_one": np.int64(-1)},
        [
            helper.make_node("Sub", ["categorical", "categorical"], ["zeros"]),
            helper.make_node("Add", ["zeros", "least"], ["least_of_all"]),
            helper.make_node("Div", ["least_of_all", "minus_one"], ["wild"]),
        ],
    ),
    "eats memory": (
        {"size": np.array([1 << 33], dtype=np.int64)},
        [
            helper.make_node("ConstantOfShape", ["size"], ["ones"]),
            helper.make_node("ReduceSum", ["ones"], ["wild"]),
        ],
    ),
    "asks for another input": ({}, [helper.make_node("Identity", ["numeric"], ["wild"])]),
    "answers another shape": ({}, [helper.make_node("Concat", ["numeric", "numeric"], ["wild"], axis=0)]),
}


def endless_loop() -> tuple[dict[str, Any], list[Any]]:
    scalar = [helper.make_tensor_value_info(name, TensorProto.FLOAT, []) for name in ("before", "after")]
    truth = [helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in ("go_on", "goes_on")]
    body = helper.make_graph(
        [helper.make_node("Identity", ["go_on"], ["goes_on"]), helper.make_node("Cos", ["before"], ["after"])],
        "body",
        [helper.make_tensor_value_info("n", TensorProto.INT64, []), truth[0], scalar[0]],
        [truth[1], scalar[1]],
    )
    constants = {"most": np.int64(1 << 62), "yes": np.bool_(True), "start": np.float32(1)}
    return constants, [helper.make_node("Loop", ["most", "yes", "start"], ["wild"], body=body)]


def graph(kind: str) -> bytes:
    """Return the mean of `wild`, which a few nodes compute, added to the mean of each row: a number for each row."""
    constants, nodes = endless_loop() if kind == "hangs" else NODES[kind]
    categorical, numeric = len(SPEC.features.categorical), len(SPEC.features.numeric)
    common = [
        helper.make_node("Cast", ["wild"], ["wild_float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["wild_float"], ["wild_mean"], keepdims=0),
        helper.make_node("ReduceMean", ["numeric", "rows"], ["row_mean"], keepdims=0),
        helper.make_node("Add", ["row_mean", "wild_mean"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["probability"]),
    ]
    if kind == "answers another shape":
        common = [
            helper.make_node("ReduceMean", ["wild", "rows"], ["logit"], keepdims=0),
            helper.make_node("Sigmoid", ["logit"], ["probability"]),
        ]
    named = {**constants, "rows": np.array([1], dtype=np.int64)}
    made = helper.make_graph(
        [*nodes, *common],
        "wild",
        [
            helper.make_tensor_value_info(
                "strings" if kind == "asks for another input" else "categorical", TensorProto.INT64, ["B", categorical]
            ),
            helper.make_tensor_value_info("numeric", TensorProto.FLOAT, ["B", numeric]),
        ],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["A"])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in named.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(model.SerializeToString())


def package(folder: Path, kind: str = "", **how: Any) -> Package:
    replaced = {"model.onnx": graph(kind)} if kind else {}
    made = tiny_package(folder, replaced=replaced, **how)
    return read_registered(model=MODEL, version="2", uri=made.uri, digest=made.digest)


def tried(folder: Path, kind: str = "", *, limits: SandboxLimits = TIGHT, champion_ms: Any = None, **how: Any) -> Any:
    return try_out(package(folder, kind, **how), spec=SPEC, version="2", limits=limits, champion_ms=champion_ms)


def test_a_good_version_passes_and_is_timed(tmp_path: Path) -> None:
    found = tried(tmp_path)
    assert (found["passed"], found["num_rows"]) == (True, 20)
    assert 0 < found["latency_median_ms"] <= found["latency_p95_ms"]


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("crashes", "it crashed with SIGFPE"),
        ("eats memory", "it needed more memory: "),
        ("answers another shape", "must answer .*got"),
        (
            "asks for another input",
            "must hold a graph .* golden rows that run; got .*categorical",
        ),
    ],
)
def test_a_graph_that_misbehaves_is_refused_with_the_reason(tmp_path: Path, kind: str, what: str) -> None:
    with pytest.raises(CorruptArtifactError, match=what):
        tried(tmp_path, kind)


def test_a_child_that_does_not_answer_in_time_is_ended(tmp_path: Path) -> None:
    limits = SandboxLimits(memory_gib=1, cpu_s=60, wall_s=0.01)
    with pytest.raises(CorruptArtifactError, match=r"it hung: no answer after 0.01 s"):
        tried(tmp_path, limits=limits)


def test_scores_that_differ_from_the_recorded_ones_are_refused(tmp_path: Path) -> None:
    with pytest.raises(GateError, match=r"must be within 0.001 of the recorded scores; got 0.01 over 20 rows"):
        tried(tmp_path, golden_error=0.01)


@pytest.mark.parametrize(("champion_ms", "is_absurd"), [(None, False), (1e-3, True), (1e6, False)])
def test_a_version_that_is_absurdly_slow_beside_the_champion_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, champion_ms: float | None, *, is_absurd: bool
) -> None:
    monkeypatch.setattr("include.serving.sandbox.ABSURD_LATENCY_MS", 0.0)
    if is_absurd:
        with pytest.raises(GateError, match=r"must take at most 0.01 ms \(champion 0.001 ms\); got .* in the median"):
            tried(tmp_path, champion_ms=champion_ms)
    else:
        tried(tmp_path, champion_ms=champion_ms)


def test_the_errors_of_a_package_arrive_as_they_are(tmp_path: Path) -> None:
    other = tiny_package(tmp_path, replaced={"encoding.json": b'{"vocabulary": {}, "numeric": ["distance"]}'})
    read = read_registered(model=MODEL, version="2", uri=other.uri, digest=other.digest)
    with pytest.raises(BadInputError, match="must be trained on the inputs that"):
        try_out(read, spec=SPEC, version="2", limits=TIGHT)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from include.lake.storage import Storage

    folder = tmp_path_factory.mktemp("sandboxed")
    running = RunningModelServer(
        folder=folder, storage=Storage(root=str(folder / "data")), arguments=("--sandbox-cpu-s", "3")
    )
    running.reset()
    good = tiny_package(folder / "good")
    running.client.load(model=MODEL, version="1", uri=good.uri, digest=good.digest)
    running.client.set_routes(model=MODEL, champion="1")
    yield running
    running.stop()


def load(server: RunningModelServer, version: str, made: Package) -> None:
    server.client.load(model=MODEL, version=version, uri=made.uri, digest=made.digest)


@pytest.mark.parametrize("kind", ["crashes", "eats memory", "answers another shape"])
def test_the_server_goes_on_serving_what_it_served(server: RunningModelServer, tmp_path: Path, kind: str) -> None:
    process = server.process.pid if server.process else 0
    before = server.client.get_routes(model=MODEL)
    with pytest.raises(CorruptArtifactError, match="'flight_delays' v"):
        load(server, "2", package(tmp_path, kind))
    assert server.client.infer(model=MODEL, columns=request_columns(2))["model_version"] == "1"
    after = server.client.get_routes(model=MODEL)
    assert (after["routes"], after["versions"]) == (before["routes"], before["versions"])
    assert server.process is not None
    assert (server.process.pid, server.process.poll()) == (process, None)


def test_while_a_version_hangs_callers_are_answered_and_routes_change(
    server: RunningModelServer, tmp_path: Path
) -> None:
    other = tiny_package(tmp_path / "other", bias=-0.7)
    load(server, "3", read_registered(model=MODEL, version="3", uri=other.uri, digest=other.digest))
    refused: list[Exception] = []

    def load_hanging() -> None:
        try:
            load(server, "2", package(tmp_path / "hanging", "hangs"))
        except CorruptArtifactError as error:
            refused.append(error)

    hanging = threading.Thread(target=load_hanging)
    hanging.start()
    while not sandboxes_of(server):
        assert hanging.is_alive()
        time.sleep(0.01)
    server.client.set_routes(model=MODEL, champion="3")
    assert server.client.infer(model=MODEL, columns=request_columns(2))["model_version"] == "3"
    server.client.set_routes(model=MODEL, champion="1")
    assert sandboxes_of(server), "the version that hangs was given up before anything else was asked"
    hanging.join(60)
    assert "it hung: it still ran after 3 s" in str(refused[0])
    assert not sandboxes_of(server)


def test_a_digest_that_passed_is_not_tried_again(server: RunningModelServer, tmp_path: Path) -> None:
    made = package(tmp_path, bias=-0.3)
    started = time.perf_counter()
    load(server, "4", made)
    first_s = time.perf_counter() - started
    seconds = []
    for version in ("5", "6", "7"):
        started = time.perf_counter()
        load(server, version, made)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < first_s / 2  # most of which was the child's start


def sandboxes_of(server: RunningModelServer) -> list[str]:
    assert server.process is not None
    tasks = Path(f"/proc/{server.process.pid}/task").iterdir()
    children = [child for task in tasks for child in (task / "children").read_text().split()]
    return [child for child in children if "include.serving.sandbox" in command_of(child)]


def command_of(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except FileNotFoundError:  # it ended meanwhile
        return ""
