"""A graph whose weights lie in a file beside it is another model whenever the file is: no digest covers it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import AttributeProto, SparseTensorProto, TensorProto, helper, numpy_helper

from include.compression.graphs import open_graph
from include.errors import CorruptArtifactError
from include.serving.sandbox import SandboxLimits, try_out
from include.serving.sessions import open_session
from include.serving.versions import load_version, read_registered
from include.spec.serving import ServingSpec
from tests.tiny_models import SPEC, tiny_graph, tiny_package

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NUM = 2
OPSET = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
TRUTH = numpy_helper.from_array(np.array(1, dtype=bool), "truth")


def outside(path: str, *, name: str = "w", dims: tuple[int, ...] = (NUM,), kind: int = TensorProto.INT64) -> Any:
    tensor = TensorProto(name=name, data_type=kind, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": path, "offset": "0"}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def named(name: str) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.INT64, [NUM])


def model(nodes: list[Any], initializers: tuple[Any, ...] = (), functions: tuple[Any, ...] = ()) -> Any:
    made = helper.make_graph(nodes, "g", [], [named("y")], list(initializers))
    return helper.make_model(made, opset_imports=OPSET, ir_version=10, functions=functions)


def identity(initializer: Any) -> Any:
    return model([helper.make_node("Identity", ["w"], ["y"])], (initializer,))


def constant(path: str) -> Any:
    return helper.make_node("Constant", [], ["y"], value=outside(path))


def one_element_attribute(path: str) -> Any:
    size = numpy_helper.from_array(np.array([NUM], dtype=np.int64), "size")
    return model([helper.make_node("ConstantOfShape", ["size"], ["y"], value=outside(path, dims=(1,)))], (size,))


def sparse(path: str) -> Any:
    at = numpy_helper.from_array(np.arange(NUM, dtype=np.int64), "at")
    made = model([helper.make_node("Identity", ["w"], ["y"])])
    made.graph.sparse_initializer.append(SparseTensorProto(values=outside(path), indices=at, dims=[NUM]))
    return made


def branch(nodes: list[Any], initializers: tuple[Any, ...] = ()) -> Any:
    inner = helper.make_graph(nodes, "branch", [], [named("y")], list(initializers))
    return model([helper.make_node("If", ["truth"], ["y"], then_branch=inner, else_branch=inner)], (TRUTH,))


def function(node: Any, *, given: Any = None, **how: Any) -> Any:
    body = helper.make_function("own", "F", [], ["y"], [node], OPSET, **how)
    return model([helper.make_node("F", [], ["y"], domain="own", **({"v": given} if given else {}))], (), (body,))


def referring() -> Any:
    node = helper.make_node("Constant", [], ["y"])
    node.attribute.add(name="value", ref_attr_name="v", type=AttributeProto.TENSOR)
    return node


PLACES: dict[str, Callable[[str], Any]] = {
    "initializer": lambda path: identity(outside(path)),
    "constant": lambda path: model([constant(path)]),
    "attribute": one_element_attribute,
    "sparse initializer": sparse,
    "initializer of a branch": lambda path: branch([helper.make_node("Identity", ["w"], ["y"])], (outside(path),)),
    "constant of a branch": lambda path: branch([constant(path)]),
    "constant of a function": lambda path: function(constant(path)),
    "default of a function": lambda path: function(
        referring(), attribute_protos=[helper.make_attribute("v", outside(path))]
    ),
    "given to a function": lambda path: function(referring(), given=outside(path), attributes=["v"]),
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Be in a folder with files, as the server is."""
    folder = tmp_path / "here"
    (folder / "below").mkdir(parents=True)
    for place in (folder / "file", folder / "below" / "file", tmp_path / "file"):
        np.array([7, 7], dtype=np.int64).tofile(place)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("path", ["file", "below/file", "../here/file", "../file", "absolute"])
def test_no_tensor_of_a_graph_is_read_from_a_file(here: Path, place: str, path: str) -> None:
    graph = PLACES[place](str(here / "file") if path == "absolute" else path).SerializeToString()
    if path in {"file", "below/file"}:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        assert session.run(None, {})[0].tolist() == [7, 7], "onnxruntime itself reads it"
    with pytest.raises(CorruptArtifactError, match="must be ONNX that onnxruntime loads, with all its weights; got"):
        open_graph(graph)
    with pytest.raises(Exception, match="ONNXRuntimeError"):
        open_session(graph, serving=ServingSpec(), named="g")


def test_a_package_with_weights_elsewhere_is_refused_wherever_it_is_opened(here: Path) -> None:
    made = onnx.load_from_string(tiny_graph())
    weights = next(each for each in made.graph.initializer if each.name == "weights")
    numpy_helper.to_array(weights).tofile(here / "weights")
    moved = outside("weights", name="weights", dims=tuple(weights.dims), kind=TensorProto.FLOAT)
    weights.CopyFrom(moved)
    package = tiny_package(here / "package", replaced={"model.onnx": made.SerializeToString()})
    given = {"version": "2", "uri": package.uri, "digest": package.digest}
    wanted = r"must hold a graph with all its weights, and golden rows that run; got .*Nothing was loaded"
    with pytest.raises(CorruptArtifactError, match=wanted):
        load_version(spec=SPEC, **given)
    with pytest.raises(CorruptArtifactError, match=wanted):
        try_out(read_registered(model=SPEC.name, **given), spec=SPEC, version="2", limits=SandboxLimits())
