"""Gather what is known about a model from lake, ledger, registry and router; what does not answer is named."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeVar

from include.errors import NotFoundError, TradewindError
from include.lake.files import read_bytes
from include.lake.listing import list_files
from include.plan.facts import Champion, Facts, PastDecision, PastTraining
from include.progress.read import read_progress
from include.registry.models import CHAMPION, get_alias
from include.retraining.decision import History
from include.retraining.record import KIND, load_history
from include.rollout.local import read_state
from include.training.result import RESULT_FILE

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from include.lake.storage import Storage
    from include.progress.read import Sources
    from include.registry.models import ModelVersion
    from include.rollout.ledger import Entry, Ledger
    from include.spec import ModelSpec

_Answer = TypeVar("_Answer")


def read_facts(*, spec: ModelSpec, sources: Sources, now: datetime) -> Facts:
    """Return what is known about a model now."""
    progress = read_progress(spec=spec, sources=sources, now=now)
    silent: list[str] = []
    storage, ledger = sources.storage, sources.ledger
    history = _ask(silent, "lake or ledger", lambda: _history(spec=spec, storage=storage, ledger=ledger))
    trainings = _ask(silent, "lake", lambda: read_trainings(model=spec.name, storage=storage))
    serving = _ask(silent, "ledger", lambda: ledger.takeover(spec.name, until=ledger.position_at(now)))
    decision = _ask(silent, "ledger", lambda: _newest_decision(ledger, model=spec.name))
    registered = routes = None
    if sources.tracking_uri and not _is_silent("MLflow", progress.silent):
        uri = sources.tracking_uri
        registered = _ask(silent, "MLflow", lambda: get_alias(uri, model=spec.name, alias=CHAMPION))
    if sources.server and spec.rollout.target == "local" and not _is_silent("model server", progress.silent):
        server = sources.server
        routes = _ask(silent, "model server", lambda: read_state(server.get_routes(model=spec.name)))
    every = (*progress.silent, *silent)
    is_known = not _is_silent("MLflow", every)
    return Facts(
        spec=spec,
        progress=progress,
        history=history,
        champion=_champion(registered, version=None if is_known else progress.champion, serving=serving),
        is_champion_known=is_known,
        decision=decision,
        trainings=trainings,
        routes=routes,
        silent=every,
    )


def read_trainings(*, model: str, storage: Storage) -> tuple[PastTraining, ...]:
    """Return what a model's finished trainings took, oldest first.

    Results of other releases count too, so only what is needed here is read of them; a damaged one is left out.

    Raises:
        ServiceError: The object store does not answer.
    """
    found = []
    for file in list_files(storage.job(model, ""), storage=storage):
        folder, _, name = file.uri.rpartition("/")
        if name == RESULT_FILE:
            training = _training(folder, storage=storage)
            found += [training] if training else []
    return tuple(training for _, training in sorted(found, key=lambda item: item[0]))


def _training(folder: str, *, storage: Storage) -> tuple[int, PastTraining] | None:
    try:
        result = json.loads(read_bytes(f"{folder}/{RESULT_FILE}", storage=storage))
        training = PastTraining(
            window_end=str(result["job_key"]).rpartition("-")[0],
            num_rows=result["num_train_rows"] + result["num_validation_rows"],
            num_epochs=len(result["epochs"]),
            seconds=float(sum(result["seconds"].values())),
            device=str(result["device"]),
        )
        return int(result["finished_at_ms"]), training
    except (NotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _history(*, spec: ModelSpec, storage: Storage, ledger: Ledger) -> History:
    try:
        return load_history(spec=spec, storage=storage, ledger=ledger)
    except NotFoundError:  # no table was ever published
        return History(published=())


def _newest_decision(ledger: Ledger, *, model: str) -> PastDecision | None:
    newest = ledger.newest(model, KIND)
    if newest is None:
        return None
    reasons: list[Any] = list(newest.evidence.get("reasons", ())) or ["no reason given"]
    return PastDecision(
        partition=newest.subject, verdict=str(newest.evidence["verdict"]), reason=str(reasons[0]), at=newest.at
    )


def _champion(registered: ModelVersion | None, *, version: str | None, serving: Entry | None) -> Champion | None:
    """Return the registry's champion, or without the registry the ledger's `version`."""
    found = registered.version if registered else version
    if found is None:
        return None
    is_his = serving is not None and serving.evidence.get("champion") == found
    return Champion(
        version=found,
        since=serving.at if serving and is_his else None,
        window_end=registered.tags.get("window_end") if registered else None,
    )


def _ask(silent: list[str], name: str, question: Callable[[], _Answer]) -> _Answer | None:
    try:
        return question()
    except TradewindError as error:
        silent.append(f"{name}: {error}")
        return None


def _is_silent(part: str, silent: tuple[str, ...]) -> bool:
    return any(text.startswith(part) for text in silent)
