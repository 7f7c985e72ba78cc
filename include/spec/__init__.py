"""model.yaml as frozen objects: everything Tradewind may assume about a model is declared here.

Parsing a thousand of these must stay cheap: this package imports pydantic and yaml, reads one file, does nothing else.
"""

from include.spec.features import FeatureSpec, FeaturesSpec, LabelSpec, StoreViewSpec
from include.spec.fields import ColumnType, PartitionKey
from include.spec.limits import LimitsSpec
from include.spec.load import MODELS_DIR, load_spec, load_specs, model_names, parse_spec
from include.spec.model import SCHEMA_VERSION, ModelSpec
from include.spec.operation import DriftSpec, RetrainingSpec, RolloutSpec
from include.spec.progress import ProgressSpec
from include.spec.retention import RetentionSpec
from include.spec.source import SourceSpec, TableSpec
from include.spec.tasks import LossName, TaskName, loss_of
from include.spec.training import CompressionSpec, GatesSpec, GpuPodSpec, TrainingSpec

__all__ = [
    "MODELS_DIR",
    "SCHEMA_VERSION",
    "ColumnType",
    "CompressionSpec",
    "DriftSpec",
    "FeatureSpec",
    "FeaturesSpec",
    "GatesSpec",
    "GpuPodSpec",
    "LabelSpec",
    "LimitsSpec",
    "LossName",
    "ModelSpec",
    "PartitionKey",
    "ProgressSpec",
    "RetentionSpec",
    "RetrainingSpec",
    "RolloutSpec",
    "SourceSpec",
    "StoreViewSpec",
    "TableSpec",
    "TaskName",
    "TrainingSpec",
    "load_spec",
    "load_specs",
    "loss_of",
    "model_names",
    "parse_spec",
]
