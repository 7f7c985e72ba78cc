"""`source`: where a model's rows come from, and when."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from include.spec.errors import nearest
from include.spec.fields import ColumnType, Frozen, Identifier, PartitionKey


class TableSpec(Frozen):
    """One file of a landed partition and the Delta table that it becomes."""

    file: str = Field(description="File name inside the partition's landing folder; CSV, optionally .gz.")
    null_values: tuple[str, ...] = Field(default=("",), strict=False, description="Texts that mean: no value.")
    primary_key: tuple[str, ...] = Field(min_length=1, strict=False, description="Columns that name a row.")
    columns: dict[str, ColumnType] = Field(min_length=1, description="Every column of the file, with its type.")
    partition_columns: tuple[str, ...] = Field(
        default=(), max_length=2, strict=False, description="Columns of a row's year and month; none: not checked."
    )

    @model_validator(mode="after")
    def _keys_exist(self) -> TableSpec:
        for key, names in (("primary_key", self.primary_key), ("partition_columns", self.partition_columns)):
            for name in names:
                if name not in self.columns:
                    raise ValueError(f"{key} names {name!r}, which is no column; {nearest(name, list(self.columns))}")
        if [self.columns[name] for name in self.partition_columns] not in ([], ["int64", "int64"]):
            raise ValueError(
                f"partition_columns must name the int64 columns of the year and of the month; got "
                f"{list(self.partition_columns)}"
            )
        return self


class SourceSpec(Frozen):
    """Where the model's rows come from and when."""

    cron: str = Field(default="0 0 1 * *", description="When a partition is complete, in UTC.")
    timezone: str = Field(description="Zone in which a partition starts and ends, for example America/New_York.")
    first_partition: PartitionKey
    last_partition: PartitionKey | None = Field(default=None, description="Last partition, when the source ends.")
    clock: Literal["wall", "replay"] = Field(
        default="wall",
        description="wall: a materialization is available once published. replay: history is run again, and a "
        "materialization is available `availability_delay_s` after its partition ended.",
    )
    availability_delay_s: int = Field(default=0, ge=0, description="Seconds from a partition's end to its features.")
    marker: str = Field(default="_SUCCESS", description="File that is written last by whoever lands a partition.")
    poke_interval_s: float = Field(default=60, gt=0)
    wait_timeout_s: int = Field(default=7 * 86400, gt=0, description="Seconds to wait for a partition's marker.")
    tables: dict[Identifier, TableSpec] = Field(min_length=1)
