"""`retention`: how long what nothing needs any more is kept."""

from __future__ import annotations

from pydantic import Field

from include.spec.fields import Frozen


class RetentionSpec(Frozen):
    """Days after which something old is removed, unless something still needs it; null: never."""

    landing_days: int | None = Field(
        default=None, gt=0, description="Landed files of published partitions; without them nothing can be replayed."
    )
    history_days: int | None = Field(default=30, gt=0, description="Table versions that nothing pins.")
    predictions_days: int | None = Field(default=400, gt=0, description="Files of the prediction log.")
    reports_days: int | None = Field(default=400, gt=0, description="Data Docs and drift reports.")
    quarantine_days: int | None = Field(default=400, gt=0, description="Rows that failed validation.")
    trainings_days: int | None = Field(
        default=90, gt=0, description="Training jobs, checkpoints and snapshots of versions that are gone."
    )
    versions_days: int | None = Field(default=365, gt=0, description="Registered versions and their MLflow runs.")
    min_versions: int = Field(default=5, ge=1, description="Newest versions that are kept whatever their age.")
    runs_days: int | None = Field(default=180, gt=0, description="Airflow's Dag runs and their task logs.")
