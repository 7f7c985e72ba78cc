"""What remote work is called: one name for a task instance over all of its tries, so that two can never exist at once.

Kubernetes holds a name unique in its namespace: whoever asks for the same work a second time finds the first.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

MANAGED = {"app.kubernetes.io/managed-by": "tradewind", "app.kubernetes.io/component": "training"}
"""Labels of all remote work."""

_NAME_CHARS = 63
"""A Job's pods and a headless Service carry the name as a label, whose limit this is."""
_SUFFIX_CHARS = len("-node-0-999-abcde")
"""Left free for the names of pods: a Job adds `-<index>-<5 characters>`, before it JobSet `-<job>-<index>`."""
_HASH_CHARS = 12
_LABEL = re.compile(r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$")


@dataclass(frozen=True, kw_only=True)
class TaskKey:
    """One task instance, whatever its try.

    Attributes:
        dag_id: Its Dag.
        run_id: Its Dag run.
        task_id: The task.
        map_index: Of a mapped task; -1: not mapped.
    """

    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1


def remote_name(model: str, key: TaskKey, *, lake: str) -> str:
    """Return the name of a task instance's remote work, a DNS label.

    Args:
        model: The model.
        key: The task instance.
        lake: Root of the lake: another deployment may have the same task in the same namespace.

    >>> remote_name("flight_delays", TaskKey(dag_id="train", run_id="manual__1", task_id="train"), lake="s3://lake")
    'train-flight-delays-6d94c3e3f6bc'
    """
    joined = "\0".join((lake, key.dag_id, key.run_id, key.task_id, str(key.map_index)))
    digest = hashlib.sha256(joined.encode()).hexdigest()[:_HASH_CHARS]
    longest = _NAME_CHARS - _SUFFIX_CHARS - len("train--") - _HASH_CHARS
    stem = re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")[:longest].rstrip("-")
    return f"train-{stem}-{digest}"


def remote_labels(model: str, key: TaskKey, *, job_key: str, lake: str) -> dict[str, str]:
    """Return the labels of a task instance's remote work; values that are no label's are hashed.

    Args:
        model: The model.
        key: The task instance.
        job_key: Key of the job that it trains.
        lake: Root of the lake; see `lake_labels`.
    """
    names = {"tradewind/model": label_value(model), "tradewind/job": label_value(job_key)}
    return task_labels(key, lake=lake) | names


def task_labels(key: TaskKey, *, lake: str) -> dict[str, str]:
    """Return the labels by which a task instance finds its work, whatever that is called and trains."""
    return lake_labels(lake) | {
        "tradewind/dag": label_value(key.dag_id),
        "tradewind/run": label_value(key.run_id),
        "tradewind/task": label_value(key.task_id),
        "tradewind/map-index": label_value(str(key.map_index)) if key.map_index >= 0 else "none",
    }


def selector(labels: Mapping[str, str]) -> str:
    """Return labels as the API selects by them.

    >>> selector({"b": "2", "a": "1"})
    'a=1,b=2'
    """
    return ",".join(f"{name}={value}" for name, value in sorted(labels.items()))


def lake_labels(lake: str) -> dict[str, str]:
    """Return the labels of all work of one deployment, by which its janitor finds it: others may share the namespace.

    Args:
        lake: Root of the lake, which no other deployment has.
    """
    return MANAGED | {"tradewind/lake": hashlib.sha256(lake.encode()).hexdigest()[:_HASH_CHARS]}


def remote_annotations(key: TaskKey) -> dict[str, str]:
    """Return the annotations that say whose work it is, in full: labels may be hashed."""
    return {
        "tradewind/dag-id": key.dag_id,
        "tradewind/run-id": key.run_id,
        "tradewind/task-id": key.task_id,
        "tradewind/map-index": str(key.map_index),
    }


def task_of(annotations: Mapping[str, str]) -> TaskKey | None:
    """Return whose work it is by what `remote_annotations` wrote; None: nobody's."""
    try:
        return TaskKey(
            dag_id=annotations["tradewind/dag-id"],
            run_id=annotations["tradewind/run-id"],
            task_id=annotations["tradewind/task-id"],
            map_index=int(annotations["tradewind/map-index"]),
        )
    except (KeyError, ValueError):
        return None


def label_value(text: str) -> str:
    """Return text as a label's value: itself if it may be one, else its start and a hash.

    >>> label_value("2013-03-ab12")
    '2013-03-ab12'
    >>> label_value("manual__2013-03-01T00:00:00+00:00")
    'manual__2013-03-01T00-00-00-00-00-1d7dd4457e24'
    """
    if _LABEL.match(text):
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:_HASH_CHARS]
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", text)[: _NAME_CHARS - _HASH_CHARS - 1].strip("-._")
    return f"{stem}-{digest}" if stem else digest
