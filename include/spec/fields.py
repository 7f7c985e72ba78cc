"""What the sections of model.yaml are made of."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

ColumnType = Literal["int64", "float64", "string", "timestamp", "bool"]
Kind = Literal["categorical", "numeric"]
Frac = Annotated[float, Field(ge=0, le=1)]
Identifier = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
PartitionKey = Annotated[str, Field(pattern=r"^\d{4}-(0[1-9]|1[0-2])$")]


class Frozen(BaseModel):
    """A section: it never changes, knows all its keys, and takes no text for a number."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
