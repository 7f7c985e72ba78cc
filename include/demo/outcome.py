"""What the loop came to, read back from where the stages left it: lake, registry, ledger, Airflow."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from include.demo.flights import MODEL
from include.errors import ServiceError
from include.features.examples import load_examples
from include.lake.tables import read_table, table_exists
from include.registry.models import list_versions
from include.registry.package import METRICS, read_package
from include.rollout.ledger import Ledger
from include.spec import load_spec
from include.tasks import task_of
from include.tasks.outputs import repeat
from include.training.evaluate import measure

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from include.demo.loop import Loop
    from include.demo.traffic import Traffic
    from include.lake.storage import Storage
    from include.rollout.ledger import Entry
    from include.runtime.services import Deployment

SERVING_KINDS = ("bootstrap", "shadow", "canary_step", "promote", "roll_back")


@dataclass(frozen=True, kw_only=True)
class Month:
    """One month's way through the loop.

    Args:
        key: Partition key.
        num_rows: Rows by published table.
        num_quarantined: Rows set aside.
        num_entities: Entities whose features were materialized.
        is_parity_checked: Whether offline and online store were found equal.
        num_requests: Answered requests by model version.
        loss: Of the champion's served predictions against the late labels; None without any.
        baseline_loss: Of the training window's constant answer on the same rows.
        verdict: What monitoring decided.
        reasons: Why.
    """

    key: str
    num_rows: Mapping[str, int]
    num_quarantined: int
    num_entities: int
    is_parity_checked: bool
    num_requests: Mapping[str, int]
    loss: float | None
    baseline_loss: float | None
    verdict: str
    reasons: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One version, or a constant, on the labelled rows of one month."""

    name: str
    num_rows: int
    loss: float
    auc: float | None


@dataclass(frozen=True, kw_only=True)
class Version:
    """One registered version: its window, and what its package says of it."""

    version: str
    window: tuple[str, str]
    metrics: Mapping[str, Any]


def collect_months(deployment: Deployment, loop: Loop) -> list[Month]:
    """Return what happened to each month of a finished loop."""
    storage = deployment.home.storage
    counts = {table: _rows_by_partition(storage, table) for table in (*load_spec(MODEL).source.tables, "quarantine")}
    features = {event["partition_key"]: event["extra"] for event in loop.events("features")}
    performance = {row["partition"]: row for row in _rows(storage, "performance") if row["is_champion"]}
    decisions = {entry.evidence["partition"]: entry for entry in _entries(deployment, "retrain_decision")}
    months = []
    for key in loop.months:
        served, decided = performance.get(key, {}), decisions[key].evidence
        traffic = loop.traffic.get(key)
        months.append(
            Month(
                key=key,
                num_rows={table: found[key] for table, found in counts.items() if table != "quarantine"},
                num_quarantined=counts["quarantine"][key],
                num_entities=features.get(key, {}).get("num_entities", 0),
                is_parity_checked=key in features,
                num_requests=dict(traffic.num_answers) if traffic else {},
                loss=served.get("loss"),
                baseline_loss=served.get("baseline_loss"),
                verdict=decided["verdict"],
                reasons=tuple(decided["reasons"]),
            )
        )
    return months


def collect_versions(deployment: Deployment) -> list[Version]:
    """Return the registered versions, oldest first."""
    versions = []
    for found in sorted(list_versions(deployment.mlflow_url, model=MODEL), key=lambda item: int(item.version)):
        package = read_package(found.source, storage=deployment.home.storage)
        window = (found.tags["window_start"], found.tags["window_end"])
        versions.append(Version(version=found.version, window=window, metrics=package.json(METRICS)))
    return versions


def serving_entries(deployment: Deployment) -> list[Entry]:
    """Return the ledger's entries about traffic, oldest first, after checking every link of its chain."""
    Ledger(path=deployment.home.ledger).verify()
    return [entry for entry in _entries(deployment) if entry.kind in SERVING_KINDS]


def compare_versions(loop: Loop, *, month: str, versions: Iterable[Version]) -> list[Compared]:
    """Score a month with each version through the batch-scoring Dag, and return all beside the constant base rate."""
    import numpy as np

    storage, spec = loop.deployment.home.storage, load_spec(MODEL)
    task = task_of(spec)
    examples = load_examples(spec=spec, storage=storage, partitions=(month,)).to_pylist()
    label_by_id = {row["example_id"]: row["label"] for row in examples if row["label"] is not None}
    compared = []
    for version in versions:
        loop.score(month=month, version=version.version)
        scores = [row for row in _rows(storage, "scores", month) if row["example_id"] in label_by_id]
        label_B = np.array([label_by_id[row["example_id"]] for row in scores], dtype=float)
        own_B = np.array([row[task.output] for row in scores])
        constant_B = repeat(version.metrics["baseline"][task.output], num_rows=len(own_B))
        named = {f"v{version.version}": own_B, f"base rate of v{version.version}": constant_B}
        for name, predicted_B in named.items():
            found: Any = measure(task=task, label_B=label_B, predicted_BK=predicted_B)
            compared.append(Compared(name=name, num_rows=len(label_B), loss=found["loss"], auc=found["auc"]))
    return compared


def require_complete(
    *,
    months: Sequence[Month],
    versions: Sequence[Version],
    entries: Sequence[Entry],
    reports: Collection[str],
    champion: str | None,
) -> None:
    """Raise unless each stage left what the closing tables claim.

    Args:
        months: From `collect_months`.
        versions: From `collect_versions`.
        entries: From `serving_entries`.
        reports: Months of which a drift report exists.
        champion: Version that the model server routes.

    Raises:
        ServiceError: Something is missing, worse than the base rate, or was rolled back without a measured reason.
    """
    problems = [
        f"{month.key} has no rows or no checked features"
        for month in months
        if not all(month.num_rows.values()) or not month.is_parity_checked
    ]
    problems += [
        f"{m.key} fired and has no drift report" for m in months if m.verdict == "retrain" and m.key not in reports
    ]
    trained = sum(month.verdict in ("bootstrap", "retrain") for month in months)
    if len(versions) < min(trained, 1):
        problems.append(f"{trained} trainings were decided on and none registered a version")
    for version in versions:
        own, constant = version.metrics["validation"]["loss"], version.metrics["baseline"]["loss"]
        if own >= constant:
            problems.append(f"v{version.version} has log loss {own:.4f}, the base rate {constant:.4f}")
    takeovers = [entry.evidence["champion"] for entry in entries if entry.kind in ("bootstrap", "promote")]
    if versions and (not takeovers or champion != takeovers[-1]):
        problems.append(f"the ledger names champion {takeovers[-1:]}, the server routes {champion}")
    problems += [
        f"v{entry.subject} was rolled back without a measured reason"
        for entry in entries
        if entry.kind == "roll_back" and not entry.evidence.get("decided_by")
    ]
    if problems:
        raise ServiceError(f"each stage must do what the tables say; got: {'; '.join(problems)}. See the logs.")


def to_document(*, months: list[Month], versions: list[Version], compared: list[Compared]) -> dict[str, Any]:
    """Return the outcome as JSON-able values, without what is long."""
    return {
        "months": [asdict(month) for month in months],
        "versions": [
            {
                "version": item.version,
                "window": item.window,
                **{name: item.metrics[name] for name in ("validation", "baseline", "trees", "champion", "compression")},
            }
            for item in versions
        ],
        "same_month": [asdict(item) for item in compared],
    }


def latency_ms(traffic: Iterable[Traffic]) -> dict[str, float]:
    """Return the median and the 99th percentile over all requests, as the callers saw them."""
    import numpy as np

    sample = [value for item in traffic for value in item.latencies_ms]
    return {name: float(np.percentile(sample, q)) for name, q in (("p50", 50), ("p99", 99))} if sample else {}


def _entries(deployment: Deployment, kind: str | None = None) -> list[Entry]:
    return Ledger(path=deployment.home.ledger).entries(MODEL, kind)


def _rows(storage: Storage, table: str, partition: str | None = None) -> list[dict[str, Any]]:
    uri = storage.table(MODEL, table)
    if not table_exists(uri=uri, storage_options=storage.options):
        return []
    chosen = (partition,) if partition else None
    return list(read_table(uri=uri, storage_options=storage.options, partitions=chosen).to_pylist())


def _rows_by_partition(storage: Storage, table: str) -> Counter[str]:
    uri = storage.table(MODEL, table)
    if not table_exists(uri=uri, storage_options=storage.options):
        return Counter()
    return Counter(read_table(uri=uri, storage_options=storage.options)["partition"].to_pylist())
