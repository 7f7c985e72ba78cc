from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator

from include import partitions
from include.spec import load_spec
from operators.hooks.lake import LakeHook

if TYPE_CHECKING:
    from collections.abc import Sequence

    from include.lake.storage import Storage
    from include.spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What an operator works on: a partition of a model, and where its files are."""

    spec: ModelSpec
    storage: Storage
    partition: str


class PartitionOperator(BaseOperator):
    """What all operators on one partition of one model share: their arguments, and what those stand for.

    Args:
        model: Folder of the model below `include/models`.
        partition: Key of the partition; by default the Dag run's.
        lake_conn_id: Connection of the lake.
    """

    template_fields: ClassVar[Sequence[str]] = ("partition",)

    def __init__(
        self,
        *,
        model: str,
        partition: str = "{{ dag_run.partition_key }}",
        lake_conn_id: str = LakeHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.partition = partition
        self.lake_conn_id = lake_conn_id

    def subject(self) -> Subject:
        """Return the spec, the storage and the checked partition key.

        Raises:
            NotFoundError: There is no such model.
            PartitionError: The partition key is missing or names no partition.
        """
        spec = load_spec(self.model)
        return Subject(
            spec=spec,
            storage=LakeHook(self.lake_conn_id).get_conn(),
            partition=partitions.require(self.partition, source=spec.source, model=spec.name),
        )

    def say_if_nothing_stored(self, spec: ModelSpec) -> None:
        """Log that a model without store features leaves this stage nothing to do."""
        if not spec.features.store:
            self.log.info("%s has no features.store: nothing to build, materialize or compare", spec.name)
