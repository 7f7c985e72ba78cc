"""Tradewind's errors: one class per remedy.

    TradewindError
    ├── SpecError               fix model.yaml
    ├── BadInputError           the caller sends something else
    │   ├── PartitionError      name a partition that exists
    │   └── SchemaError         the upstream system delivers other columns, types or bytes
    ├── DataQualityError        look at the quarantine and the Data Docs, then land the partition again
    ├── CorruptArtifactError    restore or rebuild the artifact; its digest does not match
    │   └── UnsignedError       sign the artifact, if it is what it should be
    ├── GateError               a measured value is worse than the spec allows; the model stays out
    ├── InconclusiveError       not enough evidence; gather more or decide by hand
    ├── NotFoundError           the thing named does not exist
    ├── TrainingError           the trainer said why; its exit code says who is at fault
    │   └── InterruptionError   nothing: a machine or a stop ended it, and the next try goes on at the newest checkpoint
    ├── ServiceError            a server that should answer does not; retry
    │   └── OverloadError       it has too much to do; send less, or wait, then retry
    └── SetupError              the machine or an earlier run is in the way; the message names the remedy

Each message reads: *Subject, limit with unit; got value. State left behind. Next step.*
"""


class TradewindError(Exception):
    """Base of every error that Tradewind raises on purpose."""


class SpecError(TradewindError):
    """A model.yaml that cannot be used: names file, field, what it got, what is allowed, and the nearest match."""


class BadInputError(TradewindError):
    """An argument or a request that cannot be used."""


class PartitionError(BadInputError):
    """A partition key that is missing, malformed or unknown."""


class SchemaError(BadInputError):
    """Landed files that are not what the spec declares."""


class DataQualityError(TradewindError):
    """A critical expectation failed; nothing downstream has seen the partition."""


class CorruptArtifactError(TradewindError):
    """Bytes that do not match their recorded digest or cannot be parsed."""


class UnsignedError(CorruptArtifactError):
    """An artifact for which nobody vouches who is trusted."""


class GateError(TradewindError):
    """A gate measured a value that the spec does not allow."""


class InconclusiveError(TradewindError):
    """A gate could not measure enough to decide."""


class NotFoundError(TradewindError):
    """A model, version, table or run that does not exist."""


class TrainingError(TradewindError):
    """Training ended without a usable result."""


class InterruptionError(TrainingError):
    """A training was ended from outside, through no fault of its own."""


class ServiceError(TradewindError):
    """A server did not answer as its contract says."""


class OverloadError(ServiceError):
    """A server was asked for more at once than it takes; `retry_after_s` seconds later it may have room."""

    retry_after_s: float = 1.0


class SetupError(TradewindError):
    """The machine, its ports or an earlier run prevent starting."""
