"""`source`: where a model's rows come from, and when."""

from __future__ import annotations

from typing import Literal
from zoneinfo import ZoneInfo, available_timezones

from pydantic import Field, field_validator, model_validator

from include.partitions import EXAMPLES, Grain, calendar_parts, grain_of
from include.spec.cron import DEFAULTS, cron_fault
from include.spec.errors import nearest
from include.spec.fields import ColumnType, Frozen, Identifier, PartitionKey


class TableSpec(Frozen):
    """One file of a landed partition and the Delta table that it becomes."""

    file: str = Field(description="File name inside the partition's landing folder; CSV, optionally .gz.")
    null_values: tuple[str, ...] = Field(default=("",), strict=False, description="Texts that mean: no value.")
    primary_key: tuple[str, ...] = Field(min_length=1, strict=False, description="Columns that name a row.")
    columns: dict[str, ColumnType] = Field(min_length=1, description="Every column of the file, with its type.")
    partition_columns: tuple[str, ...] = Field(
        default=(),
        max_length=4,
        strict=False,
        description="Columns of a row's local year and month, and of its day and hour by the grain; none: not checked.",
        examples=[["year", "month"]],
    )

    @model_validator(mode="after")
    def _keys_exist(self) -> TableSpec:
        for key, names in (("primary_key", self.primary_key), ("partition_columns", self.partition_columns)):
            for name in names:
                if name not in self.columns:
                    raise ValueError(f"{key} names {name!r}, which is no column; {nearest(name, list(self.columns))}")
        if {self.columns[name] for name in self.partition_columns} - {"int64"}:
            raise ValueError(f"partition_columns must name int64 columns; got {list(self.partition_columns)}")
        return self


class SourceSpec(Frozen):
    """Where the model's rows come from and when."""

    grain: Grain = Field(default="month", description="What a partition is; weeks are ISO weeks, hours are of UTC.")
    timezone: str = Field(
        description="Zone in which a partition starts and ends; UTC for hours.", examples=["America/New_York", "UTC"]
    )
    cron: str | None = Field(
        default=None,
        description="When a partition's files are waited for, in the source's zone; by default when it has ended.",
        examples=list(DEFAULTS.values()),
    )
    first_partition: PartitionKey = Field(description="First partition.", examples=list(EXAMPLES.values()))
    last_partition: PartitionKey | None = Field(default=None, description="Last partition, when the source ends.")
    clock: Literal["wall", "replay"] = Field(
        default="wall",
        description="wall: a materialization is available once published. replay: history is run again, and a "
        "materialization is available `availability_delay_s` after its partition ended.",
    )
    availability_delay_s: int = Field(default=0, ge=0, description="Seconds from a partition's end to its features.")
    marker: str = Field(default="_SUCCESS", description="File that is written last by whoever lands a partition.")
    poke_interval_s: float = Field(default=60, gt=0, description="Seconds between two looks for the marker.")
    wait_timeout_s: int = Field(default=7 * 86400, gt=0, description="Seconds to wait for a partition's marker.")
    tables: dict[Identifier, TableSpec] = Field(min_length=1, description="Tables by name, one file each.")

    @property
    def schedule(self) -> str:
        """When a partition's run starts, as a cron expression in the source's zone."""
        return self.cron or DEFAULTS[self.grain]

    @field_validator("timezone")
    @classmethod
    def _zone_exists(cls, timezone: str) -> str:
        try:
            ZoneInfo(timezone)
        except (KeyError, ValueError, OSError) as error:
            close = nearest(timezone, sorted(available_timezones())).rpartition(".")[2].strip()
            raise ValueError(f"must be a time zone of the IANA database, such as America/New_York. {close}") from error
        return timezone

    @model_validator(mode="after")
    def _fits_its_grain(self) -> SourceSpec:
        for key in (self.first_partition, self.last_partition):
            if key and grain_of(key) != self.grain:
                raise ValueError(f"partitions of grain {self.grain} look like {EXAMPLES[self.grain]}; got {key!r}")
        if self.last_partition and self.last_partition < self.first_partition:
            raise ValueError(f"last_partition {self.last_partition} must not be before {self.first_partition}")
        if self.grain == "hour" and self.timezone != "UTC":
            raise ValueError(f"grain hour needs timezone UTC, where each hour comes once a day; got {self.timezone!r}")
        first_year = int(self.first_partition[:4])
        if fault := cron_fault(self.schedule, grain=self.grain, timezone=self.timezone, first_year=first_year):
            raise ValueError(f"cron {fault}")
        return self

    @model_validator(mode="after")
    def _columns_fit_the_grain(self) -> SourceSpec:
        wanted = len(calendar_parts(self.first_partition))
        for name, table in self.tables.items():
            if table.partition_columns and len(table.partition_columns) != wanted:
                columns = ", ".join(("year", "month", "day", "hour")[:wanted]) or "no columns"
                raise ValueError(
                    f"partition_columns of table {name!r} must name those of {columns} for grain {self.grain}; got "
                    f"{list(table.partition_columns)}"
                )
        return self
