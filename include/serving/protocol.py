"""Requests and answers of the Open Inference Protocol v2, checked strictly against a model's spec.

Shape suffixes: B rows, K classes (absent where a row has one number).
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from include.errors import BadInputError
from include.serving import binary
from include.serving.tensors import DECODER, EXAMPLE_ID, NO_PARAMETERS, InputSpec, example_ids_of, values_of
from include.tasks import task_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from include.serving.tensors import Output, Parameters, Tensor
    from include.spec import ModelSpec
    from include.tasks import Task

MAX_PROBLEMS = 8
"""Most names of inputs that no model has which a refusal repeats."""
REMEDY = "Nothing was scored. GET /v2/models/{model} says what to send."


@dataclass(frozen=True, kw_only=True)
class InferRequest:
    """A request that was checked: every column has B values that its input allows.

    Args:
        request_id: The caller's id, None when it sent none.
        sticky_key: What keeps a caller on one version, None when it sent none.
        example_ids: Names of the rows, for joining labels later; None when not sent.
        columns: Input -> B values; strings, or floats with None for missing.
        num_rows: B.
        wants_binary: Whether the answer's numbers are to follow its JSON as bytes.
    """

    request_id: str | None
    sticky_key: str | None
    example_ids: Sequence[str] | None
    columns: Mapping[str, list[Any]]
    num_rows: int
    wants_binary: bool = False


class RequestError(BadInputError):
    """A request that cannot be answered; `fields` says of each field that is to blame what it must be."""

    def __init__(self, message: str, fields: Mapping[str, str]) -> None:
        super().__init__(message)
        self.fields = fields


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

    def read(self, body: bytes, *, json_bytes: int | None = None) -> InferRequest:
        """Return the checked request.

        Args:
            body: The request: JSON, and after it the binary tensors, if any.
            json_bytes: Length of the JSON, None: all of the body.

        Raises:
            RequestError: Not JSON (NaN and Infinity are not), or a name, shape, datatype or value is not allowed.
        """
        try:
            decoded = DECODER.decode(body if json_bytes is None else body[:json_bytes])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            reason, _, path = str(error).partition(" - at `$")
            field = path.strip(".`") or "body"
            what = f"must be JSON of the Open Inference Protocol v2; got: {reason} in {field}"
            raise self._refuse({field: what}) from error
        if json_bytes is not None:
            self._decode_binary(decoded.inputs, body, json_bytes)
        tensors = self._by_name(decoded.inputs)
        num_rows = self._num_rows(decoded.inputs)
        ids = tensors.pop(EXAMPLE_ID, None)
        try:
            columns = {name: values_of(tensors[name], declared) for name, declared in self.inputs.items()}
            example_ids = None if ids is None else example_ids_of(ids)
        except ValueError as error:
            raise self._refuse(self._problems(tensors, ids)) from error
        parameters = decoded.parameters or NO_PARAMETERS
        return InferRequest(
            request_id=decoded.id,
            sticky_key=parameters.sticky_key,
            example_ids=example_ids,
            columns=columns,
            num_rows=num_rows,
            wants_binary=self._wants_binary(decoded.outputs, parameters),
        )

    def _decode_binary(self, inputs: list[Tensor], body: bytes, json_bytes: int) -> None:
        """Replace the sizes of binary tensors by their values, as JSON would have brought them."""
        at = json_bytes
        for tensor in inputs:
            size = tensor.parameters.binary_data_size if tensor.parameters else None
            if size is None:
                continue
            what = ""
            if tensor.data is not None or at + size > len(body):
                what = f"must bring {size} bytes after the JSON and no data in it; got {max(0, len(body) - at)} bytes"
            elif len(tensor.shape) != 1 or not 0 <= tensor.shape[0] <= self.max_rows:
                what = f"must have shape [1 to {self.max_rows} rows]; got shape {tensor.shape[:8]}"
            else:
                try:
                    tensor.data = binary.decode(
                        body[at : at + size], datatype=tensor.datatype, num_values=tensor.shape[0]
                    )
                except ValueError as error:
                    what = str(error)
            if what:
                raise self._refuse({tensor.name[:64]: f"with binary tensor {tensor.name[:64]!r}, which {what}"})
            at += size
        if at != len(body):
            raise self._refuse({"body": f"must name every binary tensor's size; got {len(body) - at} bytes more"})

    def _by_name(self, inputs: list[Tensor]) -> dict[str, Tensor]:
        tensors = {tensor.name: tensor for tensor in inputs}
        if len(tensors) != len(inputs):
            raise self._refuse({"inputs": "must name each input once; got one twice"})
        if tensors.keys() - {EXAMPLE_ID} == self.inputs.keys():
            return tensors
        listed = ", ".join(self.inputs)
        problems: dict[str, str] = {}
        for name in tensors:
            if name not in self.inputs and name != EXAMPLE_ID and len(problems) < MAX_PROBLEMS:
                close = difflib.get_close_matches(name[:64], self.inputs, n=1)
                hint = f" (did you mean {close[0]!r}?)" if close else ""
                problems[name[:64]] = f"allows the inputs {listed}; got {name[:64]!r}{hint}"
        if missing := [name for name in self.inputs if name not in tensors]:
            what = f"needs the inputs {listed}; got none named {', '.join(missing)}"
            problems |= dict.fromkeys(missing, what)
        raise self._refuse(problems)

    def _num_rows(self, inputs: list[Tensor]) -> int:
        first = inputs[0]
        wanted = first.shape
        problems: dict[str, str] = {}
        for tensor in inputs:
            found = -1 if tensor.data is None else len(tensor.data)
            if len(wanted) != 1 or tensor.shape != wanted or found != wanted[0]:
                number = "no" if found < 0 else found
                problems[tensor.name] = (
                    f"needs inputs of one shape [rows] with as many values; got {tensor.name!r} with shape "
                    f"{tensor.shape[:8]} and {number} values, {first.name!r} with shape {wanted[:8]}"
                )
        if problems:
            raise self._refuse(problems)
        num_rows = wanted[0]
        if not 1 <= num_rows <= self.max_rows:
            raise self._refuse({"inputs": f"must have 1 to {self.max_rows} rows; got {num_rows}"})
        return num_rows

    def _wants_binary(self, outputs: list[Output] | None, parameters: Parameters) -> bool:
        if not outputs:
            return parameters.binary_data_output
        (name,) = self.output
        if len(outputs) != 1 or outputs[0].name != name:
            asked = ", ".join(repr(output.name[:64]) for output in outputs[:8])
            raise self._refuse({"outputs": f"may ask for the output {name!r} once; got {asked}"})
        wanted = outputs[0].parameters
        if wanted is None:
            return parameters.binary_data_output
        if wanted.classification is not None or wanted.shared_memory_region is not None:
            raise self._refuse({"outputs": "may ask for binary_data; got classification or shared memory"})
        return parameters.binary_data_output if wanted.binary_data is None else wanted.binary_data

    def _problems(self, tensors: Mapping[str, Tensor], ids: Tensor | None) -> dict[str, str]:
        """Return what is wrong with each field; the slow way, for requests that are refused anyway."""
        problems: dict[str, str] = {}
        for name, declared in self.inputs.items():
            try:
                values_of(tensors[name], declared)
            except ValueError as error:
                problems[name] = str(error)
        try:
            if ids is not None:
                example_ids_of(ids)
        except ValueError as error:
            problems[EXAMPLE_ID] = str(error)
        return problems

    def _refuse(self, fields: Mapping[str, str]) -> RequestError:
        what = "; it ".join(dict.fromkeys(fields.values()))
        return RequestError(f"a request to model {self.model!r} {what}. {REMEDY.format(model=self.model)}", fields)


class Answer(NamedTuple):
    """The body of a good answer; `json_bytes` is the length of its JSON where numbers follow as bytes, else None."""

    body: bytes
    json_bytes: int | None


def answer(
    *,
    task: Task,
    model: str,
    version: str,
    request_id: str,
    predicted_BK: Sequence[Any],
    is_binary: bool = False,
) -> Answer:
    """Return a good answer; the probabilities of several classes row by row in one list."""
    data = list(chain.from_iterable(predicted_BK)) if task.classes else predicted_BK
    output = _output(task, num_rows=len(predicted_BK))
    found = {"model_name": model, "model_version": version, "id": request_id, "outputs": [output]}
    if not is_binary:
        output["data"] = data
        return Answer(msgspec.json.encode(found), None)
    raw = binary.encode(data)
    output["parameters"] = {**output.get("parameters", {}), "binary_data_size": len(raw)}
    head = msgspec.json.encode(found)
    return Answer(head + raw, len(head))


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
