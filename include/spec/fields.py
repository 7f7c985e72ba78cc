"""What the sections of model.yaml are made of."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from include.errors import PartitionError
from include.partitions import EXAMPLES, grain_of


def _in_the_calendar(key: str) -> str:
    try:
        grain_of(key)
    except PartitionError as error:
        raise ValueError(f"must be in the calendar, as {', '.join(EXAMPLES.values())} are") from error
    return key


ColumnType = Literal["int64", "float64", "string", "timestamp", "bool"]
Kind = Literal["categorical", "numeric"]
Frac = Annotated[float, Field(ge=0, le=1)]
Identifier = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
PartitionKey = Annotated[str, Field(pattern=r"^\d{4}-(W\d\d|\d\d(-\d\d(T\d\d)?)?)$"), AfterValidator(_in_the_calendar)]
"""A month, an ISO week, a day or an hour of UTC; see `include.partitions`."""


class Frozen(BaseModel):
    """A section: it never changes, knows all its keys, and takes no text for a number."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
