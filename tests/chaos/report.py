"""What a run under kills came to, as JSON and as a table."""

from __future__ import annotations

import os
import platform
import statistics
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from include.demo.flights import MODEL
from include.demo.state import serving_state, table_digests
from include.drift.served import SHADOW
from include.features.store import content_hash, open_store
from include.rollout.ledger import Ledger
from include.spec import load_spec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from include.demo.loop import Loop
    from include.runtime.services import Deployment
    from tests.chaos.killer import Kill


def end_state(deployment: Deployment) -> dict[str, object]:
    """Return everything that must not depend on what was killed, by name."""
    spec, storage = load_spec(MODEL), deployment.home.storage
    server = deployment.model_server()
    serving = serving_state(spec=spec, deployment=deployment, server=server)
    ledger = Ledger(path=deployment.home.ledger)
    ledger.verify()
    decisions = {e.subject: e.evidence["verdict"] for e in ledger.entries(MODEL, "retrain_decision")}
    return {
        **{f"table {name}": digest for name, digest in table_digests(spec=spec, storage=storage).items()},
        "online store": content_hash(open_store(spec=spec, storage=storage), spec),
        "retraining decisions": decisions,
        "routes": serving["routes"],
        **{f"{alias}: version, window, model bytes": serving[alias] for alias in ("champion", "challenger")},
    }


def requests(loop: Loop) -> dict[str, int]:
    """Return what the callers saw, and how many of their answers the prediction log lacks."""
    import pyarrow.compute as pc
    import pyarrow.dataset as ds

    deployment = loop.deployment
    deployment.model_server().flush()
    answered, num_logged = sum(sum(traffic.num_answers.values()) for traffic in loop.traffic.values()), 0
    if answered:
        log = ds.dataset(deployment.home.storage.predictions(MODEL), format="parquet")
        logged = log.to_table(columns=["request_id"], filter=pc.field("role") != SHADOW)
        num_logged = pc.count_distinct(logged["request_id"]).as_py()
    return {
        "answered": answered,
        "asked_again": sum(traffic.num_repeats for traffic in loop.traffic.values()),
        "never_answered": sum(sum(traffic.num_errors.values()) for traffic in loop.traffic.values()),
        "answered_but_not_logged": answered - num_logged,
    }


def compare(undisturbed: Mapping[str, object], killed: Mapping[str, object]) -> dict[str, bool]:
    """Return for each thing whether both runs ended with the same."""
    return {name: undisturbed.get(name) == killed.get(name) for name in sorted({*undisturbed, *killed})}


def summary(kills: Iterable[Kill]) -> dict[str, dict[str, Any]]:
    """Return, for each kind of victim, how many were killed and how long they took to work again."""
    by_kind: dict[str, list[Kill]] = {}
    for kill in kills:
        by_kind.setdefault(kill.kind, []).append(kill)
    return {kind: _summary(of_kind) for kind, of_kind in sorted(by_kind.items())}


def _summary(kills: list[Kill]) -> dict[str, Any]:
    seconds = [kill.recovered_s for kill in kills if kill.recovered_s is not None]
    return {
        "kills": len(kills),
        "recovered": len(seconds),
        "recovery_s": {"median": round(statistics.median(seconds), 1), "max": max(seconds)} if seconds else None,
    }


def machine() -> dict[str, Any]:
    """Return what the seconds depend on."""
    return {"num_cores": os.cpu_count(), "architecture": platform.machine(), "python": platform.python_version()}


def tables(run: Mapping[str, Any]) -> tuple[Table, Table]:
    """Return the kills by kind of victim, and what was compared."""
    kills = Table("victim", "kills", "worked again", "median s", "longest s", box=box.SIMPLE_HEAD)
    for kind, found in run["victims"].items():
        took = found["recovery_s"] or {"median": float("nan"), "max": float("nan")}
        kills.add_row(kind, str(found["kills"]), str(found["recovered"]), f"{took['median']:.1f}", f"{took['max']:.1f}")
    compared = Table("compared with the undisturbed run", "", box=box.SIMPLE_HEAD)
    for name, is_equal in run["equal"].items():
        compared.add_row(name, "equal" if is_equal else "DIFFERENT")
    return kills, compared
