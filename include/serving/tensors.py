"""Tensors of a request as JSON brings them, and whether a model's input allows their values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec

from include.serving import binary

EXAMPLE_ID = "example_id"
MAX_ID_CHARS = 256
FLOAT32_MAX = 3.4028234663852886e38

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_CHARS)]


class InputParameters(msgspec.Struct):
    """Of one input: the length of its values after the JSON, None: they are in it."""

    binary_data_size: Annotated[int, msgspec.Meta(ge=0)] | None = None


class Tensor(msgspec.Struct):
    """One input."""

    name: str
    datatype: str
    shape: list[int]
    data: list[str | float | bool | None] | None = None
    parameters: InputParameters | None = None


class OutputParameters(msgspec.Struct):
    """How an output is wanted; the last two are not served."""

    binary_data: bool | None = None
    classification: Any = None
    shared_memory_region: Any = None


class Output(msgspec.Struct):
    """One output that is wanted."""

    name: str
    parameters: OutputParameters | None = None


class Parameters(msgspec.Struct):
    """Of the request; others than these are nobody's business here."""

    sticky_key: Text | None = None
    binary_data_output: bool = False


class Body(msgspec.Struct):
    """A request's JSON."""

    inputs: Annotated[list[Tensor], msgspec.Meta(min_length=1)]
    id: Text | None = None
    outputs: list[Output] | None = None
    parameters: Parameters | None = None


DECODER = msgspec.json.Decoder(Body)
NO_PARAMETERS = Parameters()


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """One tensor that a request must bring."""

    name: str
    kind: Literal["categorical", "numeric", "entity"]
    nullable: bool

    @property
    def datatype(self) -> str:
        """Its datatype in the protocol's words."""
        return "FP64" if self.kind == "numeric" else binary.STRINGS


_ALL_STRINGS, _ALL_FLOATS = {str}, {float}
_FLOAT_DATATYPES = ("FP64", "FP32", "FP16")
_EXAMPLE_IDS = InputSpec(name=EXAMPLE_ID, kind="entity", nullable=False)


def values_of(tensor: Tensor, declared: InputSpec) -> list[Any]:
    """Return a tensor's values.

    Raises:
        ValueError: They are not what the input allows; the message is the rest of a sentence on the request.
    """
    data: list[Any] = tensor.data or []
    kinds = {*map(type, data)}
    if declared.kind != "numeric":
        if kinds == _ALL_STRINGS and tensor.datatype == binary.STRINGS:
            return data
    elif (
        kinds == _ALL_FLOATS
        and tensor.datatype in _FLOAT_DATATYPES
        and min(data) >= -FLOAT32_MAX
        and max(data) <= FLOAT32_MAX
    ):
        return data
    return _less_usual_values(tensor, declared, data)


def _less_usual_values(tensor: Tensor, declared: InputSpec, data: list[Any]) -> list[Any]:
    wanted: type = float if declared.kind == "numeric" else str
    is_of_kind = tensor.datatype in binary.FORMATS if wanted is float else tensor.datatype == binary.STRINGS
    if tensor.datatype == "BOOL" and {*map(type, data)} <= {bool, type(None)}:
        data = [None if value is None else float(value) for value in data]
    kinds = {*map(type, data)}
    if type(None) in kinds:
        if not declared.nullable:
            raise ValueError(f"needs a value in every row of {declared.name!r}; got {data.count(None)} null")
        kinds.discard(type(None))
        if not kinds:  # callers guess the datatype from values, and there are none
            return data
    if not is_of_kind:
        allowed = " or ".join(binary.FORMATS) if wanted is float else binary.STRINGS
        raise ValueError(f"needs {declared.name!r} with datatype {allowed}; got {tensor.datatype[:32]!r}")
    if kinds != {wanted}:
        kind = "numbers" if wanted is float else "strings"
        raise ValueError(f"needs {kind} in {declared.name!r}, whose datatype is {tensor.datatype}; got others")
    if wanted is float:
        _require_numbers(declared.name, tensor.datatype, data)
    return data


def _require_numbers(name: str, datatype: str, data: list[Any]) -> None:
    numbers = [value for value in data if value is not None] if None in data else data
    if not (min(numbers) >= -FLOAT32_MAX and max(numbers) <= FLOAT32_MAX):
        raise ValueError(f"needs numbers within float32 in {name!r}; got larger ones")
    if "INT" in datatype and not all(map(float.is_integer, numbers)):
        raise ValueError(f"needs whole numbers in {name!r}, whose datatype is {datatype}")


def example_ids_of(tensor: Tensor) -> list[str]:
    """Return the names of the rows.

    Raises:
        ValueError: One is missing, or there twice.
    """
    example_ids: list[str] = values_of(tensor, _EXAMPLE_IDS)
    if len(set(example_ids)) != len(example_ids):
        raise ValueError("needs a different example_id in every row; got one twice")
    return example_ids
