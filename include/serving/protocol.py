"""Requests and answers of the Open Inference Protocol v2, checked strictly against a model's spec.

Shape suffixes: B rows, K classes (absent where a row has one number).
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from include.errors import BadInputError
from include.tasks import task_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from include.spec import ModelSpec
    from include.tasks import Task

EXAMPLE_ID = "example_id"
NUMERIC_DATATYPES = ("FP32", "FP64", "INT64", "INT32")
MAX_ID_CHARS = 256
FLOAT32_MAX = 3.4028234663852886e38
REMEDY = "Nothing was scored. GET /v2/models/{model} says what to send."


class _Tensor(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]
    data: list[str | float | None]


class _Body(msgspec.Struct):
    inputs: list[_Tensor]
    id: str | None = None
    parameters: dict[str, Any] = {}


_DECODER = msgspec.json.Decoder(_Body)


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """One tensor that a request must bring."""

    name: str
    kind: Literal["categorical", "numeric", "entity"]
    nullable: bool

    @property
    def datatype(self) -> str:
        """Its datatype in the protocol's words."""
        return "FP64" if self.kind == "numeric" else "BYTES"


@dataclass(frozen=True, kw_only=True)
class InferRequest:
    """A request that was checked: every column has B values that its input allows.

    Args:
        request_id: The caller's id, None when it sent none.
        sticky_key: What keeps a caller on one version, None when it sent none.
        example_ids: Names of the rows, for joining labels later; None when not sent.
        columns: Input -> B values; strings, or floats with None for missing.
        num_rows: B.
    """

    request_id: str | None
    sticky_key: str | None
    example_ids: Sequence[str] | None
    columns: Mapping[str, list[Any]]
    num_rows: int


@dataclass(frozen=True, kw_only=True)
class RequestReader:
    """Reads the requests of one model.

    Args:
        model: The model's name, for messages.
        task: What it predicts.
        inputs: The tensors it needs, by name.
        max_rows: Most rows a request may have.
    """

    model: str
    task: Task
    inputs: Mapping[str, InputSpec]
    max_rows: int

    @classmethod
    def of(cls, spec: ModelSpec, *, max_rows: int) -> RequestReader:
        """Return the reader for a model: its request features, and the entities of its store features."""
        inputs = {f.name: InputSpec(name=f.name, kind=f.kind, nullable=f.nullable) for f in spec.features.request}
        for entity in spec.features.entities:
            inputs.setdefault(entity, InputSpec(name=entity, kind="entity", nullable=True))
        return cls(model=spec.name, task=task_of(spec), inputs=inputs, max_rows=max_rows)

    @cached_property
    def strings(self) -> frozenset[str]:
        """Names of the inputs that are strings."""
        return frozenset(name for name, declared in self.inputs.items() if declared.kind != "numeric")

    @property
    def input_kinds(self) -> dict[str, str]:
        """Input of a request -> categorical, numeric or entity."""
        return {name: declared.kind for name, declared in self.inputs.items()}

    @cached_property
    def output(self) -> dict[str, tuple[str, ...]]:
        """Name of what is answered -> order of its classes."""
        return {self.task.output: self.task.classes}

    def read(self, body: bytes) -> InferRequest:
        """Return the checked request.

        Raises:
            BadInputError: Not JSON (NaN and Infinity are not), or a name, shape, datatype or value is not allowed.
        """
        try:
            decoded = _DECODER.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._refuse(f"must be JSON of the Open Inference Protocol v2; got: {error}") from error
        tensors = self._by_name(decoded.inputs)
        num_rows = self._num_rows(decoded.inputs)
        example_ids = self._example_ids(tensors.pop(EXAMPLE_ID, None), num_rows)
        columns = {name: self._values(tensors[name], declared, num_rows) for name, declared in self.inputs.items()}
        return InferRequest(
            request_id=self._text("id", decoded.id),
            sticky_key=self._text("sticky_key", decoded.parameters.get("sticky_key")),
            example_ids=example_ids,
            columns=columns,
            num_rows=num_rows,
        )

    def _by_name(self, inputs: list[_Tensor]) -> dict[str, _Tensor]:
        tensors = {tensor.name: tensor for tensor in inputs}
        if len(tensors) != len(inputs):
            raise self._refuse("must name each input once; got one twice")
        for name in tensors:
            if name not in self.inputs and name != EXAMPLE_ID:
                close = difflib.get_close_matches(name, self.inputs, n=1)
                hint = f" (did you mean {close[0]!r}?)" if close else ""
                raise self._refuse(f"allows the inputs {', '.join(self.inputs)}; got {name[:64]!r}{hint}")
        if missing := [name for name in self.inputs if name not in tensors]:
            raise self._refuse(f"needs the inputs {', '.join(self.inputs)}; got none named {', '.join(missing)}")
        return tensors

    def _num_rows(self, inputs: list[_Tensor]) -> int:
        first = inputs[0]
        for tensor in inputs:
            if len(tensor.shape) != 1 or tensor.shape != first.shape or len(tensor.data) != tensor.shape[0]:
                raise self._refuse(
                    f"needs inputs of one shape [rows] with as many values; got {tensor.name!r} with shape "
                    f"{tensor.shape[:8]} and {len(tensor.data)} values, {first.name!r} with shape {first.shape[:8]}"
                )
        num_rows = first.shape[0]
        if not 1 <= num_rows <= self.max_rows:
            raise self._refuse(f"must have 1 to {self.max_rows} rows; got {num_rows}")
        return num_rows

    def _values(self, tensor: _Tensor, declared: InputSpec, num_rows: int) -> list[Any]:
        num_nulls = tensor.data.count(None)
        if num_nulls and not declared.nullable:
            raise self._refuse(f"needs a value in every row of {declared.name!r}; got {num_nulls} null")
        if num_nulls == num_rows:  # callers guess the datatype from values, and there are none
            return tensor.data
        allowed = NUMERIC_DATATYPES if declared.kind == "numeric" else ("BYTES",)
        if tensor.datatype not in allowed:
            raise self._refuse(
                f"needs {declared.name!r} with datatype {' or '.join(allowed)}; got {tensor.datatype[:32]!r}"
            )
        wanted = float if declared.kind == "numeric" else str
        if sum(type(value) is wanted for value in tensor.data) + num_nulls != num_rows:
            kind = "numbers" if wanted is float else "strings"
            raise self._refuse(f"needs {kind} in {declared.name!r}, whose datatype is {tensor.datatype}; got others")
        if wanted is float:
            self._require_numbers(tensor)
        return tensor.data

    def _require_numbers(self, tensor: _Tensor) -> None:
        numbers: list[Any] = [value for value in tensor.data if value is not None]
        if numbers and not (min(numbers) >= -FLOAT32_MAX and max(numbers) <= FLOAT32_MAX):
            raise self._refuse(f"needs numbers within float32 in {tensor.name!r}; got larger ones")
        if tensor.datatype.startswith("INT") and not all(number.is_integer() for number in numbers):
            raise self._refuse(f"needs whole numbers in {tensor.name!r}, whose datatype is {tensor.datatype}")

    def _example_ids(self, tensor: _Tensor | None, num_rows: int) -> list[str] | None:
        if tensor is None:
            return None
        declared = InputSpec(name=EXAMPLE_ID, kind="entity", nullable=False)
        example_ids: list[str] = self._values(tensor, declared, num_rows)
        if len(set(example_ids)) != num_rows:
            raise self._refuse("needs a different example_id in every row; got one twice")
        return example_ids

    def _text(self, name: str, value: Any) -> str | None:
        if value is None or (isinstance(value, str) and 0 < len(value) <= MAX_ID_CHARS):
            return value
        raise self._refuse(f"needs a {name!r} of 1 to {MAX_ID_CHARS} characters, or none; got {str(value)[:32]!r}")

    def _refuse(self, what: str) -> BadInputError:
        return BadInputError(f"a request to model {self.model!r} {what}. {REMEDY.format(model=self.model)}")


def answer(*, task: Task, model: str, version: str, request_id: str, predicted_BK: Sequence[Any]) -> bytes:
    """Return the body of a good answer; the probabilities of several classes row by row in one list."""
    num_rows = len(predicted_BK)
    data = list(chain.from_iterable(predicted_BK)) if task.classes else predicted_BK
    output = _output(task, num_rows=num_rows) | {"data": data}
    return msgspec.json.encode({"model_name": model, "model_version": version, "id": request_id, "outputs": [output]})


def metadata(reader: RequestReader, *, versions: Sequence[str]) -> dict[str, Any]:
    """Return what `GET /v2/models/{model}` answers."""
    inputs = [{"name": i.name, "datatype": i.datatype, "shape": [-1]} for i in reader.inputs.values()]
    optional = {"name": EXAMPLE_ID, "datatype": "BYTES", "shape": [-1], "parameters": {"optional": True}}
    return {
        "name": reader.model,
        "versions": list(versions),
        "platform": "onnxruntime_onnx",
        "inputs": [*inputs, optional],
        "outputs": [_output(reader.task, num_rows=-1)],
    }


def _output(task: Task, *, num_rows: int) -> dict[str, Any]:
    """Return name, type and shape of what is answered; for several classes also their order."""
    named: dict[str, Any] = {"name": task.output, "datatype": "FP32", "shape": [num_rows]}
    if task.classes:
        named |= {"shape": [num_rows, len(task.classes)], "parameters": {"classes": list(task.classes)}}
    return named
